"""How far two runs do the same work: what must be equal for it, and up to which step it is.

All that acts outside the plan must be equal entirely: data, model, settings, seeds, and the tricks that act on any of
these or on the loss. What acts through the plan alone (rates, groups, freezing) may differ, and the runs part at the
first step at which their plans do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetricks.errors import CheckpointError
from finetricks.hooks import HOOKS
from finetricks.implementation import implementations
from finetricks.provenance import made_with
from finetricks.trick import Trick

if TYPE_CHECKING:
    from finetricks.plan import Plan
    from finetricks.recipe import Recipe
    from finetricks.stack import Named

OF_THE_PLAN = frozenset({"param_groups", "freeze", "schedule", "finish"})
"""Hooks that do nothing to a step that the plan does not say."""

BY_PLAN = frozenset({"epochs"})
"""Settings of training that act through the plan alone."""

BEFORE_TRAINING = frozenset({"data", "build", "init"})

OF_THE_BATCH = frozenset(HOOKS) - OF_THE_PLAN - BEFORE_TRAINING - {"evaluated"}
"""Hooks that are called for each batch or step, and told where training is."""

OF_THE_STEPS = BY_PLAN | {
    *("learning_rate", "optimizer", "betas", "eps", "momentum", "clip", "nonfinite_patience", "accumulation"),
    *("evaluate", "eval_batch_size", "checkpoint", "dropout_seed"),
}
"""Settings of training that say nothing of what is done before the first step."""


def acts_by_plan(trick: Trick) -> bool:
    """Whether what a trick does to a training step stands in the plan, and nowhere else."""
    of_the_plan = trick.plans_only or {i.hook for i in implementations(type(trick))} <= OF_THE_PLAN
    return of_the_plan and not trick.bounds_length


def looks_ahead(trick: Trick) -> bool:
    """Whether what a trick does to a step's loss may depend on where the run, or its present stage, will end."""
    return trick.looks_ahead and bool({i.hook for i in implementations(type(trick))} & OF_THE_BATCH)


def unlike_any(recipe: Recipe) -> str:
    """Why no other run can go on from a step of this one; empty where one can."""
    if deciders := recipe.stack().deciders:
        return f"{', '.join(deciders)} decides while training"
    return "streams: none draws from the global random state" if recipe.training.streams == "none" else ""


def beginning(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that must be equal, in JSON values; tricks with the hash of their source."""
    return _parts(recipe, BY_PLAN, [(name, trick) for name, trick in recipe.tricks if not acts_by_plan(trick)])


def starting(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that its weights before the first step depend on, in JSON values."""
    kept = [(name, trick) for name, trick in recipe.tricks if acts_before_training(trick)]
    return _parts(recipe, OF_THE_STEPS, kept) | {"held_out": bool(recipe.stack().judges)}


def acts_before_training(trick: Trick) -> bool:
    """Whether a trick may change data, structure or weights before the first step."""
    return not trick.plans_only and bool({i.hook for i in implementations(type(trick))} & BEFORE_TRAINING)


def _parts(recipe: Recipe, without: frozenset[str], tricks: list[Named]) -> dict[str, Any]:
    resolved, sources = recipe.to_dict(), made_with(tricks)["tricks"]
    return resolved | {
        "training": {key: value for key, value in resolved["training"].items() if key not in without},
        "tricks": [[name, trick.model_dump(mode="json"), sources[name]["source"]] for name, trick in tricks],
    }


@dataclass(frozen=True)
class Prefix:
    """A run, as far as another one may do the same work.

    Attributes:
        equal: all that must be equal entirely, JSON values.
        plan: of the run.
        ahead: whether a trick of its loss looks ahead: the lengths of the run and of its stages must be equal too.
    """

    equal: Mapping[str, Any]
    plan: Plan
    ahead: bool = False

    @classmethod
    def of(cls, recipe: Recipe, plan: Plan, **facts: Any) -> Prefix:
        """Of a run of `recipe`; `facts` are what else determines its work."""
        ahead = any(looks_ahead(trick) for _, trick in recipe.tricks)
        return cls({"recipe": beginning(recipe), **facts}, plan, ahead)

    @property
    def last(self) -> int:
        """The last step from which another run can go on: one is left to be done, so that it ends in its own way."""
        return self.plan.total_steps - 1

    def shared(self, other: Prefix) -> int:
        """How many steps both do alike, at least one less than either has."""
        one, two = self.plan, other.plan
        if self._whole != other._whole or one.unchanging() != two.unchanging():
            return 0
        most = min(self.last, other.last)
        if self.ahead and one.total_steps != two.total_steps:
            return 0
        pairs = enumerate(zip(one.schedule, two.schedule, strict=False))
        most = min(most, next((step for step, (a, b) in pairs if a != b), most))
        if self.ahead:
            stages = zip(one.stages, two.stages, strict=False)
            return min(most, next((a.start for a, b in stages if a != b), most))
        step = i = j = 0
        while step < most and one.stages[i].frozen == two.stages[j].frozen:
            step = min(one.stages[i].end, two.stages[j].end)
            i, j = i + (one.stages[i].end == step), j + (two.stages[j].end == step)
        return min(step, most)

    def identity(self, step: int) -> dict[str, Any]:
        """What another run must agree with to go on from `step`."""
        plan = self.plan
        found = {**self.equal, "steps_per_epoch": plan.steps_per_epoch, "plan": plan.fingerprint(step)}
        if self.ahead:
            found["ahead"] = [plan.total_steps, [[s.start, s.end] for s in plan.stages if s.start < step]]
        return found

    def name(self, step: int) -> str:
        """A name for the state after `step` steps: that of all runs which agree up to there."""
        text = json.dumps(self.identity(step), sort_keys=True)
        return f"{step:08d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def check(self, other: Any, step: int) -> None:
        """Raise `CheckpointError`, with what differs, where `other` is the identity of a run that was another by then.

        Raises:
            CheckpointError: also where this run has no step left to do then.
        """
        own = self.identity(step)
        if not isinstance(other, Mapping) or other.keys() != own.keys():
            raise CheckpointError("the state of another run says nothing of what it has in common with this one")
        if step > self.last:
            raise CheckpointError(
                f"another run's state at step {step} leaves this one, of {self.last + 1}, nothing to do"
            )
        if differing := sorted(key for key in own if _plain(own[key]) != _plain(other[key])):
            raise CheckpointError(f"the state is of a run that was another by step {step}: {', '.join(differing)}")

    @cached_property
    def _whole(self) -> str:
        return _plain({**self.equal, "ahead": self.ahead, "steps_per_epoch": self.plan.steps_per_epoch})


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
