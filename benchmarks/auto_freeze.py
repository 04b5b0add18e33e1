"""`auto_freeze` against plain fine-tuning: time, and accuracy with a paired interval.

    python benchmarks/auto_freeze.py --data ../shared/data/trec6 --record auto_freeze.json

MiniLM on a part of the questions of TREC-6 (`train.csv` and `test.csv` with the columns text and label). Both ways
train the same rows for the same seeds, in turn in one process. The seconds are those of a run: training, and one
evaluation at its end. Accuracy is that on test, which selects nothing; its difference is judged as studies judge it, by
the paired t interval. Beside the measured ratio stands the one that counting gives for what was frozen when: a block's
forward pass costs 1, its backward pass 2, and nothing else counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from finetricks import Recipe, run
from finetricks.plan import Plan
from finetricks.runner import Result, plan_of, task_of
from finetricks_plugins.freeze.auto_freeze import START
from finetricks_tuning.statistics import BlockModel

PLAIN, FREEZING = "plain", "auto_freeze"
AIM = 1.5


def recipe(options: argparse.Namespace, way: str, seed: int) -> Recipe:
    training = {
        "epochs": options.epochs,
        "batch_size": 32,
        "learning_rate": options.learning_rate,
        "max_length": 64,
        "threads": options.threads,
        "seed": seed,
        "evaluate": 10**9,  # at the end alone
        "checkpoint": "off",
    }
    if options.replay:
        training["replay"] = options.replay if way == FREEZING else "off"
    freezing = {"auto_freeze": {"intervals": options.intervals, "percentile": options.percentile}}
    return Recipe(
        model="minilm",
        data={
            "train": str(options.data / "train.csv"),
            "test": str(options.data / "test.csv"),
            "valid": 0.1,
            "rows": options.rows,
        },
        training=training,
        tricks=["linear_decay", *([freezing] if way == FREEZING else [])],
    )


def counted(plan: Plan, decisions: dict[str, int], replayed: bool) -> float:
    """By how much less a run computes that freezes so; with `replayed` what is frozen computes no forward pass either.

    The first pass over the rows after each decision, in which nothing is stored yet, is not counted.
    """
    blocks = [name for name in plan.layers if name.startswith("block.")]
    starts = {step: blocks.index(name.removeprefix(START)) for name, step in decisions.items()}
    done, frozen = 0, 0
    for step in range(plan.total_steps):
        frozen = max(frozen, starts.get(step, 0))
        done += 3 * (len(blocks) - frozen) + (0 if replayed else frozen)
    return 3 * len(blocks) * plan.total_steps / done


def compared(found: dict[tuple[str, int], Result], plan: Plan, replayed: bool) -> dict[str, Any]:
    """Times and accuracies of the two ways, seed by seed."""
    seeds = sorted({seed for _, seed in found})
    ratios = [found[PLAIN, seed].seconds / found[FREEZING, seed].seconds for seed in seeds]
    accuracies = {cell: (result.test or {})["accuracy"] for cell, result in found.items()}
    difference = BlockModel(accuracies).contrast({FREEZING: 1.0, PLAIN: -1.0})
    assert difference is not None
    return {
        "seeds": seeds,
        "steps": plan.total_steps,
        "seconds": {way: [found[way, seed].seconds for seed in seeds] for way in (PLAIN, FREEZING)},
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "counted": statistics.median(counted(plan, dict(found[FREEZING, seed].decisions), replayed) for seed in seeds),
        "accuracy": {way: [accuracies[way, seed] for seed in seeds] for way in (PLAIN, FREEZING)},
        "difference": difference.value,
        "interval": difference.interval,
        "decisions": {seed: dict(found[FREEZING, seed].decisions) for seed in seeds},
    }


def table(figures: dict[str, Any]) -> str:
    seconds, accuracy = figures["seconds"], figures["accuracy"]
    lines = ["| | seconds a run, median (least to most) | accuracy on test, mean |", "|---|---|---|"]
    for way in (PLAIN, FREEZING):
        own = seconds[way]
        spread = f"{statistics.median(own):.1f} ({min(own):.1f} to {max(own):.1f})"
        lines.append(f"| {way} | {spread} | {statistics.mean(accuracy[way]):.4f} |")
    least, most = min(figures["ratios"]), max(figures["ratios"])
    interval = figures["interval"]
    told = "no spread" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
    lines += [
        "",
        f"Ratio of the times, median of {len(figures['seeds'])} seeds: {figures['ratio']:.2f} "
        f"({least:.2f} to {most:.2f}); counted {figures['counted']:.2f}; aim {AIM}",
        f"Difference in accuracy: {figures['difference']:+.4f} (95 % interval {told})",
        "",
        *(
            f"seed {seed}: {', '.join(f'{name} (step {step})' for name, step in decided.items()) or 'nothing froze'}"
            for seed, decided in figures["decisions"].items()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/trec6"), help="a folder with TREC-6")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--rows", type=int, default=2000, help="of train (2000)")
    parser.add_argument("--epochs", type=float, default=4, help="(4)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="(1e-4)")
    parser.add_argument("--intervals", type=int, default=10, help="of auto_freeze (10)")
    parser.add_argument("--percentile", type=float, default=50.0, help="of auto_freeze (50)")
    parser.add_argument("--replay", help="the setting training.replay of the runs that freeze; its default if left out")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--record", type=Path, help="a JSON file to write the figures to")
    options = parser.parse_args()
    task = task_of(recipe(options, PLAIN, 0))
    plan = plan_of(recipe(options, PLAIN, 0), task)
    found: dict[tuple[str, int], Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        run(recipe(options, PLAIN, 0), Path(folder) / "warm", task=task, save_model=False, upto=5 / plan.total_steps)
        for seed in range(options.seeds):
            ways = (PLAIN, FREEZING) if seed % 2 == 0 else (FREEZING, PLAIN)
            for way in ways:
                place = Path(folder) / f"{way}-{seed}"
                found[way, seed] = run(recipe(options, way, seed), place, task=task, save_model=False)
    figures = compared(found, plan, replayed=bool(options.replay) and options.replay != "off")
    print(table(figures))
    if options.record:
        about = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "options": {name: str(value) for name, value in vars(options).items()},
        }
        options.record.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
