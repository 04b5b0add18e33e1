"""Studies whose every step is written down, and what can be read from that."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetricks.catalog import installed
from finetricks.runner import run as run_alone
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER

PLUGIN = Path(__file__).parent / "survival_tricks.py"
STEPS, EVERY = 8, 2
"""Optimizer steps of a cell (30 rows in batches of 4), and how many lie between its checkpoints."""


def study_dict(
    task: Path, record: Path, seconds: float = 0.1, tricks: tuple[Any, ...] = (), **more: Any
) -> dict[str, Any]:
    """A study of two configurations with 6 seeds; each step takes `seconds` and adds a line to `record`."""
    recipe = {
        "model": str(task / "model"),
        "data": {"train": str(task / "train.csv"), "valid": 0.5},
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "checkpoint": EVERY},
        "tricks": [{"recorded": {"file": str(record), "seconds": seconds}}, *tricks],
    }
    return {"recipe": recipe, "factors": ["stlr"], "seeds": 6, "confirm": 0, **more}


def study(task: Path, record: Path, **more: Any) -> Study:
    return Study(**study_dict(task, record, **more), catalog=installed().with_file(PLUGIN))


@dataclass
class Run:
    """What one process did of a cell in one go: its steps, and the line of the record where the latest stands."""

    node: str
    process: int
    steps: list[int]
    line: int


def runs_of(record: Path) -> list[Run]:
    """A process's steps, parted where they begin anew."""
    runs: list[Run] = []
    current: dict[str, Run] = {}
    for number, line in enumerate(record.read_text().splitlines() if record.exists() else ()):
        node, process, step = line.split()
        run = current.get(process)
        if run is None or int(step) != run.steps[-1] + 1:
            run = current[process] = Run(node, int(process), [], number)
            runs.append(run)
        run.steps.append(int(step))
        run.line = number
    return runs


def hold_of(record: Path) -> Path:
    """The file that keeps cells at the step where they are, while it is there."""
    return record.with_name(f"{record.name}.hold")


def alive(process: int) -> bool:
    """Whether a process runs; what has ended and was not yet waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_until(what: Callable[[], bool]) -> None:
    """Look until it is so; for minutes, since the machine may be busy."""
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def equals_undisturbed(of: Study, out: Path, elsewhere: Path) -> None:
    """Every cell of the study in `out` has the metrics and predictions of a run by itself, bit for bit."""
    trials, problems = Ledger(out / LEDGER).read()
    assert problems == []
    assert len(trials) == len(of.configurations) * len(of.settings.seeds)
    for trial in trials.values():
        configuration = next(c for c in of.configurations if c.name == trial.configuration)
        alone = run_alone(configuration.recipe(of.recipe, trial.seed), elsewhere / trial.key[:16], save_model=False)
        assert trial.metrics == {"valid": alone.valid, "test": None}
        predictions = Path("predictions") / "valid.csv"
        assert (cell_folder(out, trial.key) / predictions).read_bytes() == (alone.folder / predictions).read_bytes()


def may_mount() -> bool:
    """Whether this user may mount in a namespace of their own, as a disk of any size or a folder that is not shared."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
