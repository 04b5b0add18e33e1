"""Leaves out the work of frozen layers whose states are kept."""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn

from finetricks.layer_spec import EMBEDDINGS
from finetricks.layers import Layers
from finetricks.replay.ahead import Ahead
from finetricks.replay.chain import Chain
from finetricks.replay.check import Before, difference, random_state
from finetricks.replay.course import Span, still_good
from finetricks.replay.keys import TOKENS_OF_A_THREAD, Rows, rows_of
from finetricks.replay.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKS = 3
"""So many replays of a boundary are computed both ways at most: until one mixed rows that were computed apart."""

CHANGES = 3
"""How often frozen weights may be written to before it is taken for a habit."""


@dataclass
class Call:
    """One pass of the trunk.

    Attributes:
        given: states of boundaries that are not computed.
        record: boundaries whose states are to be noted in `seen`.
        start: blocks up to this one are not computed.
        stop: the pass ends after this block; 0 for a whole one.
    """

    given: dict[int, torch.Tensor] = field(default_factory=dict)
    record: frozenset[int] = frozenset()
    start: int = 0
    stop: int = 0
    seen: dict[int, torch.Tensor] = field(default_factory=dict)


class _Stop(Exception):
    """Ends a pass where it has gone far enough."""


class Engine:
    """Replays one model's frozen prefix.

    Args:
        remembered: gives what the run's tricks remember, which a check must not change.
        open_store: gives the store of a boundary, for the weights as they are.
        tolerant: replay goes on where it is not exact.
        narrow: the type in which fp32 states are kept, if another.
        shared: other runs use the stores too: states are kept also where this run has no use for them.

    Attributes:
        off: why nothing is replayed any more; empty while it is.
        apart: the largest difference that a check has found.
        hits: rows whose states were found, `misses` those that were computed.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        links: Chain,
        *,
        remembered: Callable[[], dict[str, dict[str, Any]]],
        open_store: Callable[[int], Store],
        steps_per_epoch: int,
        batches_per_epoch: int,
        tolerant: bool = False,
        narrow: torch.dtype | None = None,
        shared: bool = False,
    ) -> None:
        self.off = ""
        self.apart = 0.0
        self.hits = 0
        self.misses = 0
        self._model = model
        self._layers = layers
        self._chain = links
        self._remembered = remembered
        self._open_store = open_store
        self._steps_per_epoch = steps_per_epoch
        self._patience = batches_per_epoch + batches_per_epoch // 4 + 2
        self._tolerant = tolerant
        self._narrow = narrow
        self._shared = shared
        self._signature = inspect.signature(type(links.trunk).forward)
        self._stores: dict[int, Store] = {}
        self._most_bytes = 0
        self._first_kept: dict[int, int] = {}  # the epoch in which a boundary's first row was kept
        self._passes: dict[bytes, tuple[int, int]] = {}  # a row: the number of the pass it was kept in, and its length
        self._pass = 0
        self._ahead = Ahead()
        self._latest: tuple[Callable[..., Any], dict[str, Any]] | None = None  # the trunk's own pass, and its arguments
        self._span = Span(0, 0, 0, {})
        self._step = 0
        self._training = True
        self._all_states = False
        self._checks: Counter[tuple[int, bool]] = Counter()
        self._trusted: set[tuple[int, bool]] = set()
        self._idle: Counter[int] = Counter()  # of a step's first, second ... pass: how often in a row it hit nothing
        self._ordinal = 0
        self._surprised = False
        self._call: Call | None = None
        self._checking = False
        self._mixed = False
        self._would: set[int] = set()
        self._outputs: list[tuple[Any, torch.Tensor | None]] | None = None
        self._frozen: list[nn.Parameter] = []
        self._blocks: tuple[nn.Module, ...] = ()
        self._inside: list[nn.Module] = []
        self._hooks = -1
        self._versions: tuple[int, ...] = ()
        self._changes = 0

    # -- where the run is --------------------------------------------------------------------------------

    def enter(self, step: int) -> None:
        """Tell the step that comes next, or that an evaluation comes after."""
        self._step = step

    def freeze(self, span: Span) -> None:
        """Take up another stage, once its layers are frozen."""
        self._span = span
        good = still_good(dict.fromkeys(self._stores, 0), span.blocks, span.kept)
        for boundary in [boundary for boundary in self._stores if boundary not in good]:
            self._drop(boundary)
        self._all_states = False
        self._surprised = False
        self._idle.clear()
        self._ahead, self._latest = Ahead(), None  # other boundaries may be kept: the rows are looked at anew
        below = {EMBEDDINGS, *self._layers.blocks[: span.blocks]}
        modules = dict(self._model.named_modules())
        self._blocks = self._chain.blocks[: span.blocks]
        self._inside = [modules[name] for name, does in self._layers.modules.items() if does == {EMBEDDINGS}]
        self._inside += [module for block in self._blocks for module in block.modules() if module is not block]
        parameters = dict(self._model.named_parameters())
        self._frozen = [
            parameters[name] for layer in below for name in self._layers.parameters.get(layer, ()) if name in parameters
        ]
        self._versions = self._now()
        self._hooks = -1

    def _now(self) -> tuple[int, ...]:
        return tuple(number for p in self._frozen for number in (p._version, p.data_ptr()))

    def forget(self) -> None:
        """Forget all states: the weights are others now."""
        for boundary in list(self._stores):
            self._drop(boundary)
        self._versions = self._now()

    def _drop(self, boundary: int) -> None:
        self._stores.pop(boundary).close()
        self._first_kept.pop(boundary, None)
        self._trusted -= {(boundary, True), (boundary, False)}

    def close(self) -> None:
        """Replay no more, and let go of all states."""
        self._span = Span(0, 0, 0, {})
        for boundary in list(self._stores):
            self._drop(boundary)
        self._passes = {}
        self._latest = None

    def _give_up(self, why: str) -> None:
        self.off = why
        self.close()
        logger.warning("replay: off from step %d on, because %s", self._step, why)

    @property
    def nbytes(self) -> int:
        """The most bytes that were kept at a time."""
        return self._most_bytes

    # -- a computation -----------------------------------------------------------------------------------

    def run(self, compute: Callable[[], T], again: Callable[[], T] | None = None, *, training: bool = True) -> T:
        """Give `compute()`, without the work that need not be done.

        The first replays are computed as a whole, and then compared with a replay on the side.

        Args:
            again: computes the same for the comparison, where it must not be `compute` itself.
            training: a training step's loss, not an evaluation.
        """
        if self.off or not self._span.blocks:
            return compute()
        self._training, self._ordinal, self._would, self._mixed = training, 0, set(), False
        unproven = (self._span.blocks, training) not in self._trusted
        before = Before(self._model, self._remembered() if training else {}) if unproven and self._may_hit() else None
        self._outputs = None if before is None else []
        with self._in_place():
            result = compute()
            if training and not self.off and (self._step + 1) % self._steps_per_epoch == 0:
                self._catch_up()
        outputs, self._outputs = self._outputs, None
        if before is None:
            self._surprised = self._surprised or bool(self._would)
        elif self._would and not self.off:
            self._compare(result, outputs or [], again or compute, before)
        return result

    def _may_hit(self) -> bool:
        """Whether a row that comes now may have been kept: in training only after an epoch, or so one thinks."""
        epoch = self._step // self._steps_per_epoch
        return not self._training or self._surprised or self._first_kept.get(self._span.blocks, epoch) < epoch

    def _compare(self, result: Any, outputs: list[Any], again: Callable[[], Any], before: Before) -> None:
        after = random_state()
        self._checking, self._outputs, self._ordinal = True, [], 0
        boundaries, mixed = self._would, self._mixed
        try:
            with before.again(), self._in_place():
                other = again()
                same_draws = all(map(torch.equal, random_state(), after))
        finally:
            replayed, self._outputs, self._checking = self._outputs, None, False
        if not same_draws:
            self._give_up("the frozen layers draw random numbers")
            return
        apart = difference(result, other)
        if len(outputs) != len(replayed):
            apart = math.inf
        for (output, mask), (own, _) in zip(outputs, replayed, strict=False):
            apart = max(apart, difference(output, own, mask))
        self.apart = max(self.apart, apart)
        if apart and (not self._tolerant or apart == math.inf):
            self._give_up(
                f"it is not exact here: a loss or a state is {apart:.1g} apart"
                if apart < math.inf
                else "outputs differ"
            )
            return
        for boundary in boundaries:
            key = (boundary, self._training)
            self._checks[key] += 1
            if mixed or not self._training or self._checks[key] >= CHECKS:
                self._trusted.add(key)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The block in which the model's parts are called here first. The model itself stays what it is."""
        modules = (self._chain.trunk, *self._blocks)
        before = [module.__dict__.get("forward") for module in modules]
        forwards = [
            own or MethodType(type(module).forward, module) for module, own in zip(modules, before, strict=True)
        ]
        work = [partial(self._trunk, forwards[0])]
        work += [partial(self._block, number, own) for number, own in enumerate(forwards[1:], 1)]
        for module, stand_in in zip(modules, work, strict=True):
            _AT_WORK[module] = stand_in
            module.__dict__["forward"] = MethodType(_forward, module)
        try:
            yield
        finally:
            for module, own in zip(modules, before, strict=True):
                del _AT_WORK[module]
                if own is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = own

    # -- a pass ------------------------------------------------------------------------------------------

    def _trunk(self, own: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        if self._call is not None or self.off:
            return own(*args, **keywords)
        self._ordinal += 1
        given = self._arguments(args, keywords)
        useful = bool(self._stores) or bool(self._kept())
        rows = None if not useful or given is None or not self._fit(given) else rows_of(given, self._chain.tokens)
        if rows is None or given is None:
            output = own(*args, **keywords)
        else:
            output = self._pass_of(rows, given, own, args, keywords)
            if self._training and self._ordinal == 1 and not self._checking and self._ahead.note(rows, given):
                self._latest = own, given
        if self._outputs is not None:
            self._outputs.append((output, None if rows is None else rows.mask))
        return output

    def _arguments(self, args: Any, keywords: Any) -> dict[str, Any] | None:
        """The arguments by name, without those that are `None`; `None` where they have no names."""
        bound = self._signature.bind(self._chain.trunk, *args, **keywords).arguments
        named: dict[str, Any] = {}
        for index, (name, value) in enumerate(bound.items()):
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                return None
            if kind is inspect.Parameter.VAR_KEYWORD:
                named |= {key: item for key, item in value.items() if item is not None}
            elif index and value is not None:
                named[name] = value
        return named

    def _fit(self, given: Mapping[str, Any]) -> bool:
        """Whether a pass with these arguments can be replayed at all."""
        if given.get("output_attentions") or given.get("use_cache"):
            return False
        if self._training and self._idle[self._ordinal] > self._patience:
            return False
        if any(module.training for module in (*self._inside, *self._blocks)):
            return False
        return not self._written_to() and not self._hooked()

    def _written_to(self) -> bool:
        """Whether a frozen weight is no longer what it was; all is forgotten then."""
        if self._now() == self._versions:
            return False
        self.forget()
        self._changes += 1
        if self._changes > CHANGES:
            self._give_up("something writes to the frozen weights")
        return bool(self.off)

    def _hooked(self) -> bool:
        """Whether hooks stand on frozen parts, which would not be called, or whose work a replay would not see."""
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self._inside)
        if hooks != self._hooks:
            self._hooks = hooks
            for module in self._inside:
                if any(map(_foreign, _hooks(module))):
                    self._give_up(f"a forward hook stands on a frozen {type(module).__name__}")
        return bool(self.off)

    def _pass_of(self, rows: Rows, given: dict[str, Any], own: Callable[..., Any], args: Any, keywords: Any) -> Any:
        blocks = self._span.blocks
        self._all_states = self._all_states or self._reads_all(given)
        needed = range(1, blocks + 1) if self._all_states else range(blocks, blocks + 1)
        found = {boundary: self._found(boundary, rows) for boundary in needed}
        missing = [row for row in range(len(rows.keys)) if any(states[row] is None for states in found.values())]
        lower: int | None = None
        if len(missing) == len(rows.keys):
            lower, states = self._below(rows) if not self._all_states else (None, [])
            if lower is not None:
                found, missing = {lower: states}, []
        boundary = blocks if lower is None else lower
        hits = len(rows.keys) - len(missing)
        if not self._checking:
            self._count(hits, len(missing))
        if hits and not self._checking and (boundary, self._training) not in self._trusted:
            self._would.add(boundary)
            self._mixed = self._mixed or self._is_mixed(rows)
            hits = 0
        if not hits:
            call = Call(record=self._kept())
            return self._done(call, rows, own, args, keywords)
        if missing:
            self._fill(found, missing, rows, given, own)
        if any(state is None for states in found.values() for state in states):
            return own(*args, **keywords)
        call = Call(record=self._kept() - found.keys() if lower is not None else frozenset(), start=boundary)
        device = next(value.device for value in given.values() if isinstance(value, torch.Tensor))
        for number, states in found.items():
            whole = [state for state in states if state is not None]
            call.given[number] = rows.padded(whole, torch.float32 if self._narrows else whole[0].dtype, device)
        return self._done(call, rows, own, args, keywords)

    def _count(self, hits: int, misses: int) -> None:
        self.hits += hits
        self.misses += misses
        if self._training:
            self._idle[self._ordinal] = 0 if hits else self._idle[self._ordinal] + 1

    def _reads_all(self, given: Mapping[str, Any]) -> bool:
        """Whether something reads what lies between embeddings and boundary."""
        asked = given.get("output_hidden_states")
        if asked is None:
            asked = getattr(getattr(self._chain.trunk, "config", None), "output_hidden_states", False)
        return bool(asked) or any(map(_foreign, chain.from_iterable(map(_hooks, self._blocks))))

    def _found(self, boundary: int, rows: Rows) -> list[torch.Tensor | None]:
        store = self._stores.get(boundary)
        if store is None:
            store = self._stores[boundary] = self._open_store(boundary)
        return store.get(rows.keys)

    def _below(self, rows: Rows) -> tuple[int | None, list[Any]]:
        """The highest boundary below the prefix's end at which the states of all rows are kept, and they."""
        for boundary in sorted((b for b in self._stores if b < self._span.blocks), reverse=True):
            states = self._found(boundary, rows)
            if all(state is not None for state in states):
                return boundary, states
        return None, []

    def _kept(self) -> frozenset[int]:
        """The boundaries whose states are of use later, of rows that are computed now."""
        if self._checking:
            return frozenset()
        if self._shared:
            return frozenset({self._span.blocks, *self._span.kept}) | self._lower_states
        step, epoch = self._step, self._steps_per_epoch
        again = step - step % epoch + epoch if self._training else step  # when a row comes next, at the earliest
        kept = {boundary for boundary, until in self._span.kept.items() if until > again}
        return frozenset(kept) | (self._lower_states if self._span.blocks in kept else frozenset())

    @property
    def _lower_states(self) -> frozenset[int]:
        """The boundaries below the prefix's end that are read too."""
        return frozenset(range(1, self._span.blocks)) if self._all_states else frozenset()

    def _is_mixed(self, rows: Rows) -> bool:
        """Whether the rows were computed in several passes, or at another length."""
        length = 0 if rows.mask is None else rows.mask.shape[1]
        passes = {self._passes.get(key, (-1, -1)) for key in rows.keys}
        return len(passes) > 1 or any(number < 0 or at != length for number, at in passes)

    def _done(self, call: Call, rows: Rows, own: Callable[..., Any], args: Any, keywords: Any) -> Any:
        """Run the trunk, and keep what is to be kept."""
        self._call = call
        try:
            output = own(*args, **keywords)
        finally:
            self._call = None
        self._keep(call.seen, rows)
        return output

    @property
    def _narrows(self) -> bool:
        return self._narrow is not None and not torch.is_autocast_enabled(next(iter(self._frozen)).device.type)

    def _keep(self, seen: Mapping[int, torch.Tensor], rows: Rows) -> None:
        length = 0 if rows.mask is None else rows.mask.shape[1]
        for boundary, states in seen.items():
            if states.requires_grad:  # an attack on the inputs, say
                return
            if len(states) != len(rows.keys) or (rows.mask is not None and states.shape[1] != length):
                self._give_up("its states have another length than its inputs")
                return
            parts = rows.cut(states)
            absent = [row for row, state in enumerate(self._found(boundary, rows)) if state is None]
            kept = self._copies([parts[row] for row in absent])
            self._stores[boundary].put([rows.keys[row] for row in absent], kept)
            self._first_kept.setdefault(boundary, self._step // self._steps_per_epoch)
        if seen:
            self._pass += 1
            for key in rows.keys:
                self._passes.setdefault(key, (self._pass, length))
            self._most_bytes = max(self._most_bytes, sum(store.nbytes for store in self._stores.values()))

    def _copies(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        dtype = self._narrow if self._narrows else None
        with torch.inference_mode(False), torch.no_grad():  # no inference tensors: training reads them too
            return [part.clone() if dtype is None else part.to(dtype, copy=True) for part in parts]

    def _fill(
        self,
        found: dict[int, list[torch.Tensor | None]],
        missing: Sequence[int],
        rows: Rows,
        given: Mapping[str, Any],
        own: Callable[..., Any],
    ) -> None:
        """Compute the states of some rows alone, up to the boundary, and keep them."""
        others = [row for row in range(len(rows.keys)) if row not in set(missing)]
        length = self._chain.tokens if rows.mask is None else rows.mask.shape[1]
        enough = -(-TOKENS_OF_A_THREAD * torch.get_num_threads() // length)  # or kernels would be others
        taken = [*missing, *others[: max(enough - len(missing), 0)]]
        some = {
            name: value[torch.tensor(taken, device=value.device)] if name in rows.per_row else value
            for name, value in given.items()
        }
        seen = self._up_to_the_boundary(frozenset(found) | self._kept(), some, own)
        part = Rows(
            tuple(rows.keys[row] for row in taken),
            None if rows.spans is None else tuple(rows.spans[row] for row in taken),
            None if rows.mask is None else rows.mask[torch.tensor(taken, device=rows.mask.device)],
            rows.per_row,
            rows.in_tokens,
        )
        for boundary, states in found.items():
            for row, state in zip(missing, part.cut(seen[boundary]), strict=False):
                states[row] = state
        if not self._checking:
            self._keep({b: states for b, states in seen.items() if b in self._kept()}, part)

    def _up_to_the_boundary(
        self, record: frozenset[int], given: Mapping[str, Any], own: Callable[..., Any]
    ) -> dict[int, torch.Tensor]:
        """The states of some boundaries, of a pass on the side that goes no further than the prefix."""
        self._call = call = Call(record=record, stop=max(record))
        try:
            with torch.no_grad():
                own(**given)
        except _Stop:
            pass
        finally:
            self._call = None
        return call.seen

    def _catch_up(self) -> None:
        """Compute what rows of this epoch will be in batches of other lengths, where that is of use later."""
        if self._latest is None or not (kept := self._kept()):
            return
        own, given = self._latest
        self._latest = None
        with Before(self._model, self._remembered()).again():
            for batch in self._ahead.batches():
                whole = {**given, **batch}
                if (rows := rows_of(whole, self._chain.tokens)) is None:
                    continue
                absent = sum(state is None for state in self._found(max(kept), rows))
                if not absent:
                    continue
                self.misses += absent
                self._keep(self._up_to_the_boundary(kept, whole, own), rows)

    def _block(self, number: int, own: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """The call of a block, which ends at the boundary `number`."""
        call = self._call
        if call is None:
            return own(*args, **keywords)
        if (state := call.given.get(number)) is not None:
            output = self._chain.shaped(state)
        elif number < call.start:
            output = self._chain.shaped(args[0] if args else next(iter(keywords.values())))
        else:
            output = own(*args, **keywords)
        if number in call.record:
            call.seen[number] = output[0] if isinstance(output, tuple) else output
        if call.stop == number:
            raise _Stop
        return output


_AT_WORK: dict[nn.Module, Callable[..., Any]] = {}


def _forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
    """Stand in for a module's forward pass; in a copy of the module, be it."""
    work = _AT_WORK.get(self)
    return type(self).forward(self, *args, **keywords) if work is None else work(*args, **keywords)


# A bound method is pickled by its name; under this name a copy gets the class's own method.
_forward.__name__ = "forward"


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    return (*module._forward_hooks.values(), *module._forward_pre_hooks.values())


def _foreign(hook: Any) -> bool:
    """Whether a hook is another than transformers' own, which note states that are asked for."""
    return not str(getattr(hook, "__module__", "")).startswith("transformers.utils.")
