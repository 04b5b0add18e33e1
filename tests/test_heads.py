"""Heads that are trained together come to what they come to alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from finetricks import Recipe, Step, Trick, hookimpl
from finetricks.heads import Apart, run_together
from finetricks.runner import Result, run, task_of

CLOSE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe(folder: Path, *tricks: Any, seed: int = 0, **training: Any) -> Recipe:
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "seed": seed, "checkpoint": "off"}
    return Recipe(
        model=str(folder / "model"),
        data={"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "valid": 0.3},
        training=settings | training,
        tricks=["last_layer", *tricks],
    )


def compare(recipes: list[Recipe], place: Path) -> None:
    """Whether the runs come to the same together and one by one: files, scores, losses and weights."""
    task = task_of(recipes[0])
    outs = [place / f"together{index}" for index in range(len(recipes))]
    together = run_together(recipes, outs, task=task, save_model=True)
    for index, (each, result) in enumerate(zip(recipes, together, strict=True)):
        assert isinstance(result, Result), result
        alone = run(each, place / f"alone{index}", task=task)
        assert files(result.folder) == files(alone.folder)
        assert result.valid == pytest.approx(alone.valid, abs=CLOSE)
        assert result.test == pytest.approx(alone.test, abs=CLOSE)
        assert (result.steps, result.notes) == (alone.steps, alone.notes)
        for mine, own in zip(lines(result.folder), lines(alone.folder), strict=True):
            assert mine.keys() == own.keys()
            assert mine["train_loss"] == pytest.approx(own["train_loss"], abs=CLOSE)
            assert (mine["step"], mine["learning_rate"]) == (own["step"], own["learning_rate"])
        for split in ("valid", "test"):
            assert scores(result.folder, split) == pytest.approx(scores(alone.folder, split), abs=CLOSE)
        weights, own_weights = (load_file(f / "model" / "model.safetensors") for f in (result.folder, alone.folder))
        assert weights.keys() == own_weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, own_weights[name], rtol=CLOSE, atol=CLOSE)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scores(folder: Path, split: str) -> list[float]:
    with (folder / "predictions" / f"{split}.csv").open() as file:
        return [float(v) for row in csv.DictReader(file) for key, v in row.items() if key.startswith("score:")]


HEADS: dict[str, list[Any]] = {
    "concat_pooling": [{"concat_pooling": {"hidden": 6}}, "label_smoothing"],
    "concat_pooling_plain": [{"concat_pooling": {"batch_norm": False}}, "mse"],
    "layer_pooling": [{"layer_pooling": {"layers": "all", "combine": "concat"}}, {"weight_decay": {"value": 0.1}}],
    "layer_mean": [{"layer_pooling": {"layers": "all", "tokens": "mean"}}, {"l2": {"strength": 0.01}}],
    "task_layers": ["task_layers"],
    "output_dropout": [{"output_dropout": {"p": 0.3}}, "cross_entropy"],
}


@pytest.mark.parametrize("head", HEADS)
def test_head(folder: Path, tmp_path: Path, head: str) -> None:
    compare([recipe(folder, *HEADS[head], seed=seed) for seed in range(2)], tmp_path)


def test_mix(folder: Path, tmp_path: Path) -> None:
    def mix(seed: int) -> Recipe:
        whole = recipe(folder, "feature_based", seed=seed)
        whole.tricks = whole.tricks[1:]
        return whole

    compare([mix(seed) for seed in range(2)], tmp_path)


def test_seeds_of_a_pooler_and_classifier(folder: Path, tmp_path: Path) -> None:
    compare([recipe(folder, seed=seed) for seed in range(3)], tmp_path)
