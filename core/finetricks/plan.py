"""The plan: a recipe compiled for one model and one length. Plain data, known before training starts.

Learning rate of a group at a step = base rate x (product of the factors of its layer x schedule). Rule 4: this module
is the one place that computes it.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetricks.errors import Problem, RecipeError, TrickConflict
from finetricks.hooks import ParamOptions
from finetricks.progress import Progress, Stage

if TYPE_CHECKING:
    from torch import nn

    from finetricks.layers import Layers
    from finetricks.replay.course import Course
    from finetricks.stack import Stack


@dataclass(frozen=True)
class Group:
    """Parameters of one layer that share learning rate and weight decay.

    `set_by` names, for `lr_factor` and `weight_decay`, the tricks that set them.
    """

    name: str
    layer: str
    parameters: tuple[str, ...]
    lr_factor: float
    weight_decay: float
    set_by: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Plan:
    """What will be trained, how fast and when.

    Attributes:
        groups: every parameter of the model once, frozen ones too (rule 2), from input to output.
        stages: stretches of steps with the same frozen layers; they cover the run.
        schedule: factor on the learning rate at each step.
        learning_rate: base.
        decisions: what tricks have decided while training: the decision's name, and the first step at which it holds.
        deciders: the tricks that may decide while training; the plan is what happens unless they do.
        judges: those of them that decide from a slice held out of train.
        replay: where the work of frozen layers is left out; it changes no result. `None` where that was not asked for.
    """

    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    schedule: tuple[float, ...]
    learning_rate: float
    steps_per_epoch: int
    layers: tuple[str, ...]
    decisions: Mapping[str, int] = field(default_factory=dict)
    deciders: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    replay: Course | None = None

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(stage.end for stage in self.stages)

    @property
    def total_steps(self) -> int:
        return len(self.schedule)

    def factor(self, group: Group, step: int) -> float:
        """The factor on the base rate of `group` at `step`; after the last step, the last one's."""
        return group.lr_factor * self.schedule[min(step, self.total_steps - 1)]

    def rate(self, group: Group, step: int) -> float:
        """The learning rate of `group` at `step`."""
        return self.learning_rate * self.factor(group, step)

    def stage_at(self, step: int) -> Stage:
        """The stage that `step` lies in; after the last step, the last one."""
        return self.stages[min(bisect_right(self._ends, step), len(self.stages) - 1)]

    def _repr_png_(self) -> bytes:
        """How a notebook shows the plan: the picture of `finetricks explain`."""
        from finetricks.picture import png

        return png(self)

    def progress(self, step: int) -> Progress:
        """Where training is at `step`."""
        return Progress(step, self.total_steps, self.steps_per_epoch, self.stage_at(step), self.decisions)

    def trains(self, step: int) -> bool:
        """Whether any layer is trained at `step`."""
        return not self.stage_at(step).frozen >= set(self.layers)

    @property
    def freezes(self) -> bool:
        """Whether any layer is frozen at any step."""
        return any(stage.frozen for stage in self.stages)

    def never_trained(self) -> tuple[str, ...]:
        """Layers that stay frozen for the whole run."""
        return tuple(layer for layer in self.layers if all(layer in stage.frozen for stage in self.stages))

    def warnings(self) -> list[str]:
        """What a user would want to know before training starts."""
        found = []
        asleep = self.never_trained()
        if len(asleep) == len(self.layers):
            return ["every layer is frozen at every step: nothing will be learnt"]
        if asleep:
            found.append(
                f"{len(asleep)} of {len(self.layers)} layers never thaw within the {self.total_steps} steps: "
                f"{', '.join(asleep)}"
            )
        watching = tuple(name for name in self.deciders if name not in self.judges)
        for names, what in ((self.judges, "a slice held out of train"), (watching, "gradients")):
            if names:
                found.append(
                    f"{', '.join(names)} decides while training, from {what}: what the plan shows is what happens "
                    "unless it does"
                )
        if self.replay is not None and self.replay.off:
            found.append(f"replay: off, because {self.replay.off}")
        if not any(self.schedule):
            found.append("the schedule is 0 at every step: nothing will be learnt")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values: groups, total steps, the rate of each group at each step, stages."""
        return {
            "groups": [
                {
                    "name": group.name,
                    "layer": group.layer,
                    "parameters": list(group.parameters),
                    "lr_factor": group.lr_factor,
                    "weight_decay": group.weight_decay,
                    "set_by": {key: list(names) for key, names in group.set_by.items()},
                }
                for group in self.groups
            ],
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "learning_rate": {
                group.name: [self.rate(group, step) for step in range(self.total_steps)] for group in self.groups
            },
            "stages": [
                {
                    "from": stage.start,
                    "to": stage.end,
                    "frozen": [name for name in self.layers if name in stage.frozen],
                }
                for stage in self.stages
            ],
            "decided_while_training": list(self.deciders),
            "replay": None if self.replay is None else self.replay.to_dict(),
        }

    def unchanging(self) -> dict[str, Any]:
        """What the plan does at every step alike: groups with factor and weight decay, and the base rate."""
        return {
            "groups": [(g.name, g.parameters, g.lr_factor, g.weight_decay) for g in self.groups],
            "rate": self.learning_rate,
        }

    def fingerprint(self, steps: int | None = None) -> str:
        """A hash of what the plan does up to `steps` (all by default): equal hashes do equal work up to there."""
        steps = self.total_steps if steps is None else min(steps, self.total_steps)
        done = {
            **self.unchanging(),
            "schedule": self.schedule[:steps],
            "frozen": [(s.start, min(s.end, steps), sorted(s.frozen)) for s in self.stages if s.start < steps],
        }
        return hashlib.sha256(json.dumps(done).encode()).hexdigest()


def compile_plan(
    stack: Stack,
    model: nn.Module,
    layers: Layers,
    *,
    total_steps: int,
    steps_per_epoch: int,
    learning_rate: float,
    weight_decay: Mapping[str, float] | None = None,
    decisions: Mapping[str, int] | None = None,
) -> Plan:
    """Compile the tricks for one model and one length.

    Args:
        total_steps: optimizer steps of the run, at least 1.
        steps_per_epoch: optimizer steps of a whole epoch, at least 1.
        learning_rate: base rate.
        weight_decay: by parameter name, where the training settings and not a trick set it; 0 by default.
        decisions: what tricks have decided while training, with the first step at which each holds.

    Raises:
        TrickConflict: tricks that cannot stand together on this model (two weight decays for one parameter, a step at
            which every layer is frozen).
        TrickError: a trick gave what its hook does not allow.
    """
    if total_steps < 1 or steps_per_epoch < 1:
        raise ValueError(f"a run has at least one step, got {total_steps} in epochs of {steps_per_epoch}")
    stack.watch(("param_groups", "freeze", "schedule"), model)
    groups = _groups(stack.param_groups(model, layers), layers, weight_decay or {})
    decisions = dict(decisions or {})
    stages, schedule = _course(stack, layers, total_steps, steps_per_epoch, decisions)
    return Plan(
        groups, stages, schedule, learning_rate, steps_per_epoch, layers.names, decisions, stack.deciders, stack.judges
    )


MOST_STEPS = 10_000_000
"""Optimizer steps that a run may have: the plan holds what is done at each."""


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """Optimizer steps of a run: a fraction of an epoch is rounded up to whole steps, as the Trainer does.

    Raises:
        RecipeError: they are more than `MOST_STEPS`.
    """
    if epochs * steps_per_epoch > MOST_STEPS:
        told = f"{epochs:g} epochs of {steps_per_epoch} steps are more than {MOST_STEPS:,} steps; train for fewer"
        raise RecipeError(Problem("training.epochs", told))
    return max(math.ceil(epochs * steps_per_epoch), 1)


ASKED_AGAIN = 16
"""At so many steps, the last first, `freeze` and `schedule` are asked again, and must answer as they did."""

Asked = Mapping[str, Mapping[str, ParamOptions]]
SETTINGS = "training settings"


def _groups(asked: Asked, layers: Layers, weight_decay: Mapping[str, float]) -> tuple[Group, ...]:
    given = {name: ParamOptions(weight_decay=decay) for name, decay in weight_decay.items()}
    asked = {SETTINGS: given, **asked} if given else asked
    groups: list[Group] = []
    for layer in layers.names:
        alike: dict[tuple[float, float, tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for parameter in layers.parameters[layer]:
            alike.setdefault(_options(asked, layer, parameter), []).append(parameter)
        several_decays = len({decay for _, decay, _, _ in alike}) > 1
        several_factors = len({factor for factor, _, _, _ in alike}) > 1
        for (factor, decay, rates_by, decay_by), parameters in alike.items():
            name = layer + (f"/wd={decay:g}" if several_decays else "") + (f"/lr={factor:g}" if several_factors else "")
            # Groups that differ in who set their options, or beyond the digits shown, need names of their own.
            alike_named = sum(group.name.partition("#")[0] == name for group in groups)
            name += f"#{alike_named + 1}" if alike_named else ""
            set_by = {"lr_factor": rates_by, "weight_decay": decay_by}
            groups.append(Group(name, layer, tuple(parameters), factor, decay, set_by))
    return tuple(groups)


def _options(asked: Asked, layer: str, parameter: str) -> tuple[float, float, tuple[str, ...], tuple[str, ...]]:
    factor, decay = 1.0, 0.0
    rates_by: list[str] = []
    decay_by: list[str] = []
    for trick, options in asked.items():
        for_layer, own = options.get(layer, ParamOptions()), options.get(parameter, ParamOptions())
        rate = own.lr_factor if own.lr_factor is not None else for_layer.lr_factor
        if rate is not None and rate != 1.0:
            factor *= rate
            rates_by.append(trick)
        wanted = own.weight_decay if own.weight_decay is not None else for_layer.weight_decay
        if wanted is not None:
            decay = wanted
            decay_by.append(trick)
    if len(decay_by) > 1:
        raise TrickConflict(f"{' and '.join(decay_by)} both set the weight decay of {parameter!r}; pick one")
    return factor, decay, tuple(rates_by), tuple(decay_by)


def _course(
    stack: Stack, layers: Layers, total_steps: int, steps_per_epoch: int, decisions: Mapping[str, int]
) -> tuple[tuple[Stage, ...], tuple[float, ...]]:
    """The stages, and the factor at each step by what was decided until then.

    A decision that ends a stage early must not change the factors of the steps before it: to them the stage was longer.
    """
    schedule: list[float] = []
    starts = sorted({0, *decisions.values()})
    for start, end in zip(starts, [*starts[1:], total_steps], strict=True):
        known = {name: step for name, step in decisions.items() if step <= start}
        stages = _stages(stack, layers, total_steps, steps_per_epoch, known)
        here = [
            Progress(step, total_steps, steps_per_epoch, stage, known)
            for stage in stages
            for step in range(max(stage.start, start), min(stage.end, end))
        ]
        schedule += [stack.schedule(progress) for progress in here]
        for progress in here[:: -(-len(here) // ASKED_AGAIN)][::-1] if here else ():
            stage = progress.stage or stages[-1]
            stack.check_pure(progress, layers, stage.frozen, schedule[progress.step])
    return stages, tuple(schedule)


def _stages(
    stack: Stack, layers: Layers, total_steps: int, steps_per_epoch: int, decisions: Mapping[str, int]
) -> tuple[Stage, ...]:
    if not stack.implementing("freeze"):
        return (Stage(0, 0, total_steps),)
    stages: list[Stage] = []
    for step in range(total_steps):
        frozen = stack.freeze(Progress(step, total_steps, steps_per_epoch, decisions=decisions), layers)
        if frozen >= set(layers.names) and not stack.trains_nothing:
            names = " and ".join(stack.implementing("freeze"))
            raise TrickConflict(
                f"{names}: every layer is frozen at step {step} of {total_steps}; nothing would be trained"
            )
        if stages and stages[-1].frozen == frozen:
            stages[-1] = Stage(stages[-1].index, stages[-1].start, step + 1, frozen)
        else:
            stages.append(Stage(len(stages), step, step + 1, frozen))
    return tuple(stages)
