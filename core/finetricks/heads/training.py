"""Stacked heads: their losses and gradients by `torch.func`, their steps by the session's own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from finetricks.heads.apart import Apart
from finetricks.heads.features import Features
from finetricks.heads.members import Body, Member
from finetricks.heads.tape import Tape
from finetricks.optimizers import create_optimizer
from finetricks.streams import child, seeded


class Stacked:
    """The heads of several runs, each tensor of theirs stacked along a first axis.

    Args:
        features: of train.
        trainable: which of the tracked tensors get a gradient.
    """

    def __init__(self, members: Sequence[Member], body: Body, features: Features, trainable: Sequence[int]) -> None:
        self._members, self._features = list(members), features
        self.trainable, self.count = list(trainable), len(members)
        self._training = body.recipe.training
        self._device = body.tracked[0].device
        self._weights = [torch.stack([m.head[index] for m in members]) for index in range(len(body.tracked))]
        self._plan = body.session.plan
        self._batches = len(members[0].order.rows(0))
        self._epoch, self._rows = -1, torch.empty(0)
        self._optimizers = [self._optimizer(places, body.names) for places in _alike(members)]
        self._gradients: dict[int, Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, tuple[Tensor, ...]]]]] = {}

    def _optimizer(self, places: list[int], names: Sequence[str]) -> tuple[Member, list[int], list[Tensor], object]:
        """That of runs with the same rates: on views of the stacked weights, where these lie side by side."""
        first, last = places[0], places[-1] + 1
        views = {names[index]: self._weights[index][first:last] for index in self.trainable}
        plan = self._members[first].plan
        groups = [
            {"name": group.name, "params": params, "lr": plan.learning_rate, "weight_decay": group.weight_decay}
            for group in plan.groups
            if (params := [views[name] for name in group.parameters if name in views])
        ]
        return self._members[first], places, list(views.values()), create_optimizer(groups, self._training)

    # -- a step ------------------------------------------------------------------------------------------

    def step(self, step: int) -> None:
        """Do an optimizer step of every run."""
        accumulation = self._training.accumulation
        epoch, within = divmod(step, self._plan.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, [member.order.rows(epoch) for member in self._members]
        window = min(accumulation, self._batches - within * accumulation)
        total: list[Tensor] | None = None
        fit = torch.ones(self.count, dtype=torch.bool, device=self._device)
        for micro in range(window):
            rows = torch.tensor([order[within * accumulation + micro] for order in self._order])
            losses, grads = self.gradients(step, micro, rows)
            if window > 1:
                grads = [grad / window for grad in grads]
            total = grads if total is None else [before + grad for before, grad in zip(total, grads, strict=True)]
            fit &= losses.isfinite()
            for member, loss in zip(self._members, losses.tolist(), strict=True):
                member.losses.append(loss)
        assert total is not None
        self._update(step, total, fit)

    def gradients(self, step: int, micro: int, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss [runs] of each run's batch, and the gradients by the trainable tensors.

        Buffers of the heads are moved on.

        Args:
            rows: of train, [runs, examples].
        """
        size = rows.shape[1]
        tape = self._features.tape(size)
        if size not in self._gradients:
            self._gradients[size] = self._function(tape)
        trained = [self._weights[index] for index in self.trainable]
        masks = self._masks(tape, step, micro)
        constants = self._features.constants(rows.to(self._device))
        grads, (losses, written) = self._gradients[size](trained, self._weights, masks, constants)
        for index, value in zip(sorted(tape.written), written, strict=True):
            self._weights[index].copy_(value)
        return losses, list(grads)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Put the weights and buffers back as they were after the block."""
        before = [weights.clone() for weights in self._weights]
        yield
        for weights, values in zip(self._weights, before, strict=True):
            weights.copy_(values)

    def _function(self, tape: Tape) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, tuple[Tensor, ...]]]]:
        if not tape.read & set(self.trainable) == set(self.trainable):
            raise Apart("the last batch of an epoch reads other weights than the others")

        def loss(
            trained: Sequence[Tensor], every: Sequence[Tensor], masks: Sequence[Tensor], constants: Sequence[Tensor]
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            values = dict(enumerate(every)) | dict(zip(self.trainable, trained, strict=True))
            values |= {index: values[index].clone() for index in tape.written}
            result = tape.play(list(values.values()), masks, constants)
            return result, tuple(values[index] for index in sorted(tape.written))

        inner = grad_and_value(loss, has_aux=True)

        def swapped(*arguments: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, tuple[Tensor, ...]]]:
            return inner(*arguments)

        axes = self._features.axes
        return vmap(swapped, in_dims=(0, 0, 0, axes))

    def _masks(self, tape: Tape, step: int, micro: int) -> list[Tensor]:
        """The factors of each dropout, drawn for each run from its own stream of the micro-batch."""
        if not tape.masks:
            return []
        drawn = []
        with seeded(0):
            for member in self._members:
                torch.manual_seed(child(member.recipe.streams.dropout, step, micro, 0))
                drawn.append([mask.draw(self._device) for mask in tape.masks])
        return [torch.stack(factors) for factors in zip(*drawn, strict=True)]

    def _update(self, step: int, grads: list[Tensor], fit: Tensor) -> None:
        """Clip and update as the session does; a run whose loss or gradient is not finite is left to itself."""
        norms = torch.stack([torch.linalg.vector_norm(grad.reshape(self.count, -1), dim=1) for grad in grads])
        norm = torch.linalg.vector_norm(norms, dim=0)
        fit &= norm.isfinite()
        factor = torch.ones_like(norm)
        if self._training.clip > 0:
            factor = (self._training.clip / (norm + 1e-6)).clamp(max=1.0)
        if not bool(fit.all()):
            for place in (~fit).nonzero()[:, 0].tolist():
                member = self._members[place]
                member.apart = member.apart or f"its loss or gradient is not finite at step {step}"
            grads = [grad.nan_to_num(0.0, 0.0, 0.0) for grad in grads]
            factor = torch.where(fit, factor, 0.0)
        for grad in grads:
            grad.mul_(factor.reshape(-1, *[1] * (grad.dim() - 1)))
        for member, places, views, optimizer in self._optimizers:
            for view, grad in zip(views, grads, strict=True):
                view.grad = grad[places[0] : places[-1] + 1]
            by_name = {group.name: group for group in member.plan.groups}
            for group in optimizer.param_groups:  # type: ignore[attr-defined]
                group["lr"] = member.plan.rate(by_name[group["name"]], step)
            optimizer.step()  # type: ignore[attr-defined]

    # -- scores ------------------------------------------------------------------------------------------

    def scores(self, features: Features) -> Iterator[Tensor]:
        """The outputs [examples, labels] of each run for a split."""
        parts = []
        for start in range(0, features.rows, features.size):
            end = min(start + features.size, features.rows)
            parts.append(self._scored(features, start, end))
        yield from torch.cat(parts, dim=1)

    def _scored(self, features: Features, start: int, end: int) -> Tensor:
        tape, constants = features.tape(end - start), features.of_all(start, end)
        with torch.no_grad():
            return vmap(lambda *weights: tape.play(weights, (), constants))(*self._weights)

    def check_scores(self, features: Features, own: Callable[[], Tensor]) -> None:
        """Raise `Apart` where the first two rows' scores are not those of the first run's model."""
        with torch.no_grad():
            alone = own()
        mine = next(iter(self.scores(features)))[: len(alone)]
        if not bool((mine - alone).abs().max() <= 1e-3 * (1 + alone.abs().max())):
            raise Apart("the scores of all heads at once are not those of one alone")

    def head(self, place: int) -> list[Tensor]:
        """The tensors of one run's head."""
        return [weights[place].clone() for weights in self._weights]


def _alike(members: Sequence[Member]) -> list[list[int]]:
    """Runs of members, side by side, whose optimizers do the same."""
    return [[place for place, _ in run] for _, run in groupby(enumerate(members), key=lambda each: each[1].rates)]
