"""Cells in TensorBoard, read back from its files; and what is said of loggers that cannot be used."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter  # noqa: F401  the format that is read below
from tensorboardX.proto.event_pb2 import Event

from finetricks.errors import InputError
from finetricks_tuning import loggers
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import Trial
from finetricks_tuning.loggers import CellLoggers, check_loggers


def events(folder: Path) -> list[Event]:
    """A TensorBoard file is a row of TFRecords: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def trial(**changed: object) -> Trial:
    given = {
        **{"key": "0123456789abcdef" * 4, "configuration": "stlr(ratio=10)", "factors": {}, "seed": 3},
        **{"tricks": {"stlr": {"ratio": 10.0}}, "status": "finished", "seconds": 2.5},
        "metrics": {"valid": {"accuracy": 0.75, "undefined": None}, "test": {"accuracy": 0.5}},
    }
    return Trial(**(given | changed))  # type: ignore[arg-type]


def ended(study: Path) -> Trial:
    """A cell that has ended, with two evaluations on its way."""
    place = cell_folder(study, trial().key)
    place.mkdir(parents=True)
    lines = [
        {"step": 4, "valid": {"accuracy": 0.25}, "train_loss": 1.5},
        {"step": 8, "valid": {"accuracy": 0.75}, "train_loss": None},
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trial()


def test_tensorboard_has_the_curves_the_results_and_the_recipe_of_a_cell(tmp_path: Path) -> None:
    CellLoggers(tmp_path, ["tensorboard"]).log(ended(tmp_path))
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert folder.name == "stlr_ratio=10_-seed3-01234567"
    found = events(folder)
    points = {(value.tag, event.step): value.simple_value for event in found for value in event.summary.value}
    assert points["ray/tune/valid/accuracy", 4] == 0.25
    assert points["ray/tune/train_loss", 4] == 1.5
    assert points["ray/tune/valid/accuracy", 8] == 0.75
    assert points["ray/tune/test/accuracy", 8] == 0.5
    assert points["ray/tune/seconds", 8] == 2.5
    assert not any("undefined" in tag for tag, _ in points)
    start = next(v for e in found for v in e.summary.value if v.tag == "_hparams_/session_start_info")
    assert b"stlr(ratio=10)" in start.metadata.plugin_data.content


def test_a_cell_that_failed_is_logged_too(tmp_path: Path) -> None:
    CellLoggers(tmp_path, ["tensorboard"]).log(trial(status="failed", metrics={}))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_logger_that_fails_is_said_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging_ = CellLoggers(tmp_path, ["tensorboard"])
    monkeypatch.setattr(loggers, "_log", lambda *given, **more: 1 / 0)
    with caplog.at_level(logging.WARNING):
        logging_.log(ended(tmp_path))
        logging_.log(trial(seed=4))
    assert [record.getMessage() for record in caplog.records] == [
        "the logger tensorboard fails and is left out from now on: division by zero"
    ]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_named_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))
    with pytest.raises(InputError, match=f"the logger {name} needs a package .*: pip install {name}"):
        check_loggers(["tensorboard", name])


def test_what_a_logger_cannot_do_without_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_key(study: Path) -> None:
        raise ValueError("No WandB API key found.")

    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: True)
    monkeypatch.setitem(loggers.MAKE, "wandb", no_key)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the logger wandb cannot be set up: No WandB API key found."):
        CellLoggers(tmp_path, ["wandb"])
