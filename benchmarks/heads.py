"""How long the heads of many seeds take together, beside one seed alone.

    python benchmarks/heads.py --data ../shared/data --json heads.json --markdown heads.md

MiniLM's head (`last_layer`) on TREC-6 (the folder trec6 with train.csv in --data). One process; in each round one seed
alone, all seeds together, and some of them alone one after another, from which the time of all alone is extrapolated
unless --apart is as many. The model's file is in memory after the first round, which is not counted where there are
several. What is compared between together and alone: the loss of each epoch, the metrics, and every score of valid.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from finetricks import Recipe
from finetricks.heads import run_together
from finetricks.runner import Result, run, task_of

AIM = 3.0
"""All together take at most so many times what one alone takes."""


@dataclass(frozen=True)
class Round:
    """Seconds of one seed alone, of all together, and of a seed among several alone; and the greatest differences."""

    one: float
    together: float
    each_apart: float
    loss: float
    metric: float
    score: float


def recipe(options: argparse.Namespace, seed: int) -> Recipe:
    data: dict[str, Any] = {"train": str(options.data / "trec6" / "train.csv"), "valid": 0.1}
    if options.rows:
        data["rows"] = options.rows
    training = {"epochs": options.epochs, "batch_size": 32, "learning_rate": 1e-3, "checkpoint": "off", "seed": seed}
    training["max_length"] = 64
    return Recipe(model="minilm", data=data, training=training, tricks=["last_layer"])


def measured(options: argparse.Namespace, task: Any, folder: Path) -> Round:
    recipes = [recipe(options, seed) for seed in range(options.seeds)]
    started = time.perf_counter()
    alone = [run(recipes[0], folder / "alone0", task=task, save_model=False)]
    one = time.perf_counter() - started
    started = time.perf_counter()
    outs = [folder / f"together{seed}" for seed in range(options.seeds)]
    found = run_together(recipes, outs, task=task)
    together = time.perf_counter() - started
    started = time.perf_counter()
    for seed in range(1, options.apart):
        alone.append(run(recipes[seed], folder / f"alone{seed}", task=task, save_model=False))
    more = options.apart - 1
    each = (one + time.perf_counter() - started) / (1 + more)
    loss = metric = score = 0.0
    for own, result in zip(alone, found, strict=False):
        if not isinstance(result, Result):
            raise SystemExit(f"not trained together: {result}")
        for mine, theirs in zip(lines(result.folder), lines(own.folder), strict=True):
            loss = max(loss, abs(mine["train_loss"] - theirs["train_loss"]))
            metric = max(metric, *(abs(mine["valid"][name] - value) for name, value in theirs["valid"].items()))
        pairs = zip(scores(result.folder), scores(own.folder), strict=True)
        score = max(score, *(abs(mine - theirs) for mine, theirs in pairs))
    return Round(one, together, each, loss, metric, score)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scores(folder: Path) -> list[float]:
    with (folder / "predictions" / "valid.csv").open(encoding="utf-8", newline="") as file:
        return [float(value) for row in csv.DictReader(file) for key, value in row.items() if key.startswith("score:")]


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(options: argparse.Namespace, rounds: Sequence[Round]) -> str:
    seeds = options.seeds
    told = "" if options.apart >= seeds else f", from {options.apart}"
    rows = [
        ("seconds of one seed alone", spread([each.one for each in rounds], 1), ""),
        (f"seconds of {seeds} seeds together", spread([each.together for each in rounds], 1), ""),
        (f"{seeds} together to one alone", spread([each.together / each.one for each in rounds]), f"at most {AIM:g}"),
        (
            f"{seeds} alone{told} to {seeds} together",
            spread([seeds * each.each_apart / each.together for each in rounds], 1),
            "",
        ),
        ("greatest difference of a loss", f"{max(each.loss for each in rounds):.1e}", "1e-6"),
        ("... of a metric", f"{max(each.metric for each in rounds):.1e}", ""),
        ("... of a score", f"{max(each.score for each in rounds):.1e}", "1e-6"),
    ]
    return "\n".join(
        ["| | median (least to greatest) | aim |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds trec6/train.csv")
    parser.add_argument("--seeds", type=int, default=20, help="trained together (20)")
    parser.add_argument("--apart", type=int, default=2, help="of them trained alone, too (2)")
    parser.add_argument("--epochs", type=int, default=3, help="of each run (3)")
    parser.add_argument("--rows", type=int, default=2000, help="of train; 0: all (2000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch (all cores)")
    parser.add_argument("--json", type=Path, help="where the record is written")
    parser.add_argument("--markdown", type=Path, help="where the table is written")
    options = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(options.threads)
    task = task_of(recipe(options, 0))
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measured(options, task, Path(folder)))
    counted = rounds[1:] or rounds
    told = table(options, counted)
    print(told)
    if options.markdown:
        options.markdown.write_text(told + "\n")
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name not in ("data", "json", "markdown")}
        machine = {"torch": torch.__version__, "processor": platform.machine(), "cores": os.cpu_count()}
        record = {"settings": settings, "machine": machine, "rounds": [asdict(each) for each in rounds]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
