"""A single run whose disk cannot be written any more: it stops with a message, and its last good checkpoint is good."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import killing
import tiny
from finetricks import Recipe
from finetricks.catalog import installed
from finetricks.cli import main
from finetricks.errors import InputError
from finetricks.runner import run
from finetricks.storage import StorageError, storage_problem, telling
from killing import Kill, Kind, in_child
from recorded import may_mount

PLUGIN = Path(__file__).parent / "storage_tricks.py"
CHANGES = ("writing", "checkpoint")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_of(task: Path, **trick: str) -> Recipe:
    data = {"train": str(task / "train.csv"), "valid": 0.25}
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "threads": 1, "checkpoint": 2}
    catalog = installed().with_file(PLUGIN)
    tricks = [{"loses_its_disk": trick}]
    return Recipe(model=str(task / "model"), data=data, training=training, tricks=tricks, catalog=catalog)


def command(tmp_path: Path, recipe: Recipe, out: Path) -> list[str]:
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    return ["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--plugin", str(PLUGIN)]


def code_of(*arguments: str) -> object:
    try:
        return main([*arguments])
    except SystemExit as end:
        return end.code


def shell(script: str) -> None:
    subprocess.run(script, shell=True, check=True)


def may_mount_here() -> None:
    """Give this process, which has one thread, a user and a mount namespace of its own, as `unshare` does."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    for name, value in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(value)


def check_message(said: str, out: Path, reason: str) -> None:
    said = " ".join(said.split())
    assert (
        f"error: cannot write in {out}: {reason}. The run was stopped; nothing that was recorded is lost. Make room, "
        "or make it writable, and go on with --resume"
    ) in said
    assert "Traceback" not in said


def check_same(out: Path, recipe: Recipe, elsewhere: Path) -> None:
    """`out` holds to the bit what an undisturbed run gives."""
    run(recipe, elsewhere)
    for name in ("model/model.safetensors", "predictions/valid.csv"):
        assert (out / name).read_bytes() == (elsewhere / name).read_bytes()
    found, expected = (json.loads((folder / "result.json").read_text()) for folder in (out, elsewhere))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def steps_saved(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace")
@pytest.mark.parametrize(
    ("how", "mend", "reason"),
    [
        ("full", "rm {disk}/ballast", "No space left on device"),
        pytest.param("read_only", "mount -o remount,rw {disk}", "Read-only file system", marks=pytest.mark.nightly),
    ],
)
def test_a_disk_that_is_lost_stops_the_run_which_goes_on_to_the_same_bits(
    task: Path, tmp_path: Path, how: str, mend: str, reason: str
) -> None:
    disk, enough = tmp_path / "disk", tmp_path / "enough"
    disk.mkdir()
    recipe = recipe_of(task, how=how, disk=str(disk), enough=str(enough))
    arguments = command(tmp_path, recipe, disk / "out")

    def act() -> None:
        may_mount_here()
        shell(f"mount -t tmpfs -o size=8m tmpfs {disk}")
        with open(tmp_path / "said", "w") as said:
            os.dup2(said.fileno(), 2)
            sys.stderr = said
            first = code_of(*arguments)
        shell(f"ls {disk}/out/checkpoints > {tmp_path}/saved && {mend.format(disk=disk)} && touch {enough}")
        (tmp_path / "codes").write_text(f"{first} {code_of(*arguments, '--resume')}")
        shell(f"cp -r {disk}/out {tmp_path}/out")

    assert in_child(act, disk) == 0
    assert (tmp_path / "codes").read_text() == "1 0"
    check_message((tmp_path / "said").read_text(), disk / "out", reason)
    assert (tmp_path / "saved").read_text().split() == ["step-00000002", "step-00000004"]
    check_same(tmp_path / "out", recipe, tmp_path / "undisturbed")


def test_files_that_may_not_grow_are_as_good_as_a_full_disk(task: Path, tmp_path: Path) -> None:
    out, enough = tmp_path / "out", tmp_path / "enough"
    recipe = recipe_of(task, how="limit", disk="", enough=str(enough))

    def act() -> None:
        with open(tmp_path / "said", "w") as said:
            os.dup2(said.fileno(), 2)
            sys.stderr = said
            code = main(command(tmp_path, recipe, out))
        (tmp_path / "code").write_text(str(code))

    assert in_child(act, out) == 0
    assert (tmp_path / "code").read_text() == "1"
    check_message((tmp_path / "said").read_text(), out, "File too large")
    assert steps_saved(out) == ["step-00000002", "step-00000004"]
    enough.touch()
    run(recipe, out, resume=True)
    check_same(out, recipe, tmp_path / "undisturbed")


@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.nightly)])
def test_wherever_the_disk_is_full_the_run_goes_on_to_the_same_bits(tmp_path: Path, count: int) -> None:
    """Each time another of the changes that a run makes in its folder fails for want of room."""
    killing.warm_up()
    names = ("stlr", "gradual_unfreezing")
    recipe = killing.every.recipe(*names, checkpoint=3)
    whole = tmp_path / "whole"
    places = killing.whole(recipe, names, whole)
    writing = [index for index, place in enumerate(places) if place.kind.what in CHANGES]
    expected = killing.state(whole)
    for at in writing[len(writing) // (2 * count) :: -(-len(writing) // count)]:
        folder, said = tmp_path / f"at{at}", tmp_path / f"said{at}"

        def act(at: int = at, folder: Path = folder, said: Path = said) -> None:
            left = at

            def passed(kind: Kind, step: int, kill: Kill) -> None:
                nonlocal left
                left -= 1
                if left < 0 and kind.what in CHANGES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            killing.watch(folder, passed)
            try:
                killing.run(recipe, names, folder)
            except StorageError as error:
                said.write_text(error.reason)

        assert in_child(act, folder) == 0
        assert said.read_text() == "No space left on device", f"at {at} of {len(places)}"
        killing.resumed(recipe, names, folder)
        assert killing.differences(killing.state(folder), expected) == []
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(task: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises((StorageError, InputError), match="Permission denied"):
            run(recipe_of(task, how="limit", disk="", enough=str(PLUGIN)), tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize(("place", "wanted"), [("elsewhere", OSError), ("out/model", StorageError)])
def test_an_error_is_blamed_on_the_disk_where_its_file_lies(
    task: Path, tmp_path: Path, code: int, place: str, wanted: type[Exception]
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / place))

    recipe = recipe_of(task, how="limit", disk="", enough=str(PLUGIN))
    with pytest.raises(wanted, match=os.strerror(code)):
        run(recipe, tmp_path / "out", on_progress=fails)
    with pytest.raises(wanted), telling(tmp_path / "out"):
        fails()


def suppressed(tmp_path: Path) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    except OSError:
        raise ValueError("a bad value") from None


def of_a_trick(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    error.add_note("raised by trick 'x' of y in its hook 'init'")
    raise error


@pytest.mark.parametrize("fails", [suppressed, of_a_trick])
def test_what_was_handled_or_is_a_tricks_is_no_fault_of_the_runs_disk(tmp_path: Path, fails: Any) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        fails(tmp_path)
    assert storage_problem(error.value, tmp_path) == ""


def test_whoever_resumes_is_told_of_a_damaged_checkpoint(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe = recipe_of(task, how="limit", disk="", enough=str(PLUGIN))
    run(recipe, out, upto=0.6)
    (_, newest) = sorted((out / "checkpoints").iterdir())
    os.truncate(newest / "model.safetensors", 1000)
    with pytest.raises(SystemExit, match="^0$"):
        main([*command(tmp_path, recipe, out), "--resume"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"checkpoint {newest.name} is damaged (model.safetensors differs from the manifest); using the one" in said
    check_same(out, recipe, tmp_path / "undisturbed")
