"""Checkpoints: whole or refused; a torn or altered one is passed over; opening one executes nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import Attack
from finetricks import CheckpointError, checkpoint
from finetricks.checkpoint import MANIFEST, STATE, WEIGHTS, Checkpoints, write_manifest


def state(step: int) -> dict:
    weight = torch.full((3,), float(step))
    return {"model": {"a": weight, "tied": weight, "b": torch.zeros(())}, "global_step": step, "tricks": {"x": {}}}


def test_what_is_saved_is_given_back_tied_weights_included(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    checkpoints.save(7, state(7))
    back = checkpoints.newest()
    assert back["global_step"] == 7
    assert {name: tensor.tolist() for name, tensor in back["model"].items()} == {
        "a": [7.0] * 3,
        "tied": [7.0] * 3,
        "b": 0.0,
    }


def test_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10, 15, 100):
        checkpoints.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000015", "step-00000100"]


def remove(path: Path) -> None:
    path.unlink()


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent")


def truncate(to: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(to * path.stat().st_size))


def flip(at: float) -> Callable[[Path], None]:
    """Turn one bit, that far into the file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES = {
    "removed": remove,
    "folder": become_a_folder,
    "link": become_a_link_to_nothing,
    **{f"truncated to {part:.0%}": truncate(part) for part in (0, 0.05, 0.5, 0.99)},
    **{f"flipped at {part:.0%}": flip(part) for part in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1)},
}
OF_MANIFEST = {
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "empty object": "{}",
    "wrong types": json.dumps({WEIGHTS: 3, STATE: [1]}),
    "wrong facts": json.dumps({name: {"bytes": "x", "sha256": None} for name in (WEIGHTS, STATE)}),
    "no utf-8": "\udcff",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            pytest.param(name, act, id=f"{name} {how}")
            for name in (WEIGHTS, STATE, MANIFEST)
            for how, act in DAMAGES.items()
        ),
        *(
            pytest.param(
                MANIFEST,
                lambda path, text=text: path.write_text(text, errors="surrogateescape"),
                id=f"manifest is {how}",
            )
            for how, text in OF_MANIFEST.items()
        ),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_message(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    damage(checkpoints.save(2, state(2)) / name)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest()["global_step"] == 1
    assert "step-00000002 is damaged" in caplog.text
    assert "using the one before" in caplog.text


@pytest.mark.parametrize("step", [2, 3])
def test_one_that_was_passed_over_is_not_among_those_that_are_kept(tmp_path: Path, step: int) -> None:
    """A run that goes on from the one before saves anew; were the damaged one counted, only one whole one were left."""
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 4):
        checkpoints.save(number, state(number))
    remove(tmp_path / "step-00000004" / WEIGHTS)
    checkpoints.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", f"step-{step:08d}"]
    assert checkpoints.newest()["global_step"] == step


def test_more_than_two_can_be_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=4)
    for step in range(1, 7):
        checkpoints.save(step, state(step))
        assert checkpoints.steps() == list(range(max(step - 3, 1), step + 1))


CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
)


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        *((checkpoint, "_facts", OSError(code, os.strerror(code))) for code in (errno.EIO, errno.EMFILE, errno.EACCES)),
        (torch, "load", RuntimeError(CPU_MEMORY)),
        (torch, "load", MemoryError()),
        (checkpoint, "load_file", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    ],
)
def test_one_that_cannot_be_read_at_the_moment_is_neither_damaged_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(step))
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(module, name, fails)
        checkpoints.newest()
    assert checkpoints.newest()["global_step"] == 2
    Checkpoints(tmp_path).save(1, state(1))
    assert checkpoints.steps() == [1, 2]


def test_what_others_put_beside_it_is_no_damage(tmp_path: Path) -> None:
    (Checkpoints(tmp_path).save(1, state(1)) / ".DS_Store").write_bytes(b"1")
    (tmp_path / "step-00000001" / "notes.txt").write_bytes(b"1")
    (tmp_path / "step-2 (copy)").mkdir()
    (tmp_path / "step-00000003").write_text("a file")
    assert Checkpoints(tmp_path).newest()["global_step"] == 1


def test_when_none_is_whole_nothing_is_pretended(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.save(1, state(1)) / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole"):
        checkpoints.newest()


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / WEIGHTS).write_bytes(b"half")
    assert checkpoints.newest()["global_step"] == 1
    checkpoints.save(2, state(2))
    assert checkpoints.newest()["global_step"] == 2


def test_it_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, then the folder that names them, then the rename, then the folder above: or a power cut leaves half."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path}/"))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"to {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(Path, "rename", renamed)
    Checkpoints(tmp_path / "checkpoints").save(1, state(1))
    partial = "checkpoints/.step-00000001.partial"
    assert done == [
        *(f"{partial}/{name}" for name in (WEIGHTS, STATE, MANIFEST)),
        partial,
        "to step-00000001",
        "checkpoints",
        str(tmp_path),
    ]


@pytest.mark.parametrize("at", range(9))
def test_a_disk_that_is_full_at_any_write_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The write of that number fails, after half of it: of weights, state and manifest, and each flush and rename."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state(1))
    writes = 0

    def failing(act: Callable[..., Any], path_of: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes <= at:
                return act(*args, **kwargs)
            if (path := path_of(*args)) is not None:
                Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return maybe

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", failing(checkpoint.save_file, lambda _, path: path))
        patch.setattr(torch, "save", failing(torch.save, lambda _, path: path))
        patch.setattr(Path, "write_text", failing(Path.write_text, lambda path, _: path))
        patch.setattr(Path, "rename", failing(Path.rename, lambda *_: None))
        patch.setattr(os, "fsync", failing(os.fsync, lambda _: None))
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(2, state(2))
    assert checkpoints.newest()["global_step"] == (1 if at < 8 else 2)
    checkpoints.save(3, state(3))
    assert checkpoints.newest()["global_step"] == 3
    assert not list((tmp_path / "checkpoints").glob(".*"))


def forged(folder: Path, **files: bytes) -> None:
    """Put other content into a checkpoint, with a manifest that says it belongs there."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, (WEIGHTS, STATE), MANIFEST)


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_malicious_pickle_is_not_executed(tmp_path: Path, name: str, form: str) -> None:
    attack = Attack(tmp_path / "owned")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    forged(checkpoints.save(1, state(1)), **{name: attack.as_file(form)})
    with pytest.raises(CheckpointError, match="is whole"):
        checkpoints.newest()
    attack.check_harmless_but_armed(checkpoints.folder / "step-00000001" / name)


@pytest.mark.parametrize("content", [[], 7, {"aliases": 3}, {"aliases": {"a": "nowhere"}}, {}])
def test_one_that_somebody_else_made_is_said_to_be_none(tmp_path: Path, content: Any) -> None:
    folder = Checkpoints(tmp_path / "checkpoints").save(1, state(1))
    torch.save(content, tmp_path / "state")
    forged(folder, **{STATE: (tmp_path / "state").read_bytes()})
    with pytest.raises(CheckpointError, match="not one of finetricks"):
        Checkpoints(tmp_path / "checkpoints").newest()
