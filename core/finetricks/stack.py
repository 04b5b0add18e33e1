"""The tricks of one run as one pluggy manager, behind a typed facade: one method a hook.

A fresh manager is made for each run, so that two runs in one process never touch. pluggy is kept for what it does well
(one owner wrapped by others, arguments by name); what chains or is checked item by item is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from finetricks.errors import Problem, TrickConflict, TrickError, suggest
from finetricks.fresh import Rebuilding, fresh_parameters
from finetricks.hooks import HOOKS, PROJECT, WRAPPABLE, Context, Hooks, ParamOptions, hookimpl
from finetricks.implementation import check_hooks, implementations, owns
from finetricks.streams import child, seeded
from finetricks.trick import Trick

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
            self._manager.register(trick, name)
        self._manager.check_pending()
        self._hook = self._manager.hook
        self._names = {id(trick): name for name, trick in self.tricks}

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
        implementing = self.implementing("evaluated")
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

    # -- once, before training ---------------------------------------------------------------------------

    def data(self, dataset: datasets.Dataset, split: str, seed: int, **context: Any) -> datasets.Dataset:
        """Pass a split through the tricks. `seed` is the data stream's, `context` fills a `Context`."""
        # What bounds the length comes last: what others add must be bounded too.
        bounding = {name: trick.bounds_length for name, trick in self.tricks}
        for name, call in sorted(self._calls("data"), key=lambda found: bounding[found[0]]):
            about = Context(seed=child(seed, "data", name, split), **context)
            with seeded(about.seed):
                changed = call(dataset=dataset, split=split, context=about)
            # A Trainer's data set may be of any kind; what a trick does not change it gives back as it is.
            if changed is not dataset and not hasattr(changed, "column_names"):
                raise TrickError(
                    f"trick {name!r}, hook 'data': gave {type(changed).__name__} instead of a data set; return it"
                )
            dataset = changed
        return dataset

    def build(self, model: nn.Module, seed: int, **context: Any) -> nn.Module:
        """Let the tricks change the model's structure. `seed` is the initialisation stream's."""
        rebuilding = Rebuilding(model)
        for name, call in self._calls("build"):
            about = Context(seed=child(seed, "build", name), **context)
            with seeded(about.seed):
                built = call(model=model, context=about)
            model = model if built is None else built
        rebuilding.end(model)
        return model

    def init(self, model: nn.Module, layers: Layers, seed: int, **context: Any) -> None:
        """Let the tricks change weights. `seed` is the initialisation stream's."""
        fresh = fresh_parameters(model, layers)
        # What trains weights comes after what draws them, which would throw its work away.
        learning = {name: trick.learns for name, trick in self.tricks}
        for name, call in sorted(self._calls("init"), key=lambda found: learning[found[0]]):
            about = Context(seed=child(seed, "init", name), fresh=fresh, **context)
            with seeded(about.seed):
                call(model=model, layers=layers, context=about)

    # -- compiled into the plan --------------------------------------------------------------------------

    def param_groups(self, model: nn.Module, layers: Layers) -> dict[str, Mapping[str, ParamOptions]]:
        """What each trick asks for, by the trick's name. Names that the model lacks are errors."""
        asked: dict[str, Mapping[str, ParamOptions]] = {}
        known = {*layers.names, *(p for group in layers.parameters.values() for p in group)}
        for name, call in self._calls("param_groups"):
            asked[name] = call(model=model, layers=layers)
            for key, options in asked[name].items():
                if key not in known:
                    near = suggest(key, known)
                    raise TrickError(
                        f"trick {name!r}, hook 'param_groups': the model has no layer or parameter {key!r}{near}"
                    )
                for field, value in vars(options).items():
                    if value is not None and not (math.isfinite(value) and value >= 0):
                        raise TrickError(
                            f"trick {name!r}, hook 'param_groups': {field} of {key!r} is {value!r}; give 0 or more"
                        )
        return asked

    def freeze(self, progress: Progress, layers: Layers) -> frozenset[str]:
        """The layers that are frozen at a step: the union over the tricks."""
        frozen: set[str] = set()
        for name, call in self._calls("freeze"):
            asked = call(progress=progress, layers=layers)
            if unknown := sorted(set(asked) - set(layers.names)):
                raise TrickError(
                    f"trick {name!r}, hook 'freeze': no layer {unknown[0]!r}{suggest(unknown[0], layers.names)}; "
                    f"the model has {', '.join(layers.names)}"
                )
            frozen.update(asked)
        return frozenset(frozen)

    def schedule(self, progress: Progress) -> float:
        """The factor on the learning rate at a step: the owner's, as its wrappers changed it."""
        with self._noted("schedule"):
            factor = self._hook.schedule(progress=progress)
        if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
            raise TrickError(
                f"hook 'schedule' gave {factor!r} at step {progress.step} of {progress.total_steps}; it gives a finite "
                f"factor of at least 0 (tricks: {', '.join(self.implementing('schedule')) or 'none'})"
            )
        return float(factor)

    # -- each batch --------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Any, step: Step) -> torch.Tensor:
        """The scalar loss of a micro-batch: the owner's, as its wrappers changed it."""
        with self._noted("loss"):
            loss = self._hook.loss(outputs=outputs, batch=batch, step=step)
        return _scalar(loss, "loss", ", ".join(self.implementing("loss")) or "the model's own loss")

    def criterion(self) -> Callable[..., torch.Tensor]:
        """The owner's loss, without the tricks that wrap it; called with `outputs`, `batch` and `step`."""
        wrappers = [t for name, t in self.tricks if name in self.implementing("loss") and not owns(type(t), "loss")]
        return self._manager.subset_hook_caller("loss", remove_plugins=wrappers)

    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor | None:
        """The sum of the tricks' penalties; `None` when there is none."""
        total: torch.Tensor | None = None
        for name, call in self._calls("regularize"):
            penalty = call(model=model, step=step)
            if penalty is not None:
                penalty = _scalar(penalty, "regularize", name)
                total = penalty if total is None else total + penalty
        return total

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
        for name, call in self._calls("evaluated"):
            if name not in self.deciders:
                continue
            decision = call(metrics=metrics, progress=progress, model=model, state=state[name])
            if decision is not None and not isinstance(decision, str):
                raise TrickError(f"trick {name!r}, hook 'evaluated': gave {decision!r}; it gives a word or None")
            if decision:
                decided.append(decision)
        return decided

    # -- once, after training ----------------------------------------------------------------------------

    def finish(self, model: nn.Module) -> None:
        """Let the tricks put the model in the shape in which it is saved, last built first."""
        for _, call in reversed(list(self._calls("finish"))):
            call(model=model)

    # -- how hooks are called ----------------------------------------------------------------------------

    def _calls(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        # Latest registered stands last in get_hookimpls and is called first.
        for implementation in reversed(getattr(self._hook, hook).get_hookimpls()):

            def call(implementation: pluggy.HookImpl = implementation, **arguments: Any) -> Any:
                with self._noted(hook):
                    return implementation.function(*(arguments[name] for name in implementation.argnames))

            yield implementation.plugin_name, call

    @contextmanager
    def _noted(self, hook: str) -> Iterator[None]:
        """Add to an error which trick's hook it came from: pluggy's tracebacks do not name the plugin."""
        try:
            yield
        except Exception as error:
            if name := self._blamed(error.__traceback__):
                error.add_note(f"raised by trick {name!r} in its hook {hook!r}")
            raise

    def _blamed(self, traceback: TracebackType | None) -> str | None:
        name = None
        while traceback is not None:
            name = self._names.get(id(traceback.tb_frame.f_locals.get("self")), name)
            traceback = traceback.tb_next
        return name


def _scalar(value: Any, hook: str, who: str) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise TrickError(
            f"hook {hook!r} ({who}) gave {type(value).__name__} instead of a tensor; does a wrapper return?"
        )
    if value.dim() != 0:
        raise TrickError(f"hook {hook!r} ({who}) gave a tensor of shape {tuple(value.shape)} instead of a scalar")
    return value
