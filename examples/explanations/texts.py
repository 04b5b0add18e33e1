"""What the experiments on `minilm` share: small runs on files of texts and labels."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import finetricks as ft


def rows_of(path: str) -> list[dict[str, str]]:
    """The rows of a file with the columns text and label."""
    with Path(path).open(newline="") as file:
        return [{"text": row["text"], "label": row["label"]} for row in csv.DictReader(file)]


def data_of(path: str, rows: int, valid: int) -> dict[str, Any]:
    """So many rows of it for train and for valid, as a recipe names them."""
    return {"train": path, "rows": rows, "valid": valid / len(rows_of(path))}


def loaded(data: dict[str, Any], max_length: int) -> ft.Task:
    """Its task, for `minilm`."""
    recipe = ft.Recipe(data=data)
    assert recipe.data is not None
    return ft.load_task("minilm", recipe.data, max_length=max_length)


def accuracy(
    task: ft.Task, data: dict[str, Any], tricks: Sequence[Any], *, learning_rate: float, seed: int, epochs: int
) -> float:
    """On valid, at the end of a run with `linear_decay`."""
    training = {
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": learning_rate,
        "max_length": task.max_length,
        "checkpoint": "off",
        "evaluate": 10**6,
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    recipe = ft.Recipe(model="minilm", data=data, training=training, tricks=[*tricks, "linear_decay"])
    with tempfile.TemporaryDirectory() as folder:
        return ft.run(recipe, folder, task=task, save_model=False, overwrite=True).valid["accuracy"]
