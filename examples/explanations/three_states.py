"""The three states of fine-tuning (predict only, the last layer, everything): accuracy against time.

python examples/explanations/three_states.py --train questions/train.csv
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Experiment, drawing, table, told
from matplotlib.figure import Figure

import finetricks as ft

STATES: dict[str, tuple[list[str], float, int]] = {
    "predict only": (["predict_only"], 2e-4, 1),
    "last layer, rate 1e-2": (["last_layer"], 1e-2, 1),
    "the same, 7 times as long": (["last_layer"], 1e-2, 7),
    "the same, on concat_pooling, rate 1e-3": (["concat_pooling", "last_layer"], 1e-3, 7),
    "everything, rate 2e-4": (["full"], 2e-4, 1),
}
"""The tricks, the rate, and how many times the epochs of the others."""


def course(task: ft.Task, settings: dict[str, Any], state: str, seed: int) -> dict[str, Any]:
    """Accuracy on valid and the seconds until then, by evaluation; and the seconds of the whole run."""
    tricks, rate, times = STATES[state]
    epochs = times * settings["training"]["epochs"]
    training = {**settings["training"], "epochs": epochs, "learning_rate": rate, "seed": seed}
    recipe = ft.Recipe(**{**settings, "training": training, "tricks": tricks})
    with tempfile.TemporaryDirectory() as folder:
        result = ft.run(recipe, folder, task=task, save_model=False, overwrite=True)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": [line["seconds"] for line in lines],
        "accuracy": [line["valid"]["accuracy"] for line in lines],
        "whole": result.seconds,
    }


def measure(
    train: str = "stdlib_docstrings", seeds: int = 3, rows: int = 160, valid: float = 0.04, epochs: int = 3
) -> dict[str, Any]:
    data = {"train": train, "rows": rows, "valid": valid}
    training = {
        "epochs": epochs,
        "batch_size": 16,
        "max_length": 24,
        "checkpoint": "off",
        "threads": torch.get_num_threads(),
    }
    settings = {"model": "minilm", "data": data, "training": training}
    recipe = ft.Recipe(**settings)
    assert recipe.data is not None
    task = ft.load_task("minilm", recipe.data, max_length=24)
    course(task, settings, "predict only", 0)  # what is done but once is not timed
    return {
        "rows": len(task.splits["train"]),
        "valid": len(task.splits["valid"]),
        "states": {state: [course(task, settings, state, seed) for seed in range(seeds)] for state in STATES},
    }


def shown(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{sum(run['accuracy'][epoch] for run in runs) / len(runs):.3f}" for epoch in _first_and_last(runs)),
            told([run["accuracy"][-1] for run in runs]),
            f"{sum(run['whole'] for run in runs) / len(runs):.1f} s",
        ]
        for name, runs in found["states"].items()
    ]
    head = ["trained", "accuracy after the first evaluation", "after the last", "with its interval", "time of a run"]
    return f"{found['rows']} rows of train, {found['valid']} of valid.\n\n{table(head, rows)}"


def _first_and_last(runs: list[dict[str, Any]]) -> tuple[int, int]:
    return 0, len(runs[0]["accuracy"]) - 1


def drawn(found: dict[str, Any]) -> Figure:
    with drawing(1, width=5, height=3) as (figure, (axes,)):
        for name, runs in found["states"].items():
            seconds, accuracy = (torch.tensor([run[what] for run in runs]).mean(0) for what in ("seconds", "accuracy"))
            axes.plot(seconds, accuracy, marker="o", markersize=3, label=name)
        axes.set(xlabel="seconds since the run began", xscale="log", ylabel="accuracy on valid", ylim=(0, 1))
        axes.set_xticks([2, 5, 10, 20, 30], ["2", "5", "10", "20", "30"])
        axes.minorticks_off()
        axes.legend(fontsize=7, loc="lower right")
    return figure


EXPERIMENT = Experiment("three_states", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main(train="stdlib_docstrings")
