"""What a head computes, taken down while it does so once: torch's operations on what is trained, in order.

Everything that does not depend on a tracked tensor (a weight or buffer of the head, a dropout mask) is a constant of
the tape: so what the frozen body gives, and what the head makes of it before a weight of its own comes in. Played on
other weights, masks and constants, the tape computes the same of them; it holds no Python of the model's or a trick's,
so that `torch.func.vmap` and `grad` go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from finetricks.heads.apart import Apart


@dataclass(frozen=True)
class Slot:
    """A value that is computed from what is tracked; the first ones are the tracked tensors themselves."""

    index: int


@dataclass(frozen=True)
class Constant:
    """A value that is not."""

    index: int


@dataclass(frozen=True)
class Mask:
    """A dropout: the shape and strides of what it was given, and its probability. Its factors are a tracked tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    p: float
    slot: int

    def draw(self, device: torch.device) -> Tensor:
        """The factors, 0 or 1 / (1 - p), drawn from torch's global state as `dropout` does."""
        given = torch.empty_strided(self.shape, self.stride, device=device)
        return F.dropout(torch.ones_like(given), self.p, training=True)


@dataclass(frozen=True)
class Op:
    """One operation; `writes` are the slots that it changes in place."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    gives: tuple[int | None, ...]
    writes: tuple[int, ...]

    @property
    def reads(self) -> set[int]:
        return {leaf.index for leaf in tree_iter((self.args, self.kwargs)) if isinstance(leaf, Slot)}


@dataclass(frozen=True)
class Tape:
    """Operations, and what they are done on.

    Attributes:
        tracked: how many of the first slots are the tensors given to `record`.
        masks: in the order in which they are drawn.
        result: the slot of what was computed.
        constants: how many.
    """

    ops: tuple[Op, ...]
    tracked: int
    masks: tuple[Mask, ...]
    result: int
    constants: int

    @property
    def signature(self) -> str:
        """Equal for tapes that compute the same."""
        return repr([(str(op.function), op.args, op.kwargs, op.gives) for op in self.ops])

    @property
    def read(self) -> set[int]:
        """The tracked tensors that the result depends on."""
        return {index for op in self.ops for index in op.reads if index < self.tracked}

    @property
    def written(self) -> set[int]:
        """The tracked tensors that are changed."""
        return {index for op in self.ops for index in op.writes if index < self.tracked}

    def play(self, tracked: Sequence[Tensor], masks: Sequence[Tensor], constants: Sequence[Tensor]) -> Tensor:
        """Do the operations on other tensors. Those in `tracked` that are `written` are changed."""
        values = dict(enumerate(tracked)) | {
            mask.slot: factors for mask, factors in zip(self.masks, masks, strict=True)
        }

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, Slot):
                return values[leaf.index]
            return constants[leaf.index] if isinstance(leaf, Constant) else leaf

        for op in self.ops:
            given = op.function(*tree_map(filled, op.args), **tree_map(filled, op.kwargs))
            for index, value in zip(op.gives, given if isinstance(given, tuple | list) else (given,), strict=True):
                if index is not None:
                    values[index] = value
        return values[self.result]


def record(compute: Callable[[], Tensor], tracked: Sequence[Tensor]) -> tuple[Tape, list[Tensor], Tensor]:
    """Take down what `compute` does with `tracked`. Gives the tape, its constants, and the result.

    Without a gradient. Dropout is drawn from torch's global state, as it is without taking it down.

    Raises:
        Apart: what it does depends on the values that it computes, is random otherwise than by dropout, or does not
            depend on `tracked`.
    """
    recorder = _Recorder(tracked)
    with torch.no_grad(), _Dropouts(recorder), recorder:
        result = compute()
    return *recorder.tape(result), result


class _Recorder(TorchDispatchMode):
    def __init__(self, tracked: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = {id(tensor): index for index, tensor in enumerate(tracked)}
        self._held: list[Tensor] = list(tracked)  # an identity lasts only as long as its tensor
        self._count = len(tracked)
        self._tracked = len(tracked)
        self._places: dict[tuple[int, int], int] = {}
        self._constants: list[Tensor] = []
        self._ops: list[Op] = []
        self._masks: list[Mask] = []
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def dropped(self, values: Tensor, p: float) -> Tensor:
        with self.paused():
            mask = Mask(tuple(values.shape), values.stride(), p, self._count)
            factors = mask.draw(values.device)
        self._masks.append(mask)
        self._new_slot(factors)
        return values * factors

    def _new_slot(self, tensor: Tensor) -> int:
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = self._count
            self._held.append(tensor)
            self._count += 1
        return self._slots[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._paused or not any(id(tensor) in self._slots for tensor in given):
            return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [_positions(index, self._slots) for index in args[1]])
        written = _written(func, args, kwargs)
        if any(id(tensor) not in self._slots for tensor in written):
            raise Apart(f"the head writes what it computes into a tensor that is there already ({func})")
        taken_args, taken_kwargs = tree_map(self._taken, (args, kwargs))
        random = torch.Tag.nondeterministic_seeded in func.tags
        before = torch.get_rng_state() if random else None
        out = func(*args, **kwargs)
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            raise Apart(f"random numbers are drawn otherwise than by dropout ({func})")
        outputs = out if isinstance(out, tuple | list) else (out,)
        if not any(isinstance(value, Tensor) for value in outputs):
            raise Apart(f"the head, or the loss, looks at a value that it has computed ({func})")
        gives = tuple(self._new_slot(value) if isinstance(value, Tensor) else None for value in outputs)
        writes = tuple(self._slots[id(tensor)] for tensor in written)
        self._ops.append(Op(func, taken_args, taken_kwargs, gives, writes))
        return out

    def _taken(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in self._slots:
            return Slot(self._slots[id(leaf)])
        place = (id(leaf), leaf._version)
        if place not in self._places:
            self._places[place] = len(self._constants)
            self._held.append(leaf)
            self._constants.append(leaf.detach().clone())
        return Constant(self._places[place])

    def tape(self, result: Tensor) -> tuple[Tape, list[Tensor]]:
        """The operations that the result, or a change of what is tracked, rests on; and their constants."""
        if id(result) not in self._slots:
            raise Apart("the result depends on nothing that is trained")
        needed, ops = {self._slots[id(result)]}, []
        for op in reversed(self._ops):
            if op.writes or needed & set(op.gives):
                needed |= op.reads
                ops.append(op)
        used = sorted({leaf.index for op in ops for leaf in tree_iter((op.args, op.kwargs)) if _is_constant(leaf)})
        numbers = {index: number for number, index in enumerate(used)}

        def renumbered(leaf: Any) -> Any:
            return Constant(numbers[leaf.index]) if _is_constant(leaf) else leaf

        kept = tuple(
            Op(op.function, tree_map(renumbered, op.args), tree_map(renumbered, op.kwargs), op.gives, op.writes)
            for op in reversed(ops)
        )
        tape = Tape(kept, self._tracked, tuple(self._masks), self._slots[id(result)], len(used))
        return tape, [self._constants[index] for index in used]


class _Dropouts(TorchFunctionMode):
    """Makes a multiplication by a mask of each dropout, in Python's own layer: below it is no dropout any more."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.dropout:
            return func(*args, **kwargs)
        values, p, training = _dropout(*args, **kwargs)
        return self._recorder.dropped(values, p) if training and p > 0 else values


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[Tensor, float, bool]:
    return input, p, training


def _is_constant(leaf: Any) -> bool:
    return isinstance(leaf, Constant)


def _positions(index: Any, slots: Mapping[int, int]) -> Any:
    """Of a mask the places where it holds: how many they are does not depend on values then."""
    if index is None or index.dtype is not torch.bool:
        return index
    if id(index) in slots or index.dim() != 1:
        raise Apart("the head chooses examples by what it computes")
    return index.nonzero()[:, 0]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    found = []
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        of_statistics = argument.name in ("running_mean", "running_var") and bool(
            kwargs.get("training", args[5] if len(args) > 5 else False)
        )  # a normalisation writes to them, and its schema does not say so
        if isinstance(value, Tensor) and (of_statistics or (argument.alias_info and argument.alias_info.is_write)):
            found.append(value)
    return found
