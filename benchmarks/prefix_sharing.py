"""What a study saves whose cells share their first steps, beside what counting says that it can save.

    python benchmarks/prefix_sharing.py --data ../shared/data --json sharing.json --markdown sharing.md

MiniLM on questions of TREC-6 (a folder with train.csv in --data), two workers of one thread. Each study is run with
`sharing: auto` and `sharing: off`, in turn, in each round anew, as a whole: from before its workers start to its
report. The table gives the median of the rounds' ratios, with the least and the greatest. All cells must agree to the
bit, in metrics, predictions and learning curves, with and without sharing, or this fails.

Two bounds: one counts optimizer steps, the other passes of blocks, evaluation and auxiliary passes included (forward 1,
backward 2; with --stored 0 for the forward pass of frozen blocks, which replay takes from its store).

Each study has a baseline, too:

    siatl      sequential_unfreezing over n 1, 2, 3 and k 4, 5, 6 beside auxiliary_lm, 6 epochs
    two_stage  six rates of the second stage, 2 epochs after 4 of the head alone
    decays     five falls of the rate after 8 of 10 epochs
    none       the baseline and tricks that act from the first step: nothing to share
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from finetricks.layer_spec import is_block
from finetricks.plan import Plan
from finetricks.runner import plans_of
from finetricks_tuning.cell import Cell
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.prepare import prepare
from finetricks_tuning.rounds import at_most
from finetricks_tuning.shared_steps import parts_of
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep

WORKERS = 2
FORWARD, BACKWARD = 1, 2
STUDIES: dict[str, dict[str, Any]] = {
    "siatl": {
        "epochs": 6,
        "tricks": ["auxiliary_lm"],
        "factors": [{"sequential_unfreezing": {"n": {"values": [1, 2, 3]}, "k": {"values": [4, 5, 6]}}}],
    },
    "two_stage": {
        "epochs": 6,
        "factors": [{"two_stage": {"epochs": 4, "lr_factor": {"values": [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]}}}],
    },
    "decays": {
        "epochs": 10,
        "factors": [{"multistep_decay": {"milestones": [8], "gamma": {"values": [0.01, 0.03, 0.1, 0.3, 0.5]}}}],
    },
    "none": {"epochs": 3, "factors": ["linear_decay", "layerwise_lr_decay", "label_smoothing"]},
}


@dataclass(frozen=True)
class Row:
    """A line of the table: the ratio in each round, and the bounds that were counted.

    Attributes:
        cells: how many the study has.
        saved: the share of the optimizer steps that other cells do.
        steps, blocks: the bounds, as ratios.
    """

    study: str
    cells: int
    saved: float
    steps: float
    blocks: float
    off: list[float]
    on: list[float]

    @property
    def ratios(self) -> list[float]:
        return [off / on for off, on in zip(self.off, self.on, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def study_of(name: str, folder: Path, options: argparse.Namespace, sharing: str) -> Study:
    of = STUDIES[name]
    recipe = {
        "model": "minilm",
        "data": {"train": str(folder / "train.csv"), "valid": str(folder / "valid.csv")},
        "training": {
            "epochs": of["epochs"],
            "batch_size": 32,
            "learning_rate": 2e-4,
            "max_length": options.max_length,
            "checkpoint": options.checkpoint,
            "threads": 1,
        },
        "tricks": of.get("tricks", []),
    }
    return Study(recipe=recipe, factors=of["factors"], seeds=options.seeds, confirm=0, sharing=sharing)


# -- counted ---------------------------------------------------------------------------------------------


def blocks(plan: Plan, begun: int, *, passes: int, evaluation: float, stored: bool) -> float:
    """Passes of blocks of a run from the step `begun` on; `evaluation` in steps of as many examples, an epoch."""
    total = 0.0
    for step in range(begun, plan.total_steps):
        frozen = plan.stage_at(step).frozen
        lowest = next(index for index, layer in enumerate(plan.layers) if layer not in frozen)
        trained = sum(is_block(layer) for layer in plan.layers[lowest:])
        every = sum(is_block(layer) for layer in plan.layers)
        own = trained if stored else every  # an auxiliary pass has masked texts, which nothing is stored for
        total += FORWARD * (own + (passes - 1) * every) + BACKWARD * passes * trained
        total += evaluation * FORWARD * own if (step + 1) % plan.steps_per_epoch == 0 else 0
    return total


def counted(study: Study, *, stored: bool) -> tuple[int, float, float, float]:
    """Cells, the share of the steps that is saved, and the bounds in steps and in passes of blocks."""
    prepared = prepare(study)
    cells = at_most(study, prepared.make)
    parts = parts_of(cells, prepared.task_of)
    steps, cost = [0, 0], [0.0, 0.0]
    for cell in cells:
        task = prepared.task_of(cell.recipe)
        (plan,) = plans_of([cell.recipe], task)
        begun = parts[cell.key].step if cell.key in parts else 0
        evaluation = len(task.splits["valid"]) / cell.recipe.training.batch_size
        how = {"passes": 1 + _has(cell, "auxiliary_lm"), "evaluation": evaluation, "stored": stored}
        for index, first in enumerate((0, begun)):
            steps[index] += plan.total_steps - first
            cost[index] += blocks(plan, first, **how)  # type: ignore[arg-type]
    return len(cells), 1 - steps[1] / steps[0], steps[0] / steps[1], cost[0] / cost[1]


def _has(cell: Cell, name: str) -> bool:
    return any(trick == name for trick, _ in cell.recipe.tricks)


# -- measured --------------------------------------------------------------------------------------------


def timed(study: Study, out: Path) -> tuple[float, dict[str, Trial]]:
    """Seconds of the whole study, and its trials."""
    began = time.perf_counter()
    sweep(study, out)
    seconds = time.perf_counter() - began
    trials, _ = Ledger(out / LEDGER).read()
    if lost := [trial.error for trial in trials.values() if trial.status != FINISHED]:
        raise SystemExit(f"a cell failed: {lost[0]}")
    return seconds, trials


def check_equal(one: tuple[Path, dict[str, Trial]], other: tuple[Path, dict[str, Trial]]) -> None:
    """All cells of two studies agree to the bit in metrics, predictions and learning curves."""
    (here, mine), (there, theirs) = one, other
    if mine.keys() != theirs.keys():
        raise SystemExit("the studies have other cells")
    for key, trial in mine.items():
        places = cell_folder(here, key), cell_folder(there, key)
        predictions, fellow = (place / "predictions" / "valid.csv" for place in places)
        curves = [
            [{**json.loads(line), "seconds": 0} for line in (place / "metrics.jsonl").read_text().splitlines()]
            for place in places
        ]
        same = trial.metrics == theirs[key].metrics and predictions.read_bytes() == fellow.read_bytes()
        if not same or curves[0] != curves[1]:
            raise SystemExit(f"{trial.configuration}, seed {trial.seed}, comes to something else when it shares")


def measured(name: str, folder: Path, options: argparse.Namespace, tell: Callable[[str], None]) -> Row:
    studies = {sharing: study_of(name, folder, options, sharing) for sharing in ("off", "auto")}
    cells, saved, steps, cost = counted(studies["auto"], stored=options.stored)
    tell(f"{name}: {cells} cells, {saved:.0%} of the steps saved, bound {steps:.2f}x in steps, {cost:.2f}x in blocks")
    seconds: dict[str, list[float]] = {"off": [], "auto": []}
    for number in range(options.rounds):
        found = {}
        for sharing in ("off", "auto") if number % 2 == 0 else ("auto", "off"):
            out = folder / f"{name}-{sharing}"
            took, trials = timed(studies[sharing], out)
            seconds[sharing].append(took)
            found[sharing] = out, trials
            tell(f"{name}, sharing {sharing}: {took:.1f} s")
        check_equal(found["off"], found["auto"])
        for out, _ in found.values():
            shutil.rmtree(out)
    return Row(name, cells, saved, steps, cost, seconds["off"], seconds["auto"])


# -- told ------------------------------------------------------------------------------------------------


def table(rows: list[Row], *, stored: bool) -> str:
    counting = "blocks, stored 0" if stored else "blocks"
    lines = [
        f"| study | cells | steps saved | bound, steps | bound, {counting} | alone | sharing | measured "
        "| of the bounds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ({min(row.ratios):.2f}-{max(row.ratios):.2f})" if len(row.ratios) > 1 else ""
        off, on = statistics.median(row.off), statistics.median(row.on)
        lines.append(
            f"| {row.study} | {row.cells} | {row.saved:.0%} | {row.steps:.2f}x | {row.blocks:.2f}x | {off:.0f} s "
            f"| {on:.0f} s | {row.ratio:.2f}x{spread} | {row.ratio / row.steps:.2f}, {row.ratio / row.blocks:.2f} |"
        )
    return "\n".join(lines) + "\n"


def write_data(data: Path, folder: Path, rows: int) -> None:
    """`rows` questions of train and half as many others to evaluate on, drawn by a fixed seed."""
    with (data / "train.csv").open(newline="", encoding="utf-8") as file:
        examples = list(csv.DictReader(file))
    random.Random(0).shuffle(examples)
    for name, part in (("train", examples[:rows]), ("valid", examples[rows : rows + rows // 2])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows({key: row[key] for key in ("text", "label")} for row in part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds trec6/ (../shared/data)")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="these studies")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is run (1)")
    parser.add_argument("--seeds", type=int, default=2, help="of each study (2)")
    parser.add_argument("--rows", type=int, default=256, help="training examples, a multiple of 32 (256)")
    parser.add_argument("--max-length", type=int, default=16, help="tokens of an example (16)")
    parser.add_argument("--checkpoint", default="off", help="training.checkpoint: off, epoch or a number (off)")
    parser.add_argument("--stored", action="store_true", help="count the stored forward pass of frozen blocks as 0")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(options.data / "trec6", folder, options.rows)
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(address="local", num_cpus=WORKERS, **quiet)
        for name in options.only:
            rows.append(measured(name, folder, options, lambda line: print(line, flush=True)))
        ray.shutdown()
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    asked = {key: value for key, value in vars(options).items() if key not in {"data", "json", "markdown"}}
    record = {"machine": machine, "options": asked, "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(table(rows, stored=options.stored))
    print(table(rows, stored=options.stored), end="")


if __name__ == "__main__":
    main()
