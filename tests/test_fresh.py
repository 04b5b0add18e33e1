"""Which parameters are fresh, for models from the core's loader, from elsewhere, and after tricks have rebuilt them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tiny
from finetricks import Context, Layers, Step, Trick, find_layers, hookimpl
from finetricks.fresh import declare_fresh, fresh_parameters
from finetricks.stack import Stack
from finetricks.tasks.models import load_model

HEAD = {"classifier.weight", "classifier.bias"}


def fresh(model: nn.Module) -> set[str]:
    return set(fresh_parameters(model, find_layers(model)))


def test_the_loader_knows_what_the_checkpoint_lacked(tmp_path: Path) -> None:
    model = tiny.bert()
    model.bert.save_pretrained(tmp_path / "body")  # its pooler is pretrained, a classifier it has none
    loaded = load_model(str(tmp_path / "body"), kind="classification", labels=("a", "b"), seed=0)
    assert fresh(loaded) == HEAD
    model.save_pretrained(tmp_path / "whole")
    again = load_model(str(tmp_path / "whole"), kind="classification", labels=("a", "b", "c"), seed=0)
    assert fresh(again) == set()
    other = load_model(str(tmp_path / "whole"), kind="classification", labels=("a", "b"), seed=0)
    assert fresh(other) == HEAD  # of another shape


def test_of_a_transformers_model_from_elsewhere_it_is_what_lies_outside_the_base_model() -> None:
    assert fresh(tiny.bert()) == HEAD


def test_of_any_other_model_it_is_the_head() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    layers = find_layers(model)
    assert fresh(model) == set(layers.parameters["head"]) == {"4.weight", "4.bias"}


class Wider(Trick):
    """Puts the model into another one, with a layer more."""

    @hookimpl
    def build(self, model: nn.Module) -> nn.Module:
        wider = nn.Module()
        wider.inner = model
        wider.extra = nn.Linear(3, 3)
        return wider


def test_what_tricks_build_is_fresh_and_what_they_move_stays_what_it_was() -> None:
    model = tiny.bert()
    declare_fresh(model, {"bert.pooler.dense.bias", *HEAD})
    built = Stack([("wider", Wider())]).build(model, seed=0)
    expected = {"extra.weight", "extra.bias", "inner.bert.pooler.dense.bias", *(f"inner.{name}" for name in HEAD)}
    nothing = Layers(names=(), parameters={}, modules={})
    for kept in (built, copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert fresh_parameters(kept, nothing) == expected


SEEN: list[frozenset[str]] = []


class Looks(Trick):
    """Writes down what it is told."""

    @hookimpl
    def init(self, context: Context) -> None:
        SEEN.append(context.fresh)

    @hookimpl
    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor:
        SEEN.append(step.fresh)
        return torch.zeros(())


def test_tricks_are_told() -> None:
    SEEN.clear()
    session: Any = tiny.recipe(Looks()).bind(tiny.bert(), tiny.loader())
    tiny.train(session, steps=1)
    assert [frozenset(HEAD)] * 2 == SEEN
