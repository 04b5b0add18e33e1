"""Compiled forward passes: what torch.compile renames, forgets or keeps is no affair of a run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from transformers import AutoModelForSequenceClassification

import tiny
from finetricks import InputError, Recipe
from finetricks.compiled import CompiledForward, options_of
from finetricks.runner import run
from finetricks.settings import Training
from test_trainer import losses_of, trainer_of


@pytest.fixture(autouse=True)
def _nothing_compiled_is_left() -> None:
    torch._dynamo.reset()
    counters.clear()


def test_the_setting_names_a_backend() -> None:
    assert options_of(Training().compile) is None
    assert options_of(Training(compile=True).compile) == {"backend": "inductor", "dynamic": True}
    assert options_of(Training(compile="eager").compile) == {"backend": "eager", "dynamic": True}


class Layered(nn.Module):
    """Twelve layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_every_stage_of_a_thaw_is_compiled_however_many_there_are() -> None:
    model, counter = Layered(), CompileCounter()
    forward = CompiledForward(model, {"backend": counter})
    for layer in model.layers:
        layer.requires_grad_(False)
        with forward.in_place():
            model(torch.ones(3, 2))
    assert counter.frame_count == 12  # torch stops at eight, and goes on uncompiled


def test_a_model_is_the_module_that_it_was_outside_of_its_forward_pass() -> None:
    session = tiny.recipe(compile="eager").bind(tiny.bert(), tiny.loader())
    names = list(session.model.state_dict())
    tiny.train(session, 1)
    assert counters["stats"]["calls_captured"] > 0
    assert list(session.model.state_dict()) == names
    assert "forward" not in vars(session.model)


def test_a_compiled_run_leaves_what_a_plain_one_does(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)

    def trained(name: str, **training: Any) -> Path:
        settings = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "threads": 1} | training
        data = {"train": str(task / "train.csv"), "test": str(task / "test.csv")}
        tricks = [{"two_stage": {"fraction": 0.5}}]
        run(Recipe(model=str(task / "model"), data=data, training=settings, tricks=tricks), tmp_path / name)
        return tmp_path / name

    plain, compiled = trained("plain"), trained("compiled", compile="eager")
    for file in ("model/model.safetensors", "predictions/test.csv"):
        assert (plain / file).read_bytes() == (compiled / file).read_bytes()
    _, info = AutoModelForSequenceClassification.from_pretrained(compiled / "model", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert json.loads((compiled / "versions.json").read_text())["determinism"]["device"] == "cpu"


def test_a_model_that_is_compiled_already_is_refused_with_what_to_do(tmp_path: Path) -> None:
    compiled = torch.compile(tiny.bert(), backend="eager")
    with pytest.raises(InputError, match="say `compile: true`"):
        tiny.recipe().bind(compiled, tiny.loader())
    with pytest.raises(InputError, match="torch_compile=True"):
        trainer_of(tiny.recipe(), tmp_path, compiled)
    session = tiny.recipe().bind(tiny.bert(), tiny.loader())
    with pytest.raises(InputError, match="say `compile: true`"):
        session.loss(next(session.batches()), torch.compile(session.model, backend="eager"))


def test_a_trainer_compiles_the_model_also_where_a_trick_runs_it_twice(tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.TwicePass(), compile="eager", epochs=1)
    in_loop, _ = tiny.trained(recipe)
    torch._dynamo.reset()
    counters.clear()
    trainer = trainer_of(recipe, tmp_path)
    assert losses_of(trainer) == in_loop
    assert counters["stats"]["calls_captured"] > 0
    assert not [name for name in trainer.model.state_dict() if "_orig_mod" in name]
