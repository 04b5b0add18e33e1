"""Studies that decide what to run next, killed in the middle: they go on to the same decisions and the same results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.yaml_file import dump_yaml
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.summary import LEDGER, summarise
from recorded import PLUGIN, study_dict

pytestmark = pytest.mark.waits

PROGRAM = "import sys; from finetricks.cli import main; sys.exit(main(sys.argv[1:]))"

DECIDING: dict[str, dict[str, Any]] = {
    "rates tuned, seeds for the undecided, the winner confirmed": {
        "tune_learning_rate": {"values": [1e-3, 1e-2], "seeds": 1},
        "strategy": "sequential",
        "seeds": 3,
        "confirm": 2,
    },
    "search": {
        "factors": ["stlr", {"training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}],
        "design": {"search": {"configurations": 4, "at_once": 2, "startup": 2}},
        "seeds": 2,
    },
    "seed_search": {"factors": [], "design": {"seed_search": {"stop_at": 0.5, "keep": 2}}, "seeds": 5},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def sweep_command(given: dict[str, Any], out: Path, *more: str) -> list[str]:
    path = out.with_suffix(".yaml")
    path.write_text(dump_yaml(given))
    return [sys.executable, "-c", PROGRAM, "sweep", str(path), "--out", str(out), "--plugin", str(PLUGIN), *more]


def swept(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr


def killed(command: list[str], ledger: Path, lines: int) -> None:
    """Kill a sweep once its ledger has so many lines."""
    deadline = time.monotonic() + 300
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not ledger.exists() or len(ledger.read_text().splitlines()) < lines:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()


def results(out: Path) -> dict[str, Any]:
    trials, problems = Ledger(out / LEDGER).read()
    assert problems == []
    return {key: (trial.status, trial.metrics) for key, trial in trials.items()}


FIRST, *OTHERS = DECIDING


@pytest.mark.parametrize("kind", [FIRST, *(pytest.param(kind, marks=pytest.mark.nightly) for kind in OTHERS)])
def test_killed_in_the_middle_it_decides_as_if_left_alone(kind: str, task: Path, tmp_path: Path) -> None:
    given = study_dict(task, tmp_path / "record", seconds=0.02) | DECIDING[kind]
    alone, out = tmp_path / "alone", tmp_path / "out"
    swept(sweep_command(given, alone))
    expected = results(alone)

    killed(sweep_command(given, out), out / LEDGER, len(expected) // 2)
    before = (out / LEDGER).read_text()
    swept(sweep_command(given, out, "--resume"))
    assert (out / LEDGER).read_text().startswith(before)
    assert results(out) == expected
    one, other = Manifest.read(out), Manifest.read(alone)
    assert (one.cells, one.decisions, one.rates) == (other.cells, other.decisions, other.rates)
    assert (one.points, one.recommendation, one.ended) == (other.points, other.recommendation, other.ended)
    assert len((out / LEDGER).read_text().splitlines()) == len(expected)  # no cell ran twice


@pytest.mark.nightly
def test_a_study_that_spent_its_budget_goes_on_with_more_and_with_more_seeds(task: Path, tmp_path: Path) -> None:
    given = study_dict(task, tmp_path / "record", seconds=0.0) | {"seeds": 2, "budget": {"cells": 3}}
    out = tmp_path / "out"
    swept(sweep_command(given, out))
    assert len(results(out)) == 3
    assert Manifest.read(out).ended

    swept(sweep_command(given | {"budget": None}, out, "--resume"))
    whole = results(out)
    assert len(whole) == 4

    swept(sweep_command(given | {"budget": None}, out, "--add-seeds", "1"))
    assert len(results(out)) == 6
    assert whole.items() <= results(out).items()
    assert summarise(out).complete
    assert json.loads((out / "summary.json").read_text())["counts"] == {"planned": 6, "finished": 6, "not_run": 0}
