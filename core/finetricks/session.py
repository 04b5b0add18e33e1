"""A plan at work: optimizer, schedule, loss, freezing and the state to save, in any training loop."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import nn

from finetricks import recompute
from finetricks.compiled import CompiledForward, Options, options_of, refuse_compiled
from finetricks.distributed import ALONE, Ranks
from finetricks.errors import CheckpointError, Diverged, FinetricksError, TrickConflict, TrickError
from finetricks.freezing import Freezing
from finetricks.fresh import fresh_parameters
from finetricks.layer_pass import default_forward
from finetricks.layer_trace import Forward
from finetricks.layers import Layers, find_layers
from finetricks.optimizers import create_optimizer, named_groups
from finetricks.order import Order, first_batch, unshuffled
from finetricks.plan import Plan, compile_plan, total_steps
from finetricks.precision import Precision
from finetricks.progress import Stage
from finetricks.provenance import check_made_with, made_with, same_libraries
from finetricks.replay.replaying import Replaying
from finetricks.stack import Criterion, Stack
from finetricks.step import Step
from finetricks.streams import child, seeded
from finetricks.structure import structure
from finetricks.wrapped import inside_forward

if TYPE_CHECKING:
    from finetricks.prefix import Prefix
    from finetricks.recipe import Recipe
    from finetricks.streams import Streams


logger = logging.getLogger(__name__)

T = TypeVar("T")

_PARTS = ("global_step", "model", "optimizer", "scheduler", "decisions", "own")

STOP = "stop"
"""The decision that ends a run."""

MIN_LOSS_SCALE = 1e-4
"""A loss scale that has come down to this has collapsed: gradients overflow whatever it is. fairseq's default."""


LOOK_EVERY = 1000
"""So many steps at least lie between two looks at what hooks must leave alone, which are dear."""


SEEDS_AHEAD = 32
"""For so many steps the seeds of the dropout stream are derived together."""


@dataclass(frozen=True)
class Skipped:
    """How many optimizer steps were not finite: up to now, and in all."""

    in_a_row: int = 0
    total: int = 0


class Session:
    """A plan bound to a live model. `Session.bind` makes one for a loop of your own; `TrickTrainer` makes its own.

    Attributes:
        model: unwrapped.
        plan: what will happen when.
        optimizer: holds every parameter from the first step, in named groups (rule 2).
        scheduler: sets each group's rate from the plan.
        global_step: optimizer steps done.
        stopped: whether a trick has decided to end the run.
        grad_norm: of the last optimizer step, before clipping; `None` where nothing is clipped.
        skipped: how many steps were not finite, and so changed no weight. Each counts as a step all the same: the plan
            goes on, and its batch is not seen again. In fp16 those that the loss scaler skips are not among them.
        last_skipped: whether the last step changed no weight, for either reason.
        loss_scale: the factor on the loss in fp16; 1 else.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        stack: Stack,
        layers: Layers,
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        streams: Streams | None,
        order: Order | None = None,
        accumulation: int = 1,
        batches_per_epoch: int | None = None,
        clip: float = 0.0,
        precision: str = "fp32",
        nonfinite_patience: int = 0,
        compile_options: Options | None = None,
        recomputes: bool = False,
        forward: Forward | None = None,
        replan: Callable[[Mapping[str, int]], Plan] | None = None,
        ranks: Ranks = ALONE,
        peers: Ranks | None = None,
        replaying: Replaying | None = None,
    ) -> None:
        self.model = model
        self.stack = stack
        self.layers = layers
        self._replaying = replaying
        self.plan = self._with_replay(plan)
        self.optimizer = optimizer
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factors())
        self.streams = streams
        self.global_step = 0
        self.state: dict[str, dict[str, Any]] = {name: {} for name, _ in stack.tricks}
        self.grad_norm: torch.Tensor | None = None
        self.skipped = Skipped()
        self.last_skipped = False
        self._order = order
        self._ranks = ranks
        self._peers = peers or ranks  # who must come to the same end where a step is not finite
        self._accumulation = accumulation
        self._batches_per_epoch = batches_per_epoch or plan.steps_per_epoch * accumulation
        self._clip = clip
        self._nonfinite_patience = nonfinite_patience
        self._losses: list[torch.Tensor] = []  # of the optimizer step's micro-batches, still on their device
        self._parameters = dict(model.named_parameters())
        trained = {name for name in _trained_at_all(plan) if self._parameters[name].requires_grad}
        self._odd_weights = self._not_finite() - trained  # by design: a mask that is a parameter, say
        self._looked = False
        # Whole epochs: a function of the step alone, so that a resumed run looks where the first one did.
        self._between_looks = plan.steps_per_epoch * -(-LOOK_EVERY // plan.steps_per_epoch)
        self._precision = Precision(precision, model)
        self._compiled = None if compile_options is None else CompiledForward(model, compile_options)
        self._recomputes = recomputes
        self._run_model = forward or default_forward
        self._criterion = stack.criterion()
        self._watches = bool(stack.implementing("after_backward"))
        self._freezing = Freezing(model, layers)
        self._check_that_each_stage_trains()
        self._fresh = fresh_parameters(model, layers)
        self._plan_before_training = plan
        self._replan = replan
        self._micro_batch = 0
        self._seeds: dict[tuple[int, int, int], int] = {}  # of the micro-batches that come next
        self._still = False
        self._derived: dict[str, Any] = {}
        self._resumed_rng: dict[str, torch.Tensor] | None = None
        self._stage: Stage | None = None  # the one that replay acts by
        self._structure = structure(model)
        self._made_with = made_with(stack.tricks)
        if replaying is not None:
            replaying.begin(plan.steps_per_epoch, self._batches_per_epoch, lambda: self.state)

    @classmethod
    def bind(
        cls,
        recipe: Recipe,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        learning_rate: float | None = None,
        epochs: float | None = None,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
        forward: Forward | None = None,
        criterion: Criterion | None = None,
        steps_per_epoch: int | None = None,
        build: bool = True,
        init: bool = True,
        context: Mapping[str, Any] | None = None,
        lengths: Sequence[int] | None = None,
        ranks: Ranks = ALONE,
    ) -> Session:
        """Compile `recipe` for `model` and `loader`, and bind it.

        What is not given comes from the recipe's training settings. The model's structure and weights are changed here
        by tricks that do so; if a trick gives another model, `session.model` is it.

        Args:
            loader: of micro-batches, with a length.
            learning_rate: base rate.
            epochs: passes over the loader.
            optimizer: makes an optimizer of parameter groups, to use one of your own.
            forward: gives the outputs of `(model, batch)`; by default mappings are passed by keyword.
            criterion: the loss of `(outputs, batch)` where no trick owns it; by default the loss that the model gave.
            steps_per_epoch: optimizer steps of an epoch, for a loader without a length.
            build: let tricks change the structure (false if they already did).
            init: let tricks change weights (false if a checkpoint supplies them).
            context: what tricks are told of the task: `tokenizer`, `max_length`, `text_columns` (see `Context`).
            lengths: for `training.group_by_length`, a number for each example of `loader.dataset`; by default how many
                `input_ids` it has.
            ranks: the processes among which each batch of the loader is shared out. By default every process gets whole
                batches, also in a process group: the parts are then the loop's affair.

        Raises:
            LayersError: the order of the model's layers cannot be told.
            TrickConflict: tricks that cannot stand together on this model, or that thaw nothing which can be trained.
            FinetricksError: `training.group_by_length`, and the lengths are not known or the loader does not shuffle.
            InputError: the model is compiled already, or has no gradient checkpointing and the recipe asks for it.
        """
        refuse_compiled(model)
        training, streams = recipe.training, recipe.streams
        plain = training.streams == "none"
        plain_seed = training.seed if training.data_seed is None else training.data_seed
        if not training.group_by_length:
            lengths = None
        elif lengths is None:
            from finetricks.lengths import lengths_of

            lengths = lengths_of(loader)
        order = Order(loader, plain_seed if plain else streams.data, plain=plain, ranks=ranks, lengths=lengths)
        stack = Stack(recipe.tricks, criterion=criterion)
        context = {"explicit_layers": recipe.layers, **(context or {})}
        if build:
            model = stack.build(model, streams.init, **context)
        recomputes = training.gradient_checkpointing and recompute.enable(model)
        sample = first_batch(loader)
        layers = find_layers(model, sample, recipe.layers, forward)
        if init:
            # What is taken from an iterator is gone, and what has no length may never end.
            batches = partial(unshuffled, loader) if _ends(loader) else None
            stack.init(model, layers, streams.init, batches=batches, **context)
        length = _length(loader, steps_per_epoch, training.accumulation)
        per_epoch = -(-length // training.accumulation)
        compiled = partial(
            compile_plan,
            stack,
            model,
            layers,
            total_steps=total_steps(training.epochs if epochs is None else epochs, per_epoch),
            steps_per_epoch=per_epoch,
            learning_rate=training.learning_rate if learning_rate is None else learning_rate,
        )
        plan = compiled()
        groups = named_groups(plan, model)
        return cls(
            model=model,
            stack=stack,
            layers=layers,
            plan=plan,
            optimizer=optimizer(groups) if optimizer else create_optimizer(groups, training),
            streams=None if plain else streams,
            order=order,
            accumulation=training.accumulation,
            batches_per_epoch=length,
            clip=training.clip,
            precision=training.precision,
            nonfinite_patience=training.nonfinite_patience,
            compile_options=options_of(training.compile),
            recomputes=recomputes,
            forward=forward,
            replan=lambda decisions: compiled(decisions=decisions),
            ranks=ranks,
            replaying=Replaying(
                model,
                layers,
                stack,
                training,
                batch=sample,
                forward=forward,
                examples=_examples(loader, length),
            ),
        )

    def _check_that_each_stage_trains(self) -> None:
        """Raise `TrickConflict` for a stage that thaws only layers whose weights the model brought frozen."""
        trainable = self._freezing.trainable
        for stage in self.plan.stages:
            thawed = [name for name in self.layers.names if name not in stage.frozen]
            if thawed and trainable.isdisjoint(thawed):
                by = " and ".join(self.stack.implementing("freeze"))
                raise TrickConflict(
                    f"{f'{by}: ' if by else ''}nothing would be trained in the steps {stage.start} to {stage.end - 1}, "
                    f"in which only {', '.join(thawed)} can be: all weights there are frozen already, by yourself or "
                    "for the sake of adapters; thaw some, or leave out what freezes the other layers"
                )

    # -- the loop ----------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Any]:
        """All micro-batches that are left of the run, in the order of the data stream, on the model's device."""
        order = self.order
        device = next(self.model.parameters()).device
        while not self.ended:
            if not self.plan.trains(self.global_step):
                self._pass_over(self.plan.stage_at(self.global_step).end)  # nothing to do: every layer is frozen
                continue
            epoch, step_in_epoch = divmod(self.global_step, self.plan.steps_per_epoch)
            skip = step_in_epoch * self._accumulation + self._micro_batch
            begun = (self.global_step, self._micro_batch)
            for batch in order.epoch(epoch, skip):
                if self._resumed_rng is not None and skip:
                    _set_rng(self._resumed_rng)  # beginning the epoch again drew from it
                self._resumed_rng = None
                before = (self.global_step, self._micro_batch)
                yield send_to_device(batch, device)
                if (self.global_step, self._micro_batch) == before:
                    raise FinetricksError(
                        "session.step() was not called for the last batch; call it after each backward"
                    )
                if self.ended or not self.plan.trains(self.global_step):
                    break
            else:
                self._check_whole_epoch(begun)

    def _check_whole_epoch(self, begun: tuple[int, int]) -> None:
        """Raise `FinetricksError` where the loader, which began at `begun`, gave less than it was said to hold."""
        if (self.global_step, self._micro_batch) == begun:
            raise FinetricksError(
                f"the loader has no batches left at step {self.global_step} of {self.plan.total_steps}; give one that "
                "can be gone through again (an iterator cannot), or fewer epochs"
            )
        if self.global_step % self.plan.steps_per_epoch or self._micro_batch:
            raise FinetricksError(
                f"the loader ended at step {self.global_step}, within an epoch of {self.plan.steps_per_epoch} steps; "
                "give steps_per_epoch=... as many as one pass over it has"
            )

    def loss(self, batch: Any, model: nn.Module | None = None) -> torch.Tensor:
        """Run the forward pass on a micro-batch and give its mean loss, as the tricks make it.

        Args:
            model: the wrapper to call (DistributedDataParallel, say); the bare model by default.

        Raises:
            InputError: the wrapper is what torch.compile gives; the tricks' Python is not to be compiled.
        """
        wrapper = self.model if model is None else model
        refuse_compiled(wrapper)
        self.enter(self.global_step, self._micro_batch)
        with self.dropout_stream():
            return inside_forward(self.model, wrapper, self._loss, batch)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a whole optimizer step."""
        return self._accumulation

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of an epoch."""
        return self._batches_per_epoch

    @property
    def order(self) -> Order:
        """The order of the loader's batches. Raises `FinetricksError` where the session was bound to none."""
        if self._order is None:
            raise FinetricksError("this session was not bound to a loader; its batches come from elsewhere")
        return self._order

    @property
    def weight(self) -> float:
        """What the loss of the present micro-batch counts in the mean over the ranks, by its share of the examples."""
        if self._order is None or self._ranks.size == 1:
            return 1.0
        step_in_epoch = self.global_step % self.plan.steps_per_epoch
        return self._order.weight(step_in_epoch * self._accumulation + self._micro_batch)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, divided by the micro-batches that the optimizer step really holds.

        Between several ranks it is weighted too, so that the mean of their gradients is that of the whole batch.

        Raises:
            FinetricksError: the loss depends on nothing that is trained at this step.
        """
        if not loss.requires_grad:
            trained = [name for name in self.layers.names if name not in self.plan.stage_at(self.global_step).frozen]
            raise FinetricksError(
                f"the loss of step {self.global_step} depends on nothing that is trained then ({', '.join(trained)}): "
                "the model's output does not read it"
            )
        loss = self.carried(loss)
        if (weight := self.weight) != 1:
            loss = loss * weight
        if (window := self._window()) > 1:
            loss = loss / window
        with self._precision.kernels():
            self._precision.scaled(loss).backward()

    def step(self) -> bool:
        """End a micro-batch; when it completes an optimizer step, clip, update, and advance. Gives whether it did.

        A step whose loss or gradient is not finite changes no weight.

        Raises:
            Diverged: there were more such steps in a row than `training.nonfinite_patience`.
        """
        self._micro_batch += 1
        if self._micro_batch < self._window():
            return False
        self._micro_batch = 0
        self._precision.unscale(self.optimizer)
        norm = nn.utils.get_total_norm(self._gradients().values())
        if self.after_backward(norm):
            norm = nn.utils.get_total_norm(self._gradients().values())
        try:
            finite = self.check_gradient(norm, self._precision.scale if self._precision.scales else None)
        except Diverged:
            self._precision.step(self.optimizer, finite=False)  # else a scaler would wait for this step
            raise
        if self._clip > 0:
            self.grad_norm = norm
            if finite:
                nn.utils.clip_grads_with_norm_(self._parameters.values(), self._clip, norm)
        updated = self._precision.step(self.optimizer, finite)
        self.last_skipped = not updated
        if updated:
            self.scheduler.step()
        else:
            self._keep_rates(self.global_step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.global_step += 1
        return True

    @property
    def completes_step(self) -> bool:
        """Whether the present micro-batch is the last of its optimizer step. Before it, processes need not agree."""
        return self._micro_batch + 1 >= self._window()

    def after_backward(self, norm: torch.Tensor | float | None) -> bool:
        """Let the tricks see the gradient of a whole optimizer step, if it is finite, before it is clipped.

        What they decide is recorded and holds from the next step on. Gives whether they changed the gradient.

        Args:
            norm: of the gradient.

        Raises:
            TrickError: a decision would change what was already trained.
        """
        if not self.watches or norm is None or not math.isfinite(norm):
            return False
        gradients = self._gradients()
        versions = [gradient._version for gradient in gradients.values()]
        progress = self.plan.progress(self.global_step)
        with torch.no_grad():
            decided = self.stack.after_backward(dict(gradients), self.layers, progress, self.state)
        self._decide(decided, self.global_step + 1)
        return versions != [gradient._version for gradient in gradients.values()]

    @property
    def watches(self) -> bool:
        """Whether a trick sees each step's gradient."""
        return self._watches

    def _gradients(self) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in self._parameters.items() if p.grad is not None}

    def carried(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch, such that if it is not finite no gradient of it is; bit-equal where it is.

        So the gradient alone tells, and once it is averaged over the ranks it tells all of them.
        """
        self._losses.append(loss.detach())
        return loss * (1 + 0 * loss.detach())

    def check_gradient(self, norm: torch.Tensor | float | None, scale: float | None = None) -> bool:
        """See to it that an optimizer step that is not finite changes no weight: it finds no gradients then.

        Args:
            norm: of the gradient; waits for the device that it is on.
            scale: of the loss, where a scaler lowers it and skips the step when a gradient has overflowed: that is no
                news unless the loss is not finite itself, or the scale has nowhere left to go.

        Returns:
            Whether it is finite.

        Raises:
            Diverged: there were more such steps in a row than `training.nonfinite_patience`, or the scale collapsed.
        """
        if norm is None or math.isfinite(norm):
            if self.skipped.in_a_row:
                self.skipped = replace(self.skipped, in_a_row=0)
            self._losses = []
            return True
        diverged: Diverged | None = None
        if scale is not None and not self._any_loss_not_finite():
            if scale <= MIN_LOSS_SCALE:
                diverged = Diverged(self.global_step, f"gradient at a loss scale of {scale:g}")
        else:
            self.skipped = Skipped(self.skipped.in_a_row + 1, self.skipped.total + 1)
            if self.skipped.in_a_row > self._nonfinite_patience:
                diverged = self._diverged()
            self.optimizer.zero_grad(set_to_none=True)
        self._losses = []
        if diverged is not None:
            self.optimizer.zero_grad(set_to_none=True)
            raise diverged
        return False

    def _any_loss_not_finite(self) -> bool:
        """Whether a loss of the present optimizer step is not finite, on any rank."""
        return any(self._peers.gather(any(not bool(torch.isfinite(loss)) for loss in self._losses)))

    def check_weights(self) -> None:
        """Raise `Diverged` where a weight is not finite; to be asked before they are saved.

        One that was not from the beginning, and that the plan does not train, is meant to be so.
        """
        if found := self._not_finite() - self._odd_weights:
            raise Diverged(self.global_step, f"weight {next(name for name in self._parameters if name in found)}")

    def _not_finite(self) -> set[str]:
        """The names of the parameters that hold values that are not finite."""
        floats = {name: p.detach() for name, p in self._parameters.items() if p.is_floating_point() and not p.is_meta}
        sums = [parameter.sum(dtype=torch.float32) for parameter in floats.values()]
        told = torch.stack([value.to(sums[0].device) for value in sums]).tolist() if sums else []
        # A sum may overflow where no weight has.
        return {
            name
            for (name, parameter), value in zip(floats.items(), told, strict=True)
            if not math.isfinite(value) and not bool(parameter.isfinite().all())
        }

    def _diverged(self) -> Diverged:
        """The error, the same on all ranks."""
        steps = self.skipped.in_a_row
        of_loss = self._any_loss_not_finite()
        diverged = Diverged(self.global_step + 1 - steps, "loss" if of_loss else "gradient", steps)
        spoilt = sorted(self._not_finite() - self._odd_weights)
        mine = f"the weight {spoilt[0]} is not finite" if spoilt else self.stack.first_not_finite()
        if told := next(filter(None, self._peers.gather(mine)), ""):
            diverged.add_note(told)
        return diverged

    @property
    def loss_scale(self) -> float:
        return self._precision.scale

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do: the last step is done, or a trick has stopped the run."""
        return self.stopped or self.global_step >= self.plan.total_steps

    @property
    def stopped(self) -> bool:
        return STOP in self.plan.decisions

    def evaluated(self, metrics: Mapping[str, float]) -> bool:
        """Tell the tricks what an evaluation showed, on a slice that is part of neither train nor valid.

        What they decide is recorded and holds from the next step on. Call it for each evaluation of the slice, and at
        the run's end. Gives whether the run goes on.

        Raises:
            FinetricksError: called between the micro-batches of one optimizer step.
            TrickError: a decision would change what was already trained.
        """
        if self._micro_batch:
            raise FinetricksError("evaluate between optimizer steps: this one still waits for micro-batches")
        # What tricks remember of them is saved, and numpy's numbers would not load with `weights_only=True`.
        metrics = {name: float(value) for name, value in metrics.items()}
        progress = self.plan.progress(self.global_step)
        with self._ranks.together():
            decided = self.stack.evaluated(metrics, progress, self.model, self.state)
        self._decide(self._ranks.of_first(lambda: decided), self.global_step)
        return not self.ended

    def _decide(self, decided: Iterable[str], done: int) -> None:
        """Record what was decided after `done` steps, and follow it."""
        new = {name: done for name in decided if name not in self.plan.decisions}
        if new:
            before = self.plan
            self._follow({**before.decisions, **new})
            if self.plan.fingerprint(done) != before.fingerprint(done):
                raise TrickError(f"the decisions {', '.join(new)} change the plan of steps that are done already")

    def _follow(self, decisions: Mapping[str, int]) -> None:
        """Take up the plan as `decisions` make it."""
        if self._replan is None:
            raise FinetricksError("this session was made without `replan`; its tricks cannot decide while training")
        self.plan = self._with_replay(self._replan(decisions))
        self._set_rates(self.global_step)  # the scheduler has set those of this step already, by the plan before

    def hold(self, plan: Plan, *, still: bool = False) -> None:
        """Train by `plan` from here on, whatever the tricks decide: to look at the model under another rate, say.

        Args:
            plan: for the same groups.
            still: every step draws what the first one does, so that the loss of a batch is a function of the weights.
        """
        self._still = still
        self._replan = lambda decisions: replace(plan, decisions=dict(decisions))
        self._follow(self.plan.decisions)

    def _pass_over(self, end: int) -> None:
        """Go on to the step `end` without training."""
        self.enter(end)

    def _keep_rates(self, step: int) -> None:
        """Bring scheduler and optimizer to the plan's rates of `step`, which the scheduler did not count up to."""
        self.scheduler.last_epoch = step
        self._set_rates(step)

    def _set_rates(self, step: int) -> None:
        """Give the optimizer the plan's rates of `step`."""
        for group, base, factor in zip(
            self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(step)
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def finish(self) -> nn.Module:
        """Thaw everything and let the tricks put the model in the shape in which it is saved. Gives the model."""
        self._freezing.apply(frozenset())
        if self._replaying is not None:
            self._replaying.close()
        if self._recomputes:
            recompute.disable(self.model)
        self.stack.finish(self.model)
        return self.model

    # -- the parts of a step, for trainers with a loop of their own --------------------------------------

    def enter(self, step: int, micro_batch: int = 0) -> None:
        """Bring the model to where the plan has it at `step`: freezes and thaws only where the plan changes."""
        self.global_step = step
        self._micro_batch = micro_batch
        if not micro_batch and (not self._looked or step % self._between_looks == 0):
            self._looked = True
            self.stack.watch(("loss", "regularize", "after_backward"), self.model)
        stage = self.plan.stage_at(step)
        if stage.frozen != self._freezing.frozen:
            self._freezing.apply(stage.frozen)
            self._stage = None
        if self._replaying is not None:
            if stage is not self._stage:
                self._replaying.freeze(self.plan.stages.index(stage))
                self._stage = stage
            self._replaying.enter(step)
        if self.scheduler.last_epoch != step:  # passed over, or skipped by a Trainer, which then does not count it
            self._keep_rates(step)

    def dropout_stream(self) -> contextlib.AbstractContextManager[None]:
        """The block in which the micro-batch's dropout is drawn; with `streams: none` the caller's own state."""
        return contextlib.nullcontext() if self.streams is None else seeded(self._micro_seed())

    def replayed(self, compute: Callable[[], T], again: Callable[[], T] | None = None, *, training: bool = True) -> T:
        """Give `compute()`, which runs the model, without the work of frozen layers whose states are known.

        Args:
            again: computes the same with no gradient, for a comparison, where `compute` must be called only once.
            training: it is a training step's; not an evaluation's, the result of which is what the model gives.
        """
        if self._replaying is None:
            return compute()
        if not training:
            self._replaying.enter(self.global_step)
        return self._replaying.run(compute, again, training=training)

    @property
    def replay(self) -> dict[str, Any]:
        """What replay came to so far: rows whose states were found and computed, bytes, and how exact. JSON values."""
        return {} if self._replaying is None else self._replaying.record()

    def _with_replay(self, plan: Plan) -> Plan:
        return plan if self._replaying is None else self._replaying.planned(plan)

    def penalty(self) -> torch.Tensor | None:
        """The tricks' penalty on the weights; `None` when there is none."""
        with self.dropout_stream():
            return self.stack.regularize(self.model, self._step())

    def _loss(self, batch: Any) -> torch.Tensor:
        return self.replayed(lambda: self._whole_loss(batch))

    def _whole_loss(self, batch: Any) -> torch.Tensor:
        step = self._step()
        loss = self.stack.loss(step.forward(batch), batch, step)
        penalty = self.stack.regularize(self.model, step)
        return loss if penalty is None else loss + penalty

    def _step(self) -> Step:
        # The criterion is called later, with the step that it belongs to.
        step = Step(
            progress=self.plan.progress(self.global_step),
            model=self.model,
            forward=self._forward,
            criterion=lambda outputs, batch: self._criterion(outputs=outputs, batch=batch, step=step),
            layers=self.layers,
            seed=self._micro_seed(),
            stack=self.stack,
            state=self.state,
            fresh=self._fresh,
            derived=self._derived,
        )
        return step

    def _forward(self, batch: Any) -> Any:
        compiled = contextlib.nullcontext() if self._compiled is None else self._compiled.in_place()
        with self._precision.forward(), compiled:
            outputs = self._run_model(self.model, batch)
        return self._precision.outputs(outputs)

    def _micro_seed(self) -> int:
        rank = (
            torch.distributed.get_rank()
            if torch.distributed.is_available() and torch.distributed.is_initialized()
            else 0
        )
        keys = (0, 0, rank) if self._still else (self.global_step, self._micro_batch, rank)
        if keys not in self._seeds:
            stream = self.streams.dropout if self.streams else 0
            # One at a time, between the kernels of a step, each takes ten times as long.
            steps = range(keys[0], keys[0] + SEEDS_AHEAD)
            batches = range(max(self._accumulation, keys[1] + 1))
            self._seeds = {(s, m, rank): child(stream, s, m, rank) for s in steps for m in batches}
        return self._seeds[keys]

    def _factors(self) -> list[Callable[[int], float]]:
        """The factor on each optimizer group's rate at a step, by the plan that holds then."""
        by_name = {group.name: group for group in self.plan.groups}

        def factor(name: str) -> Callable[[int], float]:
            return lambda step: self.plan.factor(by_name[name], step)

        return [factor(group["name"]) for group in self.optimizer.param_groups]

    def _window(self) -> int:
        """How many micro-batches the present optimizer step holds: fewer at an epoch's end."""
        step_in_epoch = self.global_step % self.plan.steps_per_epoch
        return min(self._accumulation, self._batches_per_epoch - step_in_epoch * self._accumulation)

    # -- what is saved -----------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the tricks, the model, the groups by name, the plan, the streams.

        JSON values.

        Raises:
            TrickError: a trick has changed its own values.
        """
        self.stack.check_unchanged()
        return {
            "tricks": {name: trick.model_dump(mode="json") for name, trick in self.stack.tricks},
            "groups": {group.name: list(group.parameters) for group in self.plan.groups},
            "steps": {"total": self.plan.total_steps, "per_epoch": self.plan.steps_per_epoch},
            "accumulation": self._accumulation,
            "group_by_length": "off" if self._order is None else self._order.grouping,
            "streams": None if self.streams is None else vars(self.streams),
            "ranks": self._ranks.size,
            "plan": self._plan_before_training.fingerprint(),
            **self._structure,
        }

    def fingerprint(self) -> str:
        """A hash of what the model is beside the values of its weights."""
        return hashlib.sha256(json.dumps(self._structure, sort_keys=True, default=str).encode()).hexdigest()

    def check_identity(self, other: Any, made_with: Any = None) -> None:
        """Raise `CheckpointError`, with what differs, when `other` is the identity of another run (rule 5).

        Args:
            made_with: what the checkpoint says that it was made with. A trick with another source is refused, too; what
                else differs is said.
        """
        own = self.identity()
        if not isinstance(other, Mapping) or not own.keys() <= other.keys():
            raise CheckpointError(
                "the checkpoint was made by another version of finetricks, or by something else: it does not say which "
                "run it belongs to. Start anew"
            )
        differing = [key for key in own if own[key] != other[key]]
        if "tricks" not in differing:
            check_made_with(made_with, self._made_with)  # an edited trick may be why the plan or the model differs
        details = {key: _difference(key, own[key], other[key]) for key in differing}
        if not same_libraries(made_with, self._made_with):
            of_libraries = [details.pop(key) for key in ("modules", "config") if key in details]
            if of_libraries:
                logger.warning("the model may not be what it was: %s", "; ".join(of_libraries))
        if not details:
            return
        if details.pop("plan", "") and not details:
            details["plan"] = "the plan: learning rates, weight decay or frozen layers"
        raise CheckpointError("the checkpoint belongs to another run; what differs: " + "; ".join(details.values()))

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Versions, and the source of the tricks."""
        return self._made_with

    def state_dict(self) -> dict[str, Any]:
        """All that resume needs, for `torch.save`; it can be loaded with `weights_only=True`.

        Of several ranks each calls it; the state of one is good for all.

        Raises:
            FinetricksError: called between the micro-batches of one optimizer step, or for a loader whose order is not
                finetricks' to continue (an exact resume is refused, not pretended).
        """
        if self._micro_batch:
            raise FinetricksError("save between optimizer steps: this one still waits for micro-batches")
        if self._order is not None and not self._order.owned:
            raise FinetricksError(
                "exact resume needs a loader over a map-style data set with torch's own sampler; the order of this one "
                "cannot be continued. Save the model alone with model.state_dict()"
            )
        return {
            "identity": self.identity(),
            "made_with": dict(self._made_with),
            "global_step": self.global_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self._precision.state_dict(),
            "decisions": dict(self.plan.decisions),
            "skipped": vars(self.skipped),
            "own": _of_ranks(self._ranks, {"tricks": self.state, "rng": _rng() if self.streams is None else None}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            CheckpointError: the state is another run's, another model's, or made with another source of a trick; or it
                lacks a part. The session is as it was.
        """
        self.check_identity(state.get("identity"), state.get("made_with"))
        self._take_up(state)

    def branch(self, state: Mapping[str, Any], prefix: Prefix) -> None:
        """Continue where the `state_dict` of another run was taken that is the same up to there (rule 5's exception).

        Args:
            state: with the `prefix` that the other run had in common.
            prefix: of this run.

        Raises:
            CheckpointError: the runs differ before that step, or the state lacks a part. The session is as it was.
        """
        prefix.check(state.get("prefix"), state.get("global_step", -1))
        self._take_up(state)
        self._set_rates(self.global_step)  # those of this plan: here they part

    def _take_up(self, state: Mapping[str, Any]) -> None:
        if missing := [part for part in _PARTS if part not in state]:
            raise CheckpointError(f"the state lacks {', '.join(missing)}; give one that session.state_dict() made")
        self.global_step = state["global_step"]
        own = state["own"][self._ranks.rank if len(state["own"]) > 1 else 0]
        self.recall(own["tricks"], state["decisions"], state.get("skipped", {}))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self._precision.load_state_dict(state["scaler"])
        self.optimizer.zero_grad(set_to_none=True)  # of a step that was not done
        self._losses = []
        self._resumed_rng = own["rng"]
        if self._resumed_rng is not None:
            _set_rng(self._resumed_rng)
        self.enter(state["global_step"])
        if self._replaying is not None:
            self._replaying.forget()

    def recall(
        self, tricks: Mapping[str, dict[str, Any]], decisions: Mapping[str, int], skipped: Mapping[str, int]
    ) -> None:
        """Take up what the tricks remembered and had decided at the present step, and what had been skipped."""
        self.skipped = Skipped(**skipped)
        # A copy: what tricks remember they may change in place.
        self.state = {name: copy.deepcopy(tricks.get(name, {})) for name, _ in self.stack.tricks}
        if dict(decisions) != self.plan.decisions:
            self._follow(decisions)


def _trained_at_all(plan: Plan) -> set[str]:
    """The names of the parameters that are not frozen at every step."""
    asleep = plan.never_trained()
    return {name for group in plan.groups if group.layer not in asleep for name in group.parameters}


def _of_ranks(ranks: Ranks, own: dict[str, Any]) -> list[dict[str, Any]]:
    """What differs between the ranks, by rank; of one alone where all have the same, as with the built-in tricks."""
    if ranks.size == 1:
        return [own]
    own = send_to_device(own, torch.device("cpu"))
    written = io.BytesIO()
    torch.save(own, written)
    if len(set(ranks.gather(hashlib.sha256(written.getvalue()).hexdigest()))) == 1:
        return [own]
    return ranks.gather(own)


def _rng() -> dict[str, torch.Tensor]:
    """The global random state, for `streams: none`."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_rng(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _ends(loader: Iterable[Any]) -> bool:
    try:
        return len(loader) > 0  # type: ignore[arg-type]
    except TypeError:
        return False


def _examples(loader: Any, length: int) -> int | None:
    """How many examples a pass over the loader gives; `None` where it does not tell."""
    size = getattr(loader, "batch_size", None)
    return length * size if isinstance(size, int) else None


def _length(loader: Iterable[Any], steps_per_epoch: int | None, accumulation: int) -> int:
    if steps_per_epoch is not None:
        return steps_per_epoch * accumulation
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise FinetricksError("this loader has no length, and a plan needs one: give steps_per_epoch=...") from None
    if not length:
        raise FinetricksError("this loader has no batches")
    return length


def _difference(key: str, own: Any, other: Any) -> str:
    if isinstance(own, dict) and isinstance(other, dict):
        parts = [
            f"{key}.{name}: {other.get(name, 'absent')} there, {own.get(name, 'absent')} here"
            for name in {**other, **own}
            if own.get(name) != other.get(name)
        ]
        return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")
    return f"{key}: {other} there, {own} here"
