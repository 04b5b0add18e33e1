"""Through how many units of each activation does no gradient pass, whatever is read?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from finetricks.doctor.case import Case, first_batches, still
from finetricks.doctor.finding import Finding, look, ok, wrong

MODULES = ("torch.nn.modules.activation", "transformers.activations", "finetricks_plugins")
NOT_BY_UNIT = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU, nn.Softmax2d, nn.MultiheadAttention)

FLAT = 1e-3
"""A unit is dead if its activation is flatter than this (the slope of its output over its input) wherever it was."""

SOME, MANY = 0.1, 0.5
"""Shares of an activation's units."""

BATCHES = 4


@dataclass(frozen=True)
class Activation:
    """Attributes: the module's name, its class's, and the steepest slope of each unit that was seen: [units]."""

    name: str
    kind: str
    slopes: torch.Tensor

    @property
    def dead(self) -> float:
        """The share of the units that are dead."""
        return float((self.slopes < FLAT).float().mean())

    def __str__(self) -> str:
        units = int((self.slopes < FLAT).sum())
        return f"{self.name} ({self.kind}) {units} of {len(self.slopes)} ({self.dead:.0%})"


def check_dead_units(case: Case) -> Iterator[Finding]:
    found = activations(case)
    if not found:
        yield ok("the model has no module that is an activation")
        return
    dying = sorted((one for one in found if one.dead > SOME), key=lambda one: -one.dead)
    if not dying:
        worst = max(found, key=lambda one: one.dead)
        yield ok(f"{len(found)} activations; most units are dead in {worst}")
        return
    finding = wrong if dying[0].dead > MANY else look
    yield finding(
        f"units through which no gradient passes, on {BATCHES} batches: {'; '.join(map(str, dying))}",
        "they learn nothing: begin with smaller weights or biases, or take an activation that is nowhere flat "
        "(the trick `activation`)",
    )


def activations(case: Case) -> list[Activation]:
    """What the activations of the model, as training begins with it, do with the first batches."""
    session = case.session()
    seen: dict[tuple[str, int], torch.Tensor] = {}
    found = {name: module for name, module in session.model.named_modules() if _is_activation(module)}
    with still(session.model), ExitStack() as hooks:
        for name, module in found.items():
            handle = module.register_forward_pre_hook(partial(_note, seen, name))
            hooks.callback(handle.remove)
        for batch in first_batches(session, BATCHES):
            session.loss(batch)
    return [Activation(name, type(found[name]).__name__, slopes) for (name, _), slopes in seen.items()]


def _is_activation(module: nn.Module) -> bool:
    leaf = not any(module.children()) and not any(True for _ in module.parameters())
    return leaf and type(module).__module__.startswith(MODULES) and not isinstance(module, (*NOT_BY_UNIT, nn.Dropout))


def _note(seen: dict[tuple[str, int], torch.Tensor], name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
    """Keep the steepest slope of each unit, which is the last dimension of what the activation is given."""
    at = given[0].detach().clone().requires_grad_()
    with torch.enable_grad():
        out = module.forward(at.clone())  # not called, which would come here again; a copy, for what writes in place
        (slope,) = torch.autograd.grad(out.sum(), at)
    steepest = slope.abs().reshape(-1, slope.shape[-1]).amax(0)
    key = (name, len(steepest))
    seen[key] = torch.maximum(seen[key], steepest) if key in seen else steepest
