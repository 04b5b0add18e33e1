"""Plans hold: at every optimizer step of every session in this process, what the optimizer really does is the plan's.

`watch` looks from outside: it is told of each session when it is made, and of each step by a hook that torch calls
before any optimizer steps. What the plan says is computed here from its data (groups, schedule, stages), not by its own
functions, and the steps are counted here.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from finetricks import Layers, Plan, Session, Stack


class PlanBroken(AssertionError):
    """An optimizer is about to do what the plan does not say."""


@dataclass
class Watched:
    """A session, and what is known of it from outside.

    Attributes:
        trainable: the parameters that the user had not frozen, by name.
        next: the step that must come next; `None` where a checkpoint says so.
        skipped: how many steps the session had skipped when the optimizer last stepped.
    """

    session: weakref.ref[Session]
    parameters: Mapping[str, nn.Parameter]
    modules: Mapping[str, nn.Module]
    trainable: frozenset[str]
    next: int | None = 0
    skipped: int = 0


@dataclass
class Watch:
    """Attributes: steps and values compared so far, and what was found broken."""

    steps: int = 0
    values: int = 0
    broken: list[str] = field(default_factory=list)
    by_optimizer: weakref.WeakKeyDictionary[Optimizer, Watched] = field(default_factory=weakref.WeakKeyDictionary)

    def before_step(self, optimizer: Optimizer, *_: Any) -> None:
        watched = self.by_optimizer.get(optimizer)
        session = watched and watched.session()
        if watched is None or session is None:
            return
        found = [] if watched.next is None else list(_out_of_turn(session, watched.next, watched.skipped))
        watched.next, watched.skipped = session.global_step + 1, session.skipped.total
        found += _differences(session, optimizer, watched)
        self.steps += 1
        self.values += 2 * len(optimizer.param_groups) + len(watched.parameters) + len(watched.modules)
        if found:
            self.broken += found
            raise PlanBroken(f"step {session.global_step}: " + "; ".join(found))


WATCH = Watch()


@functools.cache
def watch() -> Watch:
    """Watch every session that this process makes from now on."""
    # `bind` too: what a trick freezes while it initialises is no wish of the user's.
    build = Stack.build
    bind, make, load, recall = Session.bind.__func__, Session.__init__, Session.load_state_dict, Session.recall  # type: ignore[attr-defined]
    before: list[set[int]] = []

    @functools.wraps(bind)
    def watched_bind(cls: type[Session], recipe: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Session:
        before.append({id(p) for p in model.parameters() if p.requires_grad})
        try:
            return bind(cls, recipe, model, *args, **kwargs)  # type: ignore[no-any-return]
        finally:
            before.pop()

    @functools.wraps(build)
    def watched_build(self: Stack, *args: Any, **kwargs: Any) -> nn.Module:
        model = build(self, *args, **kwargs)
        if before:  # what a trick freezes for good, for the sake of adapters
            before[-1] = {id(p) for p in model.parameters() if p.requires_grad}
        return model

    @functools.wraps(make)
    def watched_make(self: Session, **kwargs: Any) -> None:
        model = kwargs["model"]
        parameters = dict(model.named_parameters())
        asked = before[-1] if before else set()
        trainable = frozenset(name for name, p in parameters.items() if p.requires_grad or id(p) in asked)
        make(self, **kwargs)
        WATCH.by_optimizer[self.optimizer] = Watched(
            weakref.ref(self), parameters, dict(model.named_modules()), trainable
        )

    @functools.wraps(load)
    def watched_load(self: Session, state: Mapping[str, Any]) -> None:
        load(self, state)
        watched = WATCH.by_optimizer[self.optimizer]
        watched.next, watched.skipped = state["global_step"], self.skipped.total

    @functools.wraps(recall)
    def watched_recall(self: Session, *args: Any) -> None:
        recall(self, *args)
        WATCH.by_optimizer[self.optimizer].next = None  # a Trainer resumes, and knows where

    Stack.build = watched_build  # type: ignore[method-assign]
    Session.bind = classmethod(watched_bind)  # type: ignore[method-assign, assignment]
    Session.__init__ = watched_make  # type: ignore[method-assign]
    Session.load_state_dict = watched_load  # type: ignore[method-assign]
    Session.recall = watched_recall  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(WATCH.before_step)
    return WATCH


def _out_of_turn(session: Session, expected: int, skipped: int) -> Iterator[str]:
    """Steps follow one another, but for those at which every layer is frozen, and those that are skipped."""
    plan, step = session.plan, session.global_step
    idle = {s for stage in plan.stages if stage.frozen >= set(plan.layers) for s in range(stage.start, stage.end)}
    scaled = session.loss_scale != 1
    missing = set(range(expected, step)) - idle
    if step < expected or not (scaled or len(missing) <= session.skipped.total - skipped):
        yield f"step {expected} was to come next"


def _differences(session: Session, optimizer: Optimizer, watched: Watched) -> Iterator[str]:
    plan, step = session.plan, session.global_step
    frozen = next(stage.frozen for stage in plan.stages if stage.start <= step < stage.end)
    yield from _groups(plan, step, optimizer, watched.parameters)
    for group in plan.groups:
        for name in group.parameters:
            parameter = watched.parameters[name]
            trains = group.layer not in frozen and name in watched.trainable
            if parameter.requires_grad != trains:
                yield f"{name} has requires_grad={parameter.requires_grad}; the plan says {trains}"
            if not trains and parameter.grad is not None:
                yield f"{name} is frozen and has a gradient"
    yield from _modes(session.layers, session.model, watched.modules, frozen, _ever_frozen(plan, step))


def _groups(plan: Plan, step: int, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> Iterator[str]:
    actual = {group["name"]: group for group in optimizer.param_groups}
    if [group["name"] for group in optimizer.param_groups] != [group.name for group in plan.groups]:
        yield f"the optimizer has the groups {', '.join(actual)}; the plan has {', '.join(g.name for g in plan.groups)}"
        return
    if sorted(name for group in plan.groups for name in group.parameters) != sorted(parameters):
        yield "the plan's groups are not the model's parameters"
    for group in plan.groups:
        own = actual[group.name]
        rate = plan.learning_rate * (group.lr_factor * plan.schedule[step])
        if own["lr"] != rate:
            yield f"{group.name} has the rate {own['lr']}; the plan says {rate}"
        if own["weight_decay"] != group.weight_decay:
            yield f"{group.name} has weight decay {own['weight_decay']}; the plan says {group.weight_decay}"
        if [id(p) for p in own["params"]] != [id(parameters[name]) for name in group.parameters]:
            yield f"{group.name} holds other parameters than the plan's"


def _ever_frozen(plan: Plan, step: int) -> list[frozenset[str]]:
    return [stage.frozen for stage in plan.stages if stage.start <= step]


def _modes(
    layers: Layers,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    frozen: frozenset[str],
    ever: list[frozenset[str]],
) -> Iterator[str]:
    """Frozen modules are in eval mode; those that have thawed are in the model's."""
    for name, module in modules.items():
        works_for = layers.modules.get(name)
        if not works_for:
            continue
        if works_for <= frozen:
            if module.training:
                yield f"module {name!r} is frozen and not in eval mode"
        elif module.training != model.training and any(works_for <= before for before in ever):
            yield f"module {name!r} has thawed, and is not in the mode of the model"
