"""What heads read of a split: the constants of a tape, example by example, computed by one pass over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetricks.heads.apart import Apart
from finetricks.heads.tape import Tape, record

MOST_BYTES = 4 * 2**30
"""Of what is kept of a split."""

CLOSE = 1e-4
"""How far, relative to its largest value, an example's features may lie apart in two batches: kernels round by shape.
What is more is another function than of the example."""

Batch = Callable[[Sequence[int], int | None], object]
"""Makes a batch of some rows of a split, padded to a length, or to the longest of them."""


@dataclass(frozen=True)
class Reading:
    """One constant of a tape: of each example, or the same in every batch.

    Attributes:
        axis: of the examples, which may be one with what follows them (a tensor that was flattened); `None` where the
            constant is the same in every batch.
    """

    axis: int | None

    def by_example(self, constant: Tensor, rows: int) -> Tensor:
        """The constant of a batch of `rows` examples, examples first."""
        assert self.axis is not None
        parted: Tensor = constant.unflatten(self.axis, (rows, -1))
        return parted.movedim(self.axis, 0)

    def of_batches(self, chosen: Tensor) -> Tensor:
        """The constants of batches, of what `by_example` gave for their examples [batches, examples, ...]."""
        assert self.axis is not None
        return chosen.movedim(1, self.axis + 1).flatten(self.axis + 1, self.axis + 2)


class Features:
    """The constants of a split, and the tapes that read them: one for each size of batch.

    Args:
        compute: the loss, or the scores, of a batch; called while it is taken down.
        tracked: the tensors of the head.
        batch: makes a batch.
        lengths: tokens of each row of the split.
        longest: the length to which a batch with the longest row is padded.
        size: rows of a batch.
        restore: puts the head's tensors back as they were, after a pass that may have changed some.

    Raises:
        Apart: what is computed is no function of the examples one by one, or too large.
    """

    def __init__(
        self,
        compute: Callable[[object], Tensor],
        tracked: Sequence[Tensor],
        batch: Batch,
        lengths: Sequence[int],
        *,
        longest: int,
        size: int,
        restore: Callable[[], None],
    ) -> None:
        self._compute, self._tracked, self._batch, self._restore = compute, tracked, batch, restore
        self.rows = len(lengths)
        self.size = min(size, self.rows)
        if self.size < 2:
            raise Apart("a split of one example")
        order = sorted(range(self.rows), key=lambda row: -lengths[row])
        first = order[: self.size]
        self._tapes: dict[int, Tape] = {}
        self._shared_of: dict[int, list[Tensor]] = {}
        tape, whole = self._record(first)
        self._tapes[self.size] = tape
        _, back = self._record(first[::-1])
        _, fewer = self._record(first[: self.size - 1])
        shortest = self._record(order[-self.size :])[1]
        self._reads_tokens = [each.shape for each in shortest] != [each.shape for each in whole]
        self._order, self._longest = order, longest
        self._check_masks(tape, self.size)
        self.readings = _readings(whole, back, fewer, self.size)
        self._shared = {index: whole[index] for index, each in enumerate(self.readings) if each.axis is None}
        self._stores = self._empty(whole)
        self._fill(order)

    def _record(self, rows: Sequence[int], length: int | None = None) -> tuple[Tape, list[Tensor]]:
        batch = self._batch(rows, length)
        try:
            tape, constants, _ = record(lambda: self._compute(batch), self._tracked)
        finally:
            self._restore()
        return tape, constants

    def _check_masks(self, tape: Tape, size: int) -> None:
        """Raise `Apart` where dropout is drawn in other shapes for a short batch than for a long one."""
        if not tape.masks:
            return
        short, _ = self._record(self._order[-size:])
        if [mask.shape for mask in short.masks] != [mask.shape for mask in tape.masks]:
            raise Apart("its dropout is drawn for each token, and so with the length of a batch")

    def _empty(self, constants: Sequence[Tensor]) -> dict[int, Tensor]:
        of_rows = {index: each for index, each in enumerate(self.readings) if each.axis is not None}
        shapes = {index: each.by_example(constants[index], self.size).shape[1:] for index, each in of_rows.items()}
        size = sum(self.rows * shape.numel() * constants[index].element_size() for index, shape in shapes.items())
        if size > MOST_BYTES:
            raise Apart(f"what the head reads of {self.rows} examples is {size / 2**30:.1f} GiB")
        return {index: constants[index].new_empty((self.rows, *shape)) for index, shape in shapes.items()}

    def _fill(self, order: Sequence[int]) -> None:
        signature = self._tapes[self.size].signature
        cyclic = [*order, *order[: -len(order) % self.size]]
        for start in range(0, len(cyclic), self.size):
            rows = cyclic[start : start + self.size]
            # If the head reads each token all batches are as long; else what is padded is only work.
            tape, constants = self._record(rows, self._longest if self._reads_tokens else None)
            if tape.signature != signature:
                raise Apart("what the head computes depends on the batch")
            for index, each in enumerate(self.readings):
                if each.axis is not None:
                    self._stores[index][rows] = each.by_example(constants[index], self.size)
                elif not _close(constants[index], self._shared[index]):
                    raise Apart("the head reads something of a batch that is not its examples'")

    def tape(self, size: int) -> Tape:
        """The tape of a batch of `size` rows."""
        if size not in self._tapes:
            tape, constants = self._record(range(size), self._longest)
            self._check_masks(tape, size)
            alike = tape.constants == len(self.readings) and all(
                each.axis is None or each.by_example(constants[index], size).shape[1:] == self._stores[index].shape[1:]
                for index, each in enumerate(self.readings)
            )
            if not alike:
                raise Apart(f"the head computes something else for a batch of {size} than for one of {self.size}")
            self._tapes[size] = tape
            self._shared_of[size] = constants
        return self._tapes[size]

    def constants(self, rows: Tensor) -> list[Tensor]:
        """What a tape reads for the batches `rows` [heads, examples]; shared constants have no axis of the heads."""
        size = rows.shape[1]
        self.tape(size)
        shared: Mapping[int, Tensor] = dict(enumerate(self._shared_of.get(size, ()))) or self._shared
        return [
            shared[index] if each.axis is None else each.of_batches(self._stores[index][rows])
            for index, each in enumerate(self.readings)
        ]

    def of_all(self, start: int, end: int) -> list[Tensor]:
        """The same for the rows from `start` to `end`, one batch that all heads read: without an axis of the heads."""
        return [
            constant if each.axis is None else constant[0]
            for constant, each in zip(self.constants(torch.arange(start, end)[None]), self.readings, strict=True)
        ]

    @property
    def axes(self) -> list[int | None]:
        """Of each constant the axis of the heads, for `vmap`."""
        return [None if each.axis is None else 0 for each in self.readings]


def _readings(whole: Sequence[Tensor], back: Sequence[Tensor], fewer: Sequence[Tensor], size: int) -> list[Reading]:
    """What each constant is, from those of a batch of `size`, of its rows turned round, and without the last one."""
    if not len(whole) == len(back) == len(fewer):
        raise Apart("what the head computes depends on the batch")
    found = []
    for one, turned, less in zip(whole, back, fewer, strict=True):
        if one.dim() != less.dim() or one.shape != turned.shape:
            raise Apart("what the head computes depends on the batch")
        axes = [axis for axis in range(one.dim()) if one.shape[axis] != less.shape[axis]]
        if (
            len(axes) == 1
            and one.shape[axes[0]] * (size - 1) == less.shape[axes[0]] * size
            and _turned(Reading(axes[0]), one, turned, size)
        ):
            found.append(Reading(axes[0]))
        elif len(axes) <= 1 and _close(one, turned):
            found.append(Reading(None))
        else:
            raise Apart("the head, or the loss, reads something that is not a function of each example alone")
    return found


def _turned(each: Reading, one: Tensor, turned: Tensor, size: int) -> bool:
    """Whether a constant belongs to the examples, one by one: it goes where they go."""
    return _close(each.by_example(one, size), each.by_example(turned, size).flip(0))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool(((one - other).abs().nan_to_num(0.0) <= CLOSE * (1 + one.abs().nan_to_num(0.0))).all())
