"""The layers of a model, from input to output: embeddings, blocks, head. Every parameter belongs to exactly one.

They are known from the module tree (`layer_blocks`: what repeats) and one traced forward pass (`layer_trace`: what acts
before and after it), not from a table of model names; or the user gives them (`layer_spec`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from finetricks import layer_spec
from finetricks.errors import LayersError, Problem, suggest
from finetricks.layer_blocks import EMBEDDINGS, Block, candidate_blocks, parameterless_leaves, registered_depths
from finetricks.layer_trace import Forward, OutOfOrder, Trace, trace

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

    def __post_init__(self) -> None:
        # Tricks are given this one after another.
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        object.__setattr__(self, "modules", MappingProxyType(dict(self.modules)))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy can be neither pickled nor copied
        return type(self), (self.names, dict(self.parameters), dict(self.modules))

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
            raise KeyError(
                f"the model has no layer {layer!r}{suggest(layer, self.names)}; it has {', '.join(self.names)}"
            )
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
        blocks, traced = _first_in_order(model, batch, candidates, forward)
        if _ends_in_head(model, blocks, traced):
            blocks, traced = _first_in_order(model, batch, [blocks[:-1]], forward)
    except LayersError as error:
        names = [block.name for block in candidates[0]] if candidates else []
        if isinstance(error, OutOfOrder):
            names = list(error.called)
        advice = f"give the layers yourself, from input to output; to begin with\n  {layer_spec.example(model, names)}"
        raise LayersError([*error.problems, Problem("", advice)]) from error
    return _found(model, blocks, traced)


def _first_in_order(
    model: nn.Module, batch: Any, candidates: Sequence[tuple[Block, ...]], forward: Forward | None
) -> tuple[tuple[Block, ...], Trace]:
    """The first candidate whose trace is whole; else the first one with a gap; else the first one's error.

    Without a batch it is the first candidate, and the trace is empty.
    """
    if batch is None:
        return candidates[0], Trace()
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
    log.warning("%s: layers by order of registration, because %s", type(model).__name__, gaps[0][1].gap)
    return gaps[0]


def _ends_in_head(model: nn.Module, blocks: Sequence[Block], traced: Trace) -> bool:
    """Whether the last block is the output layer: a single matrix with nothing after it, as in an MLP."""
    block_parameters = [block.parameters for block in blocks]
    depths = _parameter_depths(model, block_parameters, registered_depths(model, block_parameters), traced)
    return len(blocks) > 1 and blocks[-1].is_single_matrix and len(blocks) not in depths.values()


def _found(model: nn.Module, blocks: Sequence[Block], traced: Trace) -> Layers:
    """The layers, from the blocks and what the trace shows (nothing, where it is empty)."""
    block_parameters = [block.parameters for block in blocks]
    registered = registered_depths(model, block_parameters)
    depths = _parameter_depths(model, block_parameters, registered, traced)
    names = _layer_names(set(depths.values()), head=len(blocks))
    layer_of = {parameter: names[depth] for parameter, depth in depths.items()}
    leaves = {leaf: frozenset(_at(names, depth) for depth in called) for leaf, called in traced.leaves.items()}
    return _gather(model, names, layer_of, leaves, registered)


def _given(model: nn.Module, explicit: Mapping[str, Sequence[str]]) -> Layers:
    """The layers that the user gives."""
    assigned = layer_spec.assign(model, explicit)
    blocks = [layer for layer in explicit if layer_spec.is_block(layer)]
    layer_of = {
        parameter: assigned[name]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in assigned
    }
    block_parameters = [[parameter for parameter, layer in layer_of.items() if layer == block] for block in blocks]
    names = {_depth(layer, head=len(blocks)): layer for layer in explicit}
    leaves = {
        leaf: frozenset({assigned[name]}) for name, leaf in parameterless_leaves(model).items() if name in assigned
    }
    return _gather(model, names, layer_of, leaves, registered_depths(model, block_parameters))


def _parameter_depths(
    model: nn.Module, blocks: Sequence[Sequence[nn.Parameter]], registered: Mapping[str, int], traced: Trace
) -> dict[nn.Parameter, int]:
    """The depth of every parameter: the lowest at which it acts.

    One inside a block has the block's depth, unless it acts lower as well (tied weights). For the others the trace
    counts, and for those that it did not reach the order of registration.
    """
    inside = {parameter: depth for depth, block in enumerate(blocks) for parameter in block}
    depths: dict[nn.Parameter, int] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):  # once for each place where tied weights stand
            depth = inside.get(parameter, registered[name])
            if parameter in traced.parameters:
                reached = traced.parameters[parameter]
                depth = min(depth, reached) if parameter in inside else reached
            depths[parameter] = min(depth, depths.get(parameter, depth))
    return depths


def _layer_names(depths: Collection[int], head: int) -> dict[int, str]:
    """Names for the depths that hold parameters, from input to output; the blocks are counted anew."""
    names = {EMBEDDINGS: layer_spec.EMBEDDINGS} if EMBEDDINGS in depths else {}
    blocks = [depth for depth in sorted(depths) if depth not in (EMBEDDINGS, head)]
    names |= {depth: layer_spec.block_name(i) for i, depth in enumerate(blocks)}
    return names | ({head: layer_spec.HEAD} if head in depths else {})


def _depth(layer: str, head: int) -> int:
    if layer_spec.is_block(layer):
        return int(layer.removeprefix("block."))
    return EMBEDDINGS if layer == layer_spec.EMBEDDINGS else head


def _at(names: Mapping[int, str], depth: int) -> str:
    """The layer at a depth; where it holds no parameters (dropout, but no head), the next lower that does."""
    return names[max((other for other in names if other <= depth), default=min(names))]


def _gather(
    model: nn.Module,
    names: Mapping[int, str],
    layer_of: Mapping[nn.Parameter, str],
    leaves: Mapping[nn.Module, frozenset[str]],
    registered: Mapping[str, int],
) -> Layers:
    """Put together the result; leaves without parameters that are not in `leaves` get a layer by where they stand.

    `registered`: see `registered_depths`.
    """
    own = {module: frozenset(layer_of[p] for p in module.parameters(recurse=False)) for module in model.modules()}
    for name, leaf in parameterless_leaves(model).items():
        around = _layers_around(model, name, layer_of)
        by_place = around if len(around) == 1 else frozenset({_at(names, registered[name])})
        own[leaf] = leaves.get(leaf, by_place)
    return Layers(
        names=tuple(names.values()),
        parameters={
            layer: tuple(name for name, parameter in model.named_parameters() if layer_of[parameter] == layer)
            for layer in names.values()
        },
        modules={
            name: frozenset().union(*(own[inner] for inner in module.modules()))
            for name, module in model.named_modules()
        },
    )


def _layers_around(model: nn.Module, name: str, layer_of: Mapping[nn.Parameter, str]) -> frozenset[str]:
    """The layers of the nearest ancestor that holds parameters."""
    while name:
        name = name.rpartition(".")[0]
        if layers := frozenset(layer_of[parameter] for parameter in model.get_submodule(name).parameters()):
            return layers
    return frozenset()
