"""The hook specifications: what a trick can do, and when. Read this first.

Each docstring says, in this order: when the hook is called, what its arguments are, what an implementation gives back,
how several tricks combine, and since which version of finetricks it is so; what changes is announced first
(docs/stability.md). An implementation may take fewer arguments than the specification; it may not give them defaults.
"In the recipe's order" means the order in which the recipe lists the tricks; for wrappers the first listed is the
outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import datasets
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from finetricks.layers import Layers
    from finetricks.progress import Progress
    from finetricks.step import Step

PROJECT = "finetricks"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookChange(FutureWarning):
    """A hook, or an argument of one, works for one minor version more: whoever implements it is told, at their line.

    On a specification: `@hookspec(warn_on_impl_args={"state": HookChange("...")})`, or `warn_on_impl` for the hook. The
    message says since which version what takes its place, and which version ends it.
    """


@dataclass(frozen=True)
class ParamOptions:
    """What a trick asks for a layer or a parameter. `None` leaves things as they are."""

    lr_factor: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Context:
    """What a trick may need beside the model, in the hooks that run once.

    Attributes:
        seed: of the trick's own random stream (derived from the run's seeds and the trick's name, so that
            adding one trick never shifts another's draws). The global torch state is seeded with it too
            while the hook runs, and put back afterwards.
        tokenizer: of the task, or `None` where the data are the user's own.
        max_length: tokens of an example that the model will see, special tokens included; or `None`.
        text_columns: the data set's text columns, one or two.
        explicit_layers: the layers as the user gives them; `None` where they are found.
        labels: names of the classes or labels, in the order of the model's outputs; none where they are unknown.
        metrics: names of the metrics that the task is scored by, the customary one first; none where they are unknown.
        fresh: in `build` and `init`, the names of the parameters that no checkpoint supplied: a new head, and what
            tricks built. In `build`, of a model that is not one of transformers', only what tricks built is known.
        batches: in `init`, gives the training batches each time it is called, unshuffled where the order is ours.
    """

    seed: int
    tokenizer: PreTrainedTokenizerBase | None = None
    max_length: int | None = None
    text_columns: tuple[str, ...] = ("text",)
    explicit_layers: Mapping[str, Sequence[str]] | None = None
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset()
    batches: Callable[[], Iterable[Any]] | None = None

    def find_layers(self, model: nn.Module) -> Layers:
        """The layers of `model` by its structure alone, for `build`. Raises `LayersError`."""
        from finetricks.layers import find_layers

        return find_layers(model, explicit=self.explicit_layers)


class Hooks:
    """The seams of a run. Names and arguments are public."""

    # ------------------------------------------------------------------------------------------------
    # Once, before training
    # ------------------------------------------------------------------------------------------------

    @hookspec
    def data(self, dataset: datasets.Dataset, split: str, context: Context) -> datasets.Dataset:
        """Change the examples.

        Called: once for each split, after tokenising and before truncation and batching.
        Arguments: `dataset`, with the columns `input_ids` (special tokens included, *not* truncated),
            `attention_mask`, `labels`, `example_id` (int, stable across tricks), the texts, and whatever else
            the tokenizer gives; `split` is `train`, `valid`, `test`, `held_out` (a slice of train on which tricks
            decide while training) or `predict`; `context`.
        Gives: the changed data set. Everything drawn at random is drawn from `context.seed`. Rows that it adds have a
            negative `example_id`. Columns that it adds, of one number an example, reach each batch as a tensor [rows]:
            `loss` finds them there, and the model where its forward pass names them.
        Several: in the recipe's order, each receives what the one before gave; what `bounds_length` comes last.
        Since: 0.1.
        """

    @hookspec
    def build(self, model: nn.Module, context: Context) -> nn.Module | None:
        """Change the model's structure.

        Called: once, first; again by `explain`, `load` and resume, so it must be cheap.
        Arguments: `model`, as loaded, on the CPU; `context`.
        Gives: a model to use instead, or `None` when it changed `model` in place.
        Several: in the recipe's order, each receives what the one before gave.
        Since: 0.1.
        """

    @hookspec
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        """Change weights: initialisation, further pretraining.

        Called: once, after `build`; skipped when a checkpoint supplies the weights.
        Arguments: `model`; `layers`; `context`.
        Gives: nothing; changes `model` in place.
        Several: in the recipe's order; what `learns` after what draws.
        Since: 0.1.
        """

    # ------------------------------------------------------------------------------------------------
    # Compiled into the plan, before training
    # ------------------------------------------------------------------------------------------------

    @hookspec
    def param_groups(self, model: nn.Module, layers: Layers) -> Mapping[str, ParamOptions]:  # type: ignore[empty-body]
        """Set learning rates and weight decay by layer or by parameter.

        Called: once, after the layers are known.
        Arguments: `model`; `layers`.
        Gives: options by layer name (`block.3`) or parameter name (`classifier.bias`). Within one trick a
            parameter's options stand in for its layer's, field by field.
        Several: factors on the learning rate multiply; two tricks that set the weight decay of one
            parameter conflict.
        Since: 0.1.
        """

    @hookspec
    def freeze(self, progress: Progress, layers: Layers) -> Collection[str]:  # type: ignore[empty-body]
        """Say which layers are frozen.

        Called: for every optimizer step, when the plan is compiled. A pure function of its arguments.
        Arguments: `progress` (its `stage` is `None` here); `layers`.
        Gives: names of layers.
        Several: union. A step at which every layer is frozen is a conflict, unless a trick `trains_nothing`.
        Since: 0.1.
        """

    @hookspec(firstresult=True)
    def schedule(self, progress: Progress) -> float:  # type: ignore[empty-body]
        """Give the factor on the learning rate.

        Called: for every optimizer step, when the plan is compiled, after `freeze`. A pure function.
        Arguments: `progress`; its `stage` is the stretch with the same frozen layers that the step lies in.
        Gives: a finite factor of at least 0 on the base learning rate.
        Several: one owner; others are wrappers (`@hookimpl(wrapper=True)`) that modify what it gives.
            Without an owner the factor is 1.
        Since: 0.1.
        """

    # ------------------------------------------------------------------------------------------------
    # Each batch
    # ------------------------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> torch.Tensor:  # type: ignore[empty-body]
        """Give the scalar loss of a micro-batch.

        Called: for each training micro-batch, inside the one wrapped forward pass.
        Arguments: `outputs` of the model for `batch`; `batch`; `step`, whose `forward(batch)` and
            `criterion(outputs, batch)` may be called again.
        Gives: the mean loss over the micro-batch, a scalar that can be differentiated.
        Several: one owner, the criterion; others are wrappers that add to it or change it. Without an owner
            it is the loss that the model gave.
        Since: 0.1.
        """

    @hookspec
    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor | None:
        """Give a penalty on the weights.

        Called: for each training micro-batch, after `loss`.
        Arguments: `model`, unwrapped; `step`.
        Gives: a scalar that can be differentiated, or `None` for no penalty.
        Several: the sum is added to the loss.
        Since: 0.1.
        """

    # ------------------------------------------------------------------------------------------------
    # Each optimizer step
    # ------------------------------------------------------------------------------------------------

    @hookspec
    def after_backward(
        self, gradients: Mapping[str, torch.Tensor], layers: Layers, progress: Progress, state: dict[str, Any]
    ) -> str | None:
        """Watch a step's gradient, or change it.

        Called: once for each optimizer step, with the gradient of its whole batch: after all its micro-batches, after
            unscaling and averaging over processes, before clipping. Not for a step whose gradient is not finite.
        Arguments: `gradients` by the parameter's name, of those that have one, to be changed in place if at all;
            `layers`; `progress`, whose `step` is the step that is being done; `state`, what the trick remembers, as
            `step.state_of` gives it.
        Gives: a decision, as `evaluated` does, which holds from the next step on; or `None`.
        Several: in the recipe's order, each receives what the one before left; each decides for itself.
        Since: 0.1.
        """

    # ------------------------------------------------------------------------------------------------
    # While training, between steps
    # ------------------------------------------------------------------------------------------------

    @hookspec
    def evaluated(
        self, metrics: Mapping[str, float], progress: Progress, model: nn.Module, state: dict[str, Any]
    ) -> str | None:
        """Decide from what an evaluation showed.

        Called: after each evaluation of the held-out slice, which is part of neither train nor valid; the last time
            when the run ends.
        Arguments: `metrics` of the slice by name; `progress`, whose `step` is the number of steps done (at the run's
            end `total_steps`); `model`, unwrapped; `state`, what the trick remembers, as `step.state_of` gives it.
        Gives: `stop` to end the run here, or another word for a decision of the trick's own, or `None`. A decision is
            recorded with the first step at which it holds; `freeze` and `schedule` find it in `progress.decisions`,
            and resume follows the record.
        Several: each decides for itself; one `stop` stops.
        Since: 0.1.
        """

    # ------------------------------------------------------------------------------------------------
    # Once, after training
    # ------------------------------------------------------------------------------------------------

    @hookspec
    def finish(self, model: nn.Module) -> None:
        """Put the model in the shape in which it is saved: merge, unwrap, drop an auxiliary head.

        Called: once, after the last step; never before a checkpoint.
        Arguments: `model`, unwrapped.
        Gives: nothing; changes `model` in place. Its predictions stay as they are.
        Several: against the recipe's order, so that what `build` put on last comes off first.
        Since: 0.1.
        """


HOOKS: tuple[str, ...] = tuple(name for name in vars(Hooks) if not name.startswith("_"))
WRAPPABLE: frozenset[str] = frozenset({"schedule", "loss"})
"""The hooks that have one owner, and so can be wrapped."""
