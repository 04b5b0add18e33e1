"""Heads that are trained together come to what they come to alone."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from finetricks import Recipe, Step, Trick, hookimpl
from finetricks.errors import InputError
from finetricks.heads import Apart, run_together
from finetricks.runner import Result, run, task_of
from finetricks.saved import load

CLOSE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe(folder: Path, *tricks: Any, seed: int = 0, **training: Any) -> Recipe:
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "seed": seed, "checkpoint": "off"}
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
        weights, own_weights = (load(f)[0].state_dict() for f in (result.folder, alone.folder))
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
    "output_dropout": [{"output_dropout": {"p": 0.3}}, "cross_entropy"],
}


@pytest.mark.parametrize("head", HEADS)
def test_head(folder: Path, tmp_path: Path, head: str) -> None:
    compare([recipe(folder, *HEADS[head], seed=seed) for seed in range(2)], tmp_path)


def test_mix(folder: Path, tmp_path: Path) -> None:
    def mix(seed: int, **training: Any) -> Recipe:
        whole = recipe(folder, "feature_based", seed=seed, **training)
        whole.tricks = whole.tricks[1:]
        return whole

    compare([mix(seed) for seed in range(2)], tmp_path)
    compare([mix(seed, pad_to_multiple_of=3, max_length=8) for seed in range(2)], tmp_path / "odd")


def test_seeds_of_a_pooler_and_classifier(folder: Path, tmp_path: Path) -> None:
    compare([recipe(folder, seed=seed) for seed in range(3)], tmp_path)


def test_rates_schedules_and_first_weights_of_a_group(folder: Path, tmp_path: Path) -> None:
    cells = [
        recipe(folder, seed=0),
        recipe(folder, "linear_decay", seed=1, learning_rate=2e-3),
        recipe(folder, "stlr", seed=1),
        recipe(folder, {"kaiming": {}}, "stlr", seed=1),
    ]
    compare(cells, tmp_path)


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "sgd", "momentum": 0.9, "clip": 0.1},
        {"accumulation": 2, "batch_size": 5, "evaluate": 3, "epochs": 1.5, "clip": 0.0},
        {"init_seed": 4, "betas": (0.8, 0.99), "eps": 1e-6},
        {"pad_to_multiple_of": 1, "group_by_length": True, "replay": "memory"},
    ],
)
def test_settings(folder: Path, tmp_path: Path, training: dict[str, Any]) -> None:
    compare([recipe(folder, seed=seed, **training) for seed in range(2)], tmp_path)


class Chance(Trick):
    """A penalty that is drawn at each micro-batch."""

    @hookimpl
    def regularize(self, step: Step) -> torch.Tensor:
        return step.model.classifier.weight.sum() * torch.rand(())


class Looks(Trick):
    """A loss that Python reads."""

    @hookimpl(wrapper=True)
    def loss(self, outputs: Any):
        loss = yield
        return loss * 2 if outputs["logits"].max() > 0 else loss


class InBatch(Trick):
    """A penalty on the labels of a batch, all together."""

    @hookimpl
    def regularize(self, step: Step) -> torch.Tensor:
        return step.model.classifier.weight.sum() * 0

    @hookimpl(wrapper=True)
    def loss(self, outputs: Any, batch: Any):
        loss = yield
        return loss * batch["input_ids"].float().mean()


class DropsTokens(Trick):
    """Dropout of each token's state in the head: draws of a shape that goes by the length of the batch."""

    @hookimpl
    def build(self, model: nn.Module) -> None:
        model.dropout = nn.Sequential()
        model.bert.pooler = Pooler(model.config.hidden_size)


class Pooler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(nn.functional.dropout(states, 0.5, self.training).mean(dim=1)))


class Watches(Trick):
    """Halves the gradients."""

    @property
    def decides(self) -> bool:
        return False

    @hookimpl
    def after_backward(self, gradients: Any) -> None:
        for gradient in gradients.values():
            gradient.mul_(0.5)


REFUSED = {
    "precision": (lambda folder: recipe(folder, precision="bf16"), "precision is bf16"),
    "streams": (lambda folder: recipe(folder, streams="none"), "streams is none"),
    "decider": (lambda folder: recipe(folder, "early_stopping"), "early_stopping decides while training"),
    "gradients": (lambda folder: recipe(folder, Watches()), "watches sees the gradients"),
    "narrow": (lambda folder: recipe(folder, replay_dtype="bf16"), "keeps what the body gives in bf16"),
    "drops_tokens": (lambda folder: recipe(folder, DropsTokens(), pad_to_multiple_of=1), "drawn for each token"),
    "chance": (lambda folder: recipe(folder, Chance()), "not a function of each example|not its examples'"),
    "looks": (lambda folder: recipe(folder, Looks()), "looks at a value"),
    "in_batch": (lambda folder: recipe(folder, InBatch()), "not a function of each example|not its examples'"),
    "state": (lambda folder: recipe(folder, tiny.Anchor()), "step.state_of.*trick 'anchor'"),
    "stream": (lambda folder: recipe(folder, tiny.Noise()), "step.generator.*trick 'noise'"),
    "task_layers": (lambda folder: recipe(folder, "task_layers"), "."),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused(folder: Path, tmp_path: Path, why: str) -> None:
    make, reason = REFUSED[why]
    refused = make(folder)
    (result,) = run_together([refused], [tmp_path / "run"], task=task_of(refused))
    assert isinstance(result, Apart)
    told = "; ".join([str(result), *getattr(result, "__notes__", ())])
    assert re.search(reason, told), told
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    one = recipe(folder)
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        run_together([one], [tmp_path], task=task_of(one))
    assert files(tmp_path) == {"model"}


def test_a_body_that_thaws_is_refused(folder: Path, tmp_path: Path) -> None:
    thaws = recipe(folder)
    thaws.tricks = Recipe(tricks=["gradual_unfreezing"]).tricks
    (result,) = run_together([thaws], [tmp_path / "run"], task=task_of(thaws))
    assert isinstance(result, Apart)
    assert "changes in the course of the run" in str(result)
