"""Training in other ways than fp32 in one process, watched from outside at every step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import every
from finetricks import Session
from finetricks.distributed import ALONE, Ranks
from finetricks_plugins.build.adapters import held

Weights = dict[str, torch.Tensor]

SIX_STEPS = {"batch_size": 8}


@dataclass
class Seen:
    """What a run did: the loss of each micro-batch, the weights that changed, a line for each broken promise."""

    losses: list[float] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    skipped: int = 0


def watched(
    session: Session,
    upto: int | None = None,
    *,
    wrapped: nn.Module | None = None,
    ranks: Ranks = ALONE,
    after_step: Callable[[Session], None] = lambda _: None,
) -> Seen:
    """Train to the end, or up to `upto` steps done, and hold every step to the plan."""
    seen = Seen()
    session.model.train()
    for batch in session.batches():
        step = session.global_step
        loss = session.loss(batch, wrapped)
        seen.losses.append(ranks.mean(loss.item() * session.weight))
        session.backward(loss)
        before = copied(session.model)
        seen.broken += plan_broken(session, step)
        session.step()
        changed = moved(before, session.model)
        # No score depends on an attention's key bias: what moves it is rounding.
        seen.changed |= {name for name in changed if "key.bias" not in name}
        seen.skipped += session.last_skipped
        seen.broken += weights_broken(session, step, changed)
        if not math.isfinite(seen.losses[-1]):
            seen.broken.append(f"step {step}: the loss is {seen.losses[-1]}")
        after_step(session)
        if session.plan.deciders and session.global_step % session.plan.steps_per_epoch == 0:
            session.evaluated({"accuracy": -session.global_step})
        if session.global_step == upto:
            break
    return seen


def copied(model: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def moved(before: Weights, model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def plan_broken(session: Session, step: int) -> list[str]:
    """Where the optimizer and the model are not as the plan has them at `step`."""
    broken = []
    frozen = session.plan.stage_at(step).frozen
    parameters = dict(session.model.named_parameters())
    of_adapters = kept_for_adapters(session.model)
    for group, planned in zip(session.optimizer.param_groups, session.plan.groups, strict=True):
        if (group["lr"], group["weight_decay"]) != (session.plan.rate(planned, step), planned.weight_decay):
            broken.append(f"step {step}: {planned.name} has the rate {group['lr']}")
        for name in planned.parameters:
            if parameters[name].requires_grad == (planned.layer in frozen or name in of_adapters):
                broken.append(f"step {step}: {name} is frozen and should not be, or the other way round")
            if parameters[name].dtype != torch.float32:
                broken.append(f"step {step}: {name} is {parameters[name].dtype}")
    return broken


def kept_for_adapters(model: nn.Module) -> set[str]:
    """The names of the weights that are frozen throughout, so that adapters learn in their place."""
    frozen = {id(parameter) for parameter in held(model)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in frozen}


def weights_broken(session: Session, step: int, changed: set[str]) -> list[str]:
    """The weights that `step` changed though they were frozen or it was skipped, and those that are not finite."""
    frozen = session.plan.stage_at(step).frozen
    still = {name for group in session.plan.groups if group.layer in frozen for name in group.parameters}
    still |= kept_for_adapters(session.model)
    parameters = session.model.named_parameters()
    return [
        *(f"step {step}: {name} changed" for name in (changed if session.last_skipped else changed & still)),
        *(f"step {step}: {name} is not finite" for name, value in parameters if not torch.isfinite(value).all()),
    ]


# -- among processes -------------------------------------------------------------------------------------


def among_ranks(name: str, ranks: Ranks, training: dict[str, Any]) -> dict[str, Any]:
    """Train a trick, without dropout, with the batches shared out among `ranks`: what this process saw."""
    session = every.bound(every.recipe(name, **training), ranks=ranks)
    without_dropout(session.model)
    wrapped, weights = ranks.wrap(session.model), []
    seen = watched(session, wrapped=wrapped, ranks=ranks, after_step=lambda session: weights.append(digest(session)))
    stages = len(session.plan.stages)
    return {
        "losses": seen.losses,
        "broken": seen.broken,
        "changed": sorted(seen.changed),
        "weights": weights,
        "stages": stages,
    }


def without_dropout(model: nn.Module) -> None:
    """Every dropout at 0, that of recurrent weights and of whole words too."""
    for module in model.modules():
        for name in ("p", "dropout", "weight_drop", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def digest(session: Session) -> str:
    """A hash of the parameters, to the bit."""
    found = hashlib.sha256()
    for value in session.model.parameters():
        found.update(value.detach().cpu().numpy().tobytes())
    return found.hexdigest()
