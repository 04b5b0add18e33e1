"""The layers of a model, from input to output: embeddings, blocks, head. Every parameter belongs to exactly one.

They are known from the module tree (`layer_blocks`: what repeats) and one traced forward pass (`layer_trace`: what acts
before and after it), not from a table of model names; or the user gives them (`layer_spec`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from finetricks import layer_spec
from finetricks.errors import LayersError, Problem, suggest
from finetricks.layer_blocks import EMBEDDINGS, Block, base_model, candidate_blocks, registered_depths
from finetricks.layer_trace import Forward, OutOfOrder, Trace, parameterless_leaves, trace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layers:
    """The layers of one model, and what belongs to each.

    Attributes:
        names: from input to output: `embeddings`, `block.0` ... `block.N-1`, `head`; only those that hold parameters.
        parameters: the parameters' names in each layer, as `model.named_parameters()` gives them. Tied weights count
            once, in their lowest layer.
        modules: the layers that each module computes for, by the names of `model.named_modules()` (`""` is the model).
            A module stays in evaluation mode only while all of them are frozen.
    """

    names: tuple[str, ...]
    parameters: Mapping[str, tuple[str, ...]]
    modules: Mapping[str, frozenset[str]]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The layers between embeddings and head."""
        return tuple(name for name in self.names if layer_spec.is_block(name))

    @cached_property
    def _layer_of(self) -> dict[str, str]:
        return {parameter: layer for layer, names in self.parameters.items() for parameter in names}

    def layer_of(self, parameter: str) -> str:
        """The layer of a parameter. Raises `KeyError` where the model has no parameter of that name."""
        if parameter not in self._layer_of:
            raise KeyError(f"the model has no parameter {parameter!r}{suggest(parameter, self._layer_of)}")
        return self._layer_of[parameter]

    def from_top(self, layer: str) -> int:
        """How many layers lie above `layer`: 0 for the topmost. Raises `KeyError` for an unknown layer."""
        if layer not in self.names:
            raise KeyError(f"the model has no layer {layer!r}{suggest(layer, self.names)}; it has {', '.join(self.names)}")
        return len(self.names) - 1 - self.names.index(layer)


def find_layers(
    model: nn.Module,
    batch: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    explicit: Mapping[str, Sequence[str]] | None = None,
    forward: Forward | None = None,
) -> Layers:
    """Find the layers of `model`. Do it before it is wrapped (DDP, compile); the model is left as it was.

    Args:
        batch: what the model is trained on. Two rows of it are run through the model once, without dropout, to see in
            which order things act. Without it, the order of registration has to do: right for most models, wrong
            where, say, a final norm is registered before the blocks.
        explicit: the layers, given by the user, from input to output: names to prefixes of module or parameter names,
            the longest prefix wins. Nothing is traced then.
        forward: how `model` is called on a batch; by default a mapping gives keyword arguments, a tuple or a list
            positional ones, a tensor the only one.

    Raises:
        LayersError: the order cannot be told, the forward pass failed, or `explicit` does not fit the model.
    """
    if explicit is not None:
        return _given(model, explicit)
    candidates = candidate_blocks(model, traced=batch is not None)
    try:
        if not candidates:
            raise LayersError(f"nothing in {type(model).__name__} looks like a chain of blocks")
        blocks, traced = candidates[0], Trace()
        if batch is not None:
            blocks, traced = _first_in_order(model, batch, candidates, forward)
    except LayersError as error:
        names = [block.name for block in candidates[0]] if candidates else []
        advice = f"give the layers from input to output, for example\n  {layer_spec.example(model, names)}"
        raise LayersError([*error.problems, Problem("", advice)]) from error
    return _found(model, blocks, traced)


def _first_in_order(
    model: nn.Module, batch: Any, candidates: Sequence[tuple[Block, ...]], forward: Forward | None
) -> tuple[tuple[Block, ...], Trace]:
    """The first candidate whose trace is whole; else the first one with a gap; else the first one's error."""
    gaps: list[tuple[tuple[Block, ...], Trace]] = []
    errors: list[OutOfOrder] = []
    for blocks in candidates:
        try:
            traced = trace(model, batch, blocks, forward)
        except OutOfOrder as error:
            errors.append(error)
            continue
        if not traced.gap:
            return blocks, traced
        gaps.append((blocks, traced))
    if not gaps:
        raise errors[0]
    log.warning("layers by order of registration, because the trace has a gap: %s", gaps[0][1].gap)
    return gaps[0]


def _found(model: nn.Module, blocks: Sequence[Block], traced: Trace) -> Layers:
    """Name the depths of parameters and leaves, and gather."""
    block_parameters = [block.parameters for block in blocks]
    depth_of = _parameter_depths(model, block_parameters, traced)
    used = sorted(set(depth_of.values()))
    names = _layer_names(used, blocks)
    order = list(names.values())
    layer_of = {parameter: names[depth] for parameter, depth in depth_of.items()}

    def name(depth: int) -> str:
        """The layer at a depth; where it holds no parameters (dropout, but no head), the layer below."""
        return names[max((other for other in used if other <= depth), default=used[0])]

    called = {leaf: frozenset(map(name, depths)) for leaf, depths in traced.leaves.items()}
    ...
    return _gather(model, order, layer_of, called)
