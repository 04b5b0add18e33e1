"""Checkpoints: whole or refused; a torn or altered one is passed over; opening one executes nothing."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from finetricks import CheckpointError
from finetricks.checkpoint import MANIFEST, STATE, WEIGHTS, Checkpoints, _facts


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


@pytest.mark.parametrize("name", [WEIGHTS, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_one_is_passed_over_with_a_message(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    path = checkpoints.save(2, state(2)) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] if damage == "truncate" else content[:middle] + b"\xff" + content[middle + 1 :]
        )
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest()["global_step"] == 1
    assert "step-00000002 is damaged" in caplog.text


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


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    folder = checkpoints.save(1, state(1))
    torch.save({"x": Attack()}, folder / STATE)
    import json

    (folder / MANIFEST).write_text(json.dumps({name: _facts(folder / name) for name in (WEIGHTS, STATE)}))
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.newest()
    assert not (tmp_path / "owned").exists()
