"""The tricks of one run as one pluggy manager, behind a typed facade: one method a hook.

A fresh manager is made for each run, so that two runs in one process never touch. pluggy is kept for what it does well
(one owner wrapped by others, arguments by name); what chains or is checked item by item is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import pluggy

from finetricks.catalog import origin
from finetricks.errors import Problem, TrickConflict, TrickError, suggest
from finetricks.fresh import Rebuilding, fresh_parameters
from finetricks.guard import Check, Guard
from finetricks.hooks import HOOKS, PROJECT, WRAPPABLE, Context, Hooks, ParamOptions, hookimpl
from finetricks.implementation import announce_changes, check_hooks, implementations, owns
from finetricks.streams import child
from finetricks.trick import Trick
from finetricks.untouched import Untouched, isolated

if TYPE_CHECKING:
    import datasets
    import torch
    from torch import nn

    from finetricks.layers import Layers
    from finetricks.progress import Progress
    from finetricks.step import Step

Named = tuple[str, Trick]
Criterion = Callable[[Any, Any], "torch.Tensor"]


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # pluggy reads every attribute of a plugin; on a pydantic model some of them warn or compute.
        return super().parse_hookimpl_opts(plugin, name) if name in HOOKS else None

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        # pluggy would warn of what changes for every run anew, thousands of times in a study.
        options = super().parse_hookspec_opts(module_or_class, name)
        return options and {**options, "warn_on_impl": None, "warn_on_impl_args": None}


class _Defaults:
    """What owns `schedule` and `loss` when no trick does."""

    def __init__(self, schedule: Sequence[float] | None, criterion: Criterion | None) -> None:
        self._factors = schedule
        self._criterion = criterion

    @hookimpl(trylast=True)
    def schedule(self, progress: Progress) -> float:
        return 1.0 if self._factors is None else self._factors[progress.step]

    @hookimpl(trylast=True)
    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        if self._criterion is not None:
            return self._criterion(outputs, batch)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        if loss is None:
            raise TrickError(
                "the model gave no loss: put `labels` in the batch, name a trick that owns `loss`, "
                "or give `criterion` to `recipe.bind`"
            )
        return loss  # type: ignore[no-any-return]


def conflicts(tricks: Sequence[Named]) -> list[Problem]:
    """Why these tricks cannot stand in one recipe; empty when they can. Needs no model."""
    names = [name for name, _ in tricks]
    problems = [
        Problem(f"tricks.{name}", "stands twice; a trick stands once in a recipe")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for hook in sorted(WRAPPABLE):
        owners = sorted({name for name, trick in tricks if owns(type(trick), hook)})
        if len(owners) > 1:
            listed = f"{', '.join(owners[:-1])} and {owners[-1]}"
            amount = "both" if len(owners) == 2 else "all"
            problems.append(Problem("", f"{listed} {amount} own the {hook!r} hook; pick one"))
    for name, trick in tricks:
        for other, reason in type(trick).conflicts.items():
            if other in names:
                problems.append(Problem("", f"{name} and {other} exclude one another: {reason}"))
        for other, reason in type(trick).requires.items():
            if other not in names:
                problems.append(Problem("", f"{name} needs {other}: {reason}"))
    return problems


class Stack:
    """The composed tricks of one run.

    Args:
        tricks: names and tricks, in the recipe's order.
        schedule: factor at each step when no trick owns `schedule`; 1 by default.
        criterion: loss of `(outputs, batch)` when no trick owns `loss`; the loss that the model gave by default.

    Raises:
        TrickConflict: the tricks exclude one another.
        TrickError: a trick's class cannot work as a plugin.
    """

    def __init__(
        self,
        tricks: Iterable[Named] = (),
        *,
        schedule: Sequence[float] | None = None,
        criterion: Criterion | None = None,
    ) -> None:
        self.tricks: tuple[Named, ...] = tuple(tricks)
        if problems := conflicts(self.tricks):
            raise TrickConflict(problems)
        self._manager = _Manager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._manager.register(_Defaults(schedule, criterion), "finetricks")
        # pluggy calls the last registered first: reversed, the first listed is called first and is outermost.
        for name, trick in reversed(self.tricks):
            check_hooks(type(trick))
            announce_changes(type(trick))
            self._manager.register(trick, name)
        self._manager.check_pending()
        self._hook = self._manager.hook
        self._guards = {hook: self._guarded(hook) for hook in HOOKS}
        self._values = {name: trick.model_dump_json() for name, trick in self.tricks}
        self._owned_loss = self.owner("loss") is not None
        self._names = {id(trick): name for name, trick in self.tricks}
        self._outputs: list[torch.Tensor] = []  # the model's latest, or their sums, while a trick owns `loss`

    def _guarded(self, hook: str) -> list[Guard]:
        """Put a guard before each implementation of a hook; in the order in which they are called."""
        tricks, guards = dict(self.tricks), []
        # Latest registered stands last and is called first; of wrappers, which all stand last, too.
        for implementation in reversed(getattr(self._hook, hook).get_hookimpls()):
            if (name := implementation.plugin_name) in tricks:
                guard = Guard(name, tricks[name], hook, implementation, CHECKS.get(hook))
                implementation.function = guard.wrapping if implementation.wrapper else guard.plain
                guards.append(guard)
        return guards

    def check_unchanged(self) -> None:
        """Raise `TrickError` for a trick whose values are no longer those that the run began with."""
        for name, trick in self.tricks:
            if (now := trick.model_dump_json()) != self._values[name]:
                raise TrickError(
                    f"trick {name!r} of {origin(type(trick))} has changed itself: {self._values[name]} became {now}; a "
                    "trick is immutable, what it must remember lives in `step.state_of(self)`"
                )

    def name_of(self, trick: Trick) -> str:
        """The name that `trick` has in this stack."""
        return self._names[id(trick)]

    def implementing(self, *hooks: str) -> tuple[str, ...]:
        """Names of the tricks that implement any of `hooks`, in the recipe's order."""
        return tuple(n for n, trick in self.tricks if any(i.hook in hooks for i in implementations(type(trick))))

    def owner(self, hook: str) -> str | None:
        """The name of the trick that owns `schedule` or `loss`; `None` when the default does."""
        return next((name for name, trick in self.tricks if owns(type(trick), hook)), None)

    @property
    def deciders(self) -> tuple[str, ...]:
        """Names of the tricks that decide while training, in the recipe's order."""
        return self._deciding("evaluated", "after_backward")

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of those that decide from evaluations, for which a slice of train is held out."""
        return self._deciding("evaluated")

    def _deciding(self, *hooks: str) -> tuple[str, ...]:
        implementing = self.implementing(*hooks)
        return tuple(name for name, trick in self.tricks if name in implementing and trick.decides)

    @property
    def bounds_length(self) -> bool:
        """Whether a trick keeps examples to a length that the model can take."""
        return any(trick.bounds_length for _, trick in self.tricks)

    @property
    def trains_nothing(self) -> bool:
        """Whether a trick may freeze every layer."""
        return any(trick.trains_nothing for _, trick in self.tricks)

    @property
    def changes_structure(self) -> bool:
        """Whether what tricks built into the model stays there when training ends."""
        return bool(set(self.implementing("build")) - set(self.implementing("finish")))

    def watch(self, hooks: Iterable[str], model: nn.Module) -> None:
        """Look, when each of `hooks` is called next, at what it must leave alone: `model`, the batch, the process."""
        for hook in hooks:
            for guard in self._guards[hook]:
                guard.watch(partial(_before, hook, model))

    # -- once, before training ---------------------------------------------------------------------------

    def data(self, dataset: datasets.Dataset, split: str, seed: int, **context: Any) -> datasets.Dataset:
        """Pass a split through the tricks. `seed` is the data stream's, `context` fills a `Context`."""
        # What bounds the length comes last: what others add must be bounded too.
        bounding = {name: trick.bounds_length for name, trick in self.tricks}
        for call in sorted(self._guards["data"], key=lambda guard: bounding[guard.name]):
            about = Context(seed=child(seed, "data", call.name, split), **context)
            with isolated(about.seed):
                changed = call(dataset=dataset, split=split, context=about)
            # A Trainer's data set may be of any kind; what a trick does not change it gives back as it is.
            if changed is not dataset and not hasattr(changed, "column_names"):
                raise call.error(f"gave {type(changed).__name__} instead of a data set; return it")
            if lost := [c for c in NEEDED if c in _columns(dataset) and c not in _columns(changed)]:
                raise call.error(f"gave a data set without the column {lost[0]!r}; keep it")
            dataset = changed
        return dataset

    def build(self, model: nn.Module, seed: int, **context: Any) -> nn.Module:
        """Let the tricks change the model's structure. `seed` is the initialisation stream's."""
        from torch import nn

        rebuilding = Rebuilding(model)
        for call in self._guards["build"]:
            about = Context(seed=child(seed, "build", call.name), fresh=rebuilding.fresh(model), **context)
            with isolated(about.seed):
                built = call(model=model, context=about)
            if not (built is None or isinstance(built, nn.Module)):
                raise call.error(
                    f"gave {type(built).__name__} instead of a model, or None for the one that it was given"
                )
            model = model if built is None else built
            if complaint := _unusable(model):
                raise call.error(f"left {complaint}")
        rebuilding.end(model)
        return model

    def init(self, model: nn.Module, layers: Layers, seed: int, **context: Any) -> None:
        """Let the tricks change weights. `seed` is the initialisation stream's."""
        fresh = fresh_parameters(model, layers)
        # What trains weights comes after what draws them, which would throw its work away.
        learning = {name: trick.learns for name, trick in self.tricks}
        for call in sorted(self._guards["init"], key=lambda guard: learning[guard.name]):
            about = Context(seed=child(seed, "init", call.name), fresh=fresh, **context)
            # Training is far from what must stay as it is; but the model's structure has been read already.
            untouched = Untouched(model, weights=False)
            with isolated(about.seed):
                call(model=model, layers=layers, context=about)
            if complaint := untouched.disturbed() or _unusable(model):
                raise call.error(complaint)

    # -- compiled into the plan --------------------------------------------------------------------------

    def param_groups(self, model: nn.Module, layers: Layers) -> dict[str, Mapping[str, ParamOptions]]:
        """What each trick asks for, by the trick's name. Names that the model lacks are errors."""
        asked: dict[str, Mapping[str, ParamOptions]] = {}
        known = {*layers.names, *(p for group in layers.parameters.values() for p in group)}
        for call in self._guards["param_groups"]:
            given = call(model=model, layers=layers)
            if not isinstance(given, Mapping):
                raise call.error(f"gave {type(given).__name__}; it gives {{layer or parameter: ParamOptions(...)}}")
            asked[call.name] = plain = dict[str, ParamOptions]()
            for key, options in given.items():
                if key not in known:
                    near = suggest(str(key), known)
                    raise call.error(f"the model has no layer or parameter {key!r}{near}")
                if not isinstance(options, ParamOptions):
                    raise call.error(
                        f"gave {options!r} for {key!r}; give ParamOptions(lr_factor=..., weight_decay=...)"
                    )
                for field, value in vars(options).items():
                    if value is not None and not _is_factor(value):
                        raise call.error(f"{field} of {key!r} is {value!r}; give 0 or more")
                # numpy's numbers would go on into the plan, and its fingerprint
                plain[key] = ParamOptions(**{f: None if v is None else float(v) for f, v in vars(options).items()})
        return asked

    def freeze(self, progress: Progress, layers: Layers) -> frozenset[str]:
        """The layers that are frozen at a step: the union over the tricks."""
        frozen: set[str] = set()
        for call in self._guards["freeze"]:
            frozen |= self._frozen_by(call, progress, layers)
        return frozenset(frozen)

    def _frozen_by(self, call: Guard, progress: Progress, layers: Layers) -> frozenset[str]:
        given = call(progress=progress, layers=layers)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise call.error(f"gave {given!r}; it gives the names of layers in a tuple, a list or a set")
        asked = tuple(given)  # an iterator is empty once it was gone through
        for name in asked:
            if name not in layers.names:
                raise call.error(
                    f"no layer {name!r}{suggest(str(name), layers.names)}; the model has {', '.join(layers.names)}"
                )
        return frozenset(asked)

    def schedule(self, progress: Progress) -> float:
        """The factor on the learning rate at a step: the owner's, as its wrappers changed it."""
        factor = self._hook.schedule(progress=progress)
        if complaint := _not_a_factor(factor):  # that of the Trainer's arguments: those of tricks were looked at
            raise TrickError(f"hook 'schedule' {complaint}, at step {progress.step} of {progress.total_steps}")
        return float(factor)

    def check_pure(self, progress: Progress, layers: Layers, frozen: frozenset[str], factor: float) -> None:
        """Ask `freeze` and `schedule` again, and raise `TrickError` where one does not answer as it did (rule 1).

        Args:
            progress: with its stage, as `schedule` saw it.
            frozen, factor: what was answered.
        """
        before_freezing = replace(progress, stage=None)
        for call in self._guards["freeze"]:
            answers = [self._frozen_by(call, before_freezing, layers) for _ in range(2)]
            if answers[0] != answers[1] or not answers[0] <= frozen:
                raise call.error(f"does not give the same for the same step ({progress.step}) {PURE}")
        if frozen != (now := self.freeze(before_freezing, layers)):
            names = ", ".join(guard.who for guard in self._guards["freeze"])
            raise TrickError(
                f"{names}, hook 'freeze': does not give the same for the same step ({progress.step}: {sorted(frozen)}, "
                f"then {sorted(now)}) {PURE}"
            )
        answers_of: list[list[Any]] = []
        factors = [factor]
        for _ in range(2):
            factors.append(self.schedule(progress))
            answers_of.append([guard.given for guard in self._guards["schedule"]])
        if len(set(factors)) > 1:
            # The innermost that changed its mind; where they all did so between the first time and now, the owner.
            changed = [
                guard
                for guard, *given in zip(self._guards["schedule"], *answers_of, strict=True)
                if len(set(given)) > 1
            ]
            guilty = (changed or self._guards["schedule"])[-1]
            raise guilty.error(f"does not give the same for the same step ({progress.step}: {factors}) {PURE}")

    # -- each batch --------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Any, step: Step) -> torch.Tensor:
        """The scalar loss of a micro-batch: the owner's, as its wrappers changed it."""
        import torch

        if self._owned_loss:
            self._outputs = [v.detach() if v.numel() <= SMALL else v.detach().sum() for v in _floats(outputs)]
        loss: Any = self._hook.loss(outputs=outputs, batch=batch, step=step)
        if complaint := _no_scalar(loss):
            raise TrickError(f"hook 'loss' (the model's own loss) {complaint}")
        if not loss.requires_grad and torch.is_grad_enabled():
            for guard in reversed(self._guards["loss"]):
                if guard.given is not None and not guard.given.requires_grad and _trained(outputs):
                    raise guard.error("gave a tensor that is detached from the model: nothing can be learnt from it")
        return loss  # type: ignore[no-any-return]

    def criterion(self) -> Callable[..., torch.Tensor]:
        """The owner's loss, without the tricks that wrap it; called with `outputs`, `batch` and `step`."""
        wrappers = [t for name, t in self.tricks if name in self.implementing("loss") and not owns(type(t), "loss")]
        return self._manager.subset_hook_caller("loss", remove_plugins=wrappers)

    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor | None:
        """The sum of the tricks' penalties; `None` when there is none."""
        total: torch.Tensor | None = None
        for call in self._guards["regularize"]:
            penalty = call(model=model, step=step)
            if penalty is not None:
                total = penalty if total is None else total + penalty
        return total

    def first_not_finite(self) -> str:
        """Who gave the first value that is not finite of the latest micro-batch; empty where nobody did.

        A trick is not blamed for what it was given: outputs, or the loss that it wraps.
        """
        for guard in [*reversed(self._guards["loss"]), *self._guards["regularize"]]:
            if guard.given is not None and not bool(guard.given.isfinite()):
                if guard.hook == "regularize" or all(bool(value.isfinite().all()) for value in self._was_given(guard)):
                    return f"the first value that is not finite is what {guard.who} gave in its hook {guard.hook!r}"
                return "the first values that are not finite are the model's own outputs"
        return ""

    def _was_given(self, guard: Guard) -> list[torch.Tensor]:
        """What an implementation of `loss` made its value of, or the sums of it."""
        if guard.inner is not None:
            return [guard.inner]
        return self._outputs

    # -- each optimizer step -----------------------------------------------------------------------------

    def after_backward(
        self,
        gradients: Mapping[str, torch.Tensor],
        layers: Layers,
        progress: Progress,
        state: Mapping[str, dict[str, Any]],
    ) -> list[str]:
        """What the tricks decide from a step's gradient; `state` is by the trick's name."""
        decided: list[str] = []
        for call in self._guards["after_backward"]:
            decision = call(gradients=gradients, layers=layers, progress=progress, state=state[call.name])
            decided += _decision(call, decision)
        return decided

    # -- while training, between steps -------------------------------------------------------------------

    def evaluated(
        self,
        metrics: Mapping[str, float],
        progress: Progress,
        model: nn.Module,
        state: Mapping[str, dict[str, Any]],
    ) -> list[str]:
        """What the tricks decide from the metrics of the held-out slice; `state` is by the trick's name."""
        decided: list[str] = []
        for call in self._guards["evaluated"]:
            if call.name not in self.judges:
                continue
            untouched = Untouched(model, weights=False)  # one that goes back to the best weights changes them
            decision = call(metrics=dict(metrics), progress=progress, model=model, state=state[call.name])
            if complaint := untouched.disturbed():
                raise call.error(complaint)
            decided += _decision(call, decision)
        return decided

    # -- once, after training ----------------------------------------------------------------------------

    def finish(self, model: nn.Module) -> None:
        """Let the tricks put the model in the shape in which it is saved, last built first."""
        self.check_unchanged()
        for call in reversed(self._guards["finish"]):
            with isolated():
                call(model=model)


def _before(hook: str, model: nn.Module, arguments: Mapping[str, Any]) -> Untouched:
    # What is drawn in the hooks of a batch is drawn in the micro-batch's own stream.
    return Untouched(model, batch=arguments.get("batch"), draws=hook not in ("loss", "regularize"))


def _decision(call: Guard, given: Any) -> list[str]:
    """The word that a trick gave, if any."""
    if given is not None and not isinstance(given, str):
        raise call.error(f"gave {given!r}; it gives a word or None")
    return [given] if given else []


def _is_factor(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and float(value) >= 0


def _not_a_factor(value: Any) -> str:
    if _is_factor(value):
        return ""
    hint = "; does a wrapper return?" if value is None else ""
    return f"gave {value!r}; it gives a finite factor of at least 0{hint}"


def _no_scalar(value: Any, hint: str = "does a wrapper return?") -> str:
    import torch

    if not isinstance(value, torch.Tensor):
        return f"gave {type(value).__name__} instead of a tensor; {hint}"
    if value.dim() != 0:
        return f"gave a tensor of shape {tuple(value.shape)} instead of a scalar"
    if not value.dtype.is_floating_point:
        return f"gave a tensor of {value.dtype} instead of real numbers"
    if value.is_meta:
        return "gave a tensor on the device 'meta', which holds no numbers"
    return ""


def _no_penalty(value: Any) -> str:
    return "" if value is None else _no_scalar(value, hint="give a scalar tensor, or None for no penalty")


CHECKS: Mapping[str, Check] = {"schedule": _not_a_factor, "loss": _no_scalar, "regularize": _no_penalty}
NEEDED = ("input_ids", "attention_mask", "labels", "example_id")
"""The columns that a data set keeps whatever tricks do with it, where it has them."""

SMALL = 2**16
"""Numbers of an output that is kept as it is until the next one; of a larger one the sum is."""

PURE = "as it did before; it is a pure function of its arguments: what a trick decides, it decides in `evaluated`"


def _columns(dataset: Any) -> Sequence[str]:
    return getattr(dataset, "column_names", None) or ()


def _unusable(model: nn.Module) -> str:
    """What of the parameters cannot be trained, in words."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            return f"the parameter {name!r} on the device 'meta', without values"
        if parameter.is_complex():
            return f"the parameter {name!r} with complex values; split them in two"
    return ""


def _values_of(outputs: Any) -> Iterable[Any]:
    """What a model gave, each for itself."""
    if isinstance(outputs, Mapping):
        return outputs.values()
    return outputs if isinstance(outputs, list | tuple) else [outputs]


def _trained(outputs: Any) -> bool:
    """Whether anything that the model gave depends on what is trained."""
    return any(getattr(value, "requires_grad", False) for value in _values_of(outputs))


def _floats(outputs: Any) -> list[torch.Tensor]:
    import torch

    return [v for v in _values_of(outputs) if isinstance(v, torch.Tensor) and v.is_floating_point()]
