"""The runs that are trained together: what is their own (weights of the head, rates, seeds, folder), and what is not.

A run's model is made as the run alone would make it, its head kept, and the model let go.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetricks.folder import RunFolder
from finetricks.freezing import Freezing
from finetricks.heads.apart import Apart, reason_apart
from finetricks.implementation import implementations
from finetricks.order import Order
from finetricks.plan import Plan
from finetricks.runner import bound

if TYPE_CHECKING:
    import datasets

    from finetricks.recipe import Recipe
    from finetricks.session import Session
    from finetricks.tasks import Task
    from finetricks.trick import Trick

OWN_HOOKS = frozenset({"schedule", "param_groups", "init", "freeze"})
"""The hooks in which runs of a group may differ: they set rates and weights, and not what is computed."""

OWN_SETTINGS = ("seed", "init_seed", "data_seed", "dropout_seed", "learning_rate")


def group_key(recipe: Recipe) -> str:
    """Equal for recipes that may differ in seeds, learning rates and first weights, and in nothing else."""
    given = recipe.to_dict()
    given["training"] = {key: value for key, value in given["training"].items() if key not in OWN_SETTINGS}
    given["tricks"] = [{name: trick.model_dump(mode="json")} for name, trick in recipe.tricks if not _own(trick)]
    return json.dumps(given, sort_keys=True)


def _own(trick: Trick) -> bool:
    return {each.hook for each in implementations(type(trick))} <= OWN_HOOKS


@dataclass
class Member:
    """One of the runs.

    Attributes:
        head: the tensors of its head, as they are before training.
        order: of its batches.
        history: the lines of its metrics.jsonl.
        losses: of the micro-batches since the last evaluation.
        begun: its folder holds what there is of it.
        apart: why it has to be run alone after all; empty while it has not.
    """

    recipe: Recipe
    folder: RunFolder
    plan: Plan
    head: list[Tensor]
    order: Order
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    begun: bool = False
    apart: str = ""

    @property
    def rates(self) -> tuple[Any, ...]:
        """What its optimizer does at each step."""
        groups = [(g.name, g.parameters, g.lr_factor, g.weight_decay) for g in self.plan.groups]
        return (self.plan.learning_rate, self.plan.schedule, groups)


@dataclass
class Body:
    """The model of the first run, whose body is that of all.

    Attributes:
        names: of the tracked tensors: the parameters of the head, then the buffers of its modules.
        tracked: they themselves.
        trainable: how many of them are parameters that train.
    """

    recipe: Recipe
    splits: Mapping[str, datasets.Dataset]
    added: tuple[str, ...]
    session: Session
    names: list[str]
    tracked: list[Tensor]

    @property
    def model(self) -> nn.Module:
        return self.session.model

    def restore(self, head: list[Tensor]) -> None:
        """Give the model the head of a run."""
        with torch.no_grad():
            for tensor, value in zip(self.tracked, head, strict=True):
                tensor.copy_(value)


def first_of(recipe: Recipe, out: Path, task: Task) -> tuple[Body, Member]:
    """Make the model of the first run. Raises `Apart`."""
    splits, added, session = _bound(recipe, task)
    names, tracked = _head_of(session)
    body = Body(recipe, splits, added, session, names, tracked)
    return body, _member(recipe, out, session, tracked)


def next_of(recipe: Recipe, out: Path, task: Task, body: Body) -> Member:
    """Make the model of another run, and keep what is its own. Raises `Apart`."""
    if group_key(recipe) != group_key(body.recipe):
        raise Apart("it differs from the others in more than seeds, learning rates and first weights")
    splits, _, session = _bound(recipe, task)
    names, tracked = _head_of(session)
    if names != body.names or [t.shape for t in tracked] != [t.shape for t in body.tracked]:
        raise Apart("its head has other weights than those of the others")
    if session.plan.total_steps != body.session.plan.total_steps:
        raise Apart("it has another number of steps than the others")
    if recipe.stack().implementing("data") and not _same_splits(splits, body.splits):
        raise Apart("a trick gives it other examples than the others have")
    if not _same_body(session.model, body.model, set(names)):
        raise Apart("its body is not that of the others: a trick draws, or trains, weights of its own below the head")
    return _member(recipe, out, session, tracked)


def _bound(recipe: Recipe, task: Task) -> tuple[Mapping[str, datasets.Dataset], tuple[str, ...], Session]:
    whole = copy.copy(recipe)
    whole.training = recipe.training.model_copy(update={"replay": "off"})  # each example passes the body once
    splits, added, session = bound(whole, task)
    if reason := reason_apart(recipe, session.plan):
        raise Apart(reason)
    Freezing(session.model, session.layers).apply(session.plan.stages[0].frozen)
    return splits, added, session


def _head_of(session: Session) -> tuple[list[str], list[Tensor]]:
    """The parameters of the head, and the buffers of modules that work for it."""
    model, layers = session.model, session.layers
    parameters = dict(model.named_parameters())
    found: dict[str, Tensor] = {name: parameters[name] for name in layers.parameters["head"]}
    for name, module in model.named_modules():
        if "head" in layers.modules[name]:
            for own, buffer in module.named_buffers(recurse=False):
                found[f"{name}.{own}".lstrip(".")] = buffer
    return list(found), list(found.values())


def _member(recipe: Recipe, out: Path, session: Session, tracked: list[Tensor]) -> Member:
    head = [tensor.detach().clone() for tensor in tracked]
    return Member(recipe, RunFolder(out), session.plan, head, session.order)


def _same_body(one: nn.Module, other: nn.Module, head: set[str]) -> bool:
    mine, theirs = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, other))
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine if name not in head
    )


def _same_splits(one: Mapping[str, datasets.Dataset], other: Mapping[str, datasets.Dataset]) -> bool:
    return one.keys() == other.keys() and all(one[name].to_dict() == other[name].to_dict() for name in one)
