"""What a study of many cells costs beside its training: record them, resume from them, report them.

    python benchmarks/ledger.py --cells 10000

The metrics are made up, and the cells have no folders of their own; all else is a study's: the ledger is written line
by line, each line forced to disk; resuming reads it, makes every cell with its key, and finds nothing left to run; the
report is the page with its pictures. Each part runs in a process of its own, whose peak of memory is given.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetricks_tuning.cell import Cell
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.prepare import prepare
from finetricks_tuning.results import write_results
from finetricks_tuning.rounds import Rounds
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER

TRICKS = [
    *("stlr", "discriminative_lr", "gradual_unfreezing", "label_smoothing", "weight_decay"),
    *("l2_sp", "dropout", "output_dropout", "concat_pooling", "warmup"),
]
SEEDS = 20


def study_of(cells: int) -> Study:
    recipe = {"model": "minilm", "data": {"train": "stdlib_docstrings", "rows": 512}}
    design = {"random": {"configurations": cells // SEEDS}}
    return Study(recipe=recipe, factors=TRICKS, design=design, seeds=SEEDS, confirm=0)


def rounds_of(cells: int) -> tuple[Rounds, list[Cell]]:
    study = study_of(cells)
    rounds = Rounds(study, prepare(study).make, greater_is_better=True)
    return rounds, rounds.next({})


def record(folder: Path, cells: int) -> dict[str, float]:
    rounds, planned = rounds_of(cells)
    draw = np.random.default_rng(0)
    seeds = draw.normal(0, 0.01, SEEDS)
    ledger = Ledger(folder / LEDGER)
    environment = {"python": "3.11", "torch": "2.13.0", "transformers": "5.23.0", "device": "cpu", "threads": 1}
    trials = [
        Trial(
            key=cell.key,
            configuration=cell.configuration.name,
            factors=cell.configuration.levels,
            tricks={name: trick.model_dump(mode="json") for name, trick in cell.recipe.tricks},
            seed=cell.seed,
            status=FINISHED,
            metrics={"valid": {"accuracy": 0.8 + seeds[cell.seed] + draw.normal(0, 0.01)}, "test": None},
            seconds=30.0,
            environment=environment,
        )
        for cell in planned
    ]
    manifest = Manifest(
        study=rounds.study.to_dict(),
        configurations={c.name: c.levels for c in rounds.configurations},
        cells=tuple(rounds.planned),
        left_out=(),
        greater_is_better=True,
        valid_examples=51,
        ended="every cell has a result",
    )
    started = time.perf_counter()
    for trial in trials:
        ledger.append(trial)
    manifest.write(folder)
    return {"record": time.perf_counter() - started}


def resume(folder: Path, cells: int) -> dict[str, float]:
    study_of(20 * SEEDS)  # what is imported and read on first use is no cost of the cells
    started = time.perf_counter()
    trials, _ = Ledger(folder / LEDGER).read()
    read = time.perf_counter() - started
    study = study_of(cells)
    rounds = Rounds(study, prepare(study).make, greater_is_better=True)
    planned = time.perf_counter()
    if rounds.next(trials):
        raise SystemExit("a cell that was recorded would be run again")
    ended = time.perf_counter()
    return {"read the ledger": read, "read the data": planned - started - read, "find nothing to run": ended - planned}


def report(folder: Path, cells: int) -> dict[str, float]:
    started = time.perf_counter()
    write_results(folder)
    return {"report": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="a multiple of 20 (10,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for part in (record, resume, report):
            seconds, peak = in_a_process(part, Path(place), options.cells)
            for what, took in seconds.items():
                print(f"{what:22} {took:7.2f} s   {1000 * took / options.cells:6.2f} ms a cell   {peak:5.2f} GiB peak")
        size = (Path(place) / LEDGER).stat().st_size
        print(f"the ledger holds {options.cells} lines, {size / 2**20:.1f} MiB")


def in_a_process(part: Callable[[Path, int], dict[str, float]], *arguments: Any) -> tuple[dict[str, float], float]:
    """What a part took, and its process's peak of memory in GiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (part, *arguments))


def _measured(part: Callable[..., dict[str, float]], *arguments: Any) -> tuple[dict[str, float], float]:
    seconds = part(*arguments)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
