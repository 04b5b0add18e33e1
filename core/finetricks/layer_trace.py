"""How deep each weight acts, read off the autograd graph of one forward pass.

Parameters are often registered in another order than the one in which they act (the final norm of OPT comes before its
blocks, the embedding norm of BART after them), and some are read without a call of their module. The graph knows: what
lies upstream of the first block is embeddings, and what only the model's output reaches is the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.graph import Node, get_gradient_edge

from finetricks.errors import InputError, LayersError, Problem
from finetricks.layer_blocks import EMBEDDINGS, Block, parameterless_leaves
from finetricks.layer_pass import ROWS, default_forward, first_rows, tensors, undisturbed

Forward = Callable[[nn.Module, Any], Any]


class OutOfOrder(LayersError):
    """The blocks do not run one after the other in the order in which they are registered.

    `called` names them in the order in which they ran.
    """

    def __init__(self, problems: str | Problem | Iterable[Problem], called: Iterable[str] = ()) -> None:
        super().__init__(problems)
        self.called = tuple(called)


@dataclass(frozen=True)
class Trace:
    """What a traced forward pass shows. Depths as in `finetricks.layer_blocks`.

    Attributes:
        parameters: the lowest depth at which each parameter acts; those that the output does not depend on are missing.
        leaves: depths at which each module without parameters or children was called.
        gap: why the trace says nothing (a block that was not called, a graph that is cut); empty when it is whole.
    """

    parameters: dict[nn.Parameter, int] = field(default_factory=dict)
    leaves: dict[nn.Module, frozenset[int]] = field(default_factory=dict)
    gap: str = ""


def trace(model: nn.Module, batch: Any, blocks: Sequence[Block], forward: Forward | None = None) -> Trace:
    """Run the model once on at most two rows of `batch`, and read off where everything acts.

    The pass is in evaluation mode. Weights, buffers, random states, `requires_grad`, `.grad` and training modes are
    afterwards as they were.

    Raises:
        OutOfOrder: the blocks run in another order than that of registration, or side by side.
        LayersError: the forward pass failed.
    """
    rows = first_rows(model, batch)
    recorder = _Recorder(blocks)
    with undisturbed(model), recorder.watching(model):
        try:
            output = (forward or default_forward)(model, rows)
        except InputError:
            raise  # the model says itself what is wrong with its input
        except Exception as error:
            raise LayersError(
                f"the forward pass on {ROWS} rows of the batch that finds the model's layers failed with "
                f"{type(error).__name__}: {error}"
            ) from error
        recorder.output = _nodes(output)
        return _read(recorder, blocks)


# ----------------------------------------------------------------------------------------------------
# Recording
# ----------------------------------------------------------------------------------------------------


@dataclass
class _Event:
    """A call of a block, the return from one, or the call of a leaf outside the blocks.

    `nodes` are the graph nodes that computed its inputs (at a return: its outputs), taken down at once: an in-place
    operation changes a tensor's node later.
    """

    kind: Literal["enter", "leave", "leaf"]
    module: nn.Module
    nodes: list[Node]


class _Recorder:
    """Takes down what the hooks see during the forward pass; `_read` makes sense of it afterwards."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.depth_of = {block.module: depth for depth, block in enumerate(blocks)}  # the last, of those that share it
        self.events: list[_Event] = []
        self.leaves: dict[nn.Module, set[int]] = {}
        self.output: list[Node] = []
        self._running: list[nn.Module] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Hook the blocks, and the leaves without parameters (dropout, activations)."""
        handles = []
        for module in self.depth_of:
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        for module in parameterless_leaves(model).values():
            handles.append(module.register_forward_pre_hook(self._leaf, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running.append(module)
        self.events.append(_Event("enter", module, _nodes((args, kwargs))))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._running.pop()
        self.events.append(_Event("leave", module, _nodes(output)))

    def _leaf(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running:
            self.leaves.setdefault(module, set()).add(self.depth_of[self._running[-1]])
        else:
            self.events.append(_Event("leaf", module, _nodes((args, kwargs))))


def _nodes(value: Any) -> list[Node]:
    """The graph nodes that computed the tensors in `value`; of a weight itself, the node that collects its gradient."""
    nodes = []
    for tensor in tensors(value):
        if tensor.grad_fn is not None:
            nodes.append(tensor.grad_fn)
        elif isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            with torch.enable_grad():  # it is looked up by computing with the weight
                nodes.append(get_gradient_edge(tensor).node)
    return nodes


# ----------------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------------


def _read(recorder: _Recorder, blocks: Sequence[Block]) -> Trace:
    """Walk the graph upstream from each recorded point, in the order of the calls.

    A parameter belongs to the point from which it is met first. From a block's input, that is the deepest block further
    upstream, or the embeddings; from a block's output, the block; from the model's output, the head.
    """
    names = {block.module: block.name for block in blocks}
    listed = list(recorder.depth_of)
    called = list(dict.fromkeys(event.module for event in recorder.events if event.kind == "enter"))
    if uncalled := [names[module] for module in listed if module not in called]:
        return Trace(gap=f"{uncalled[0]} was not called")
    ran = [names[module] for module in called]
    if called != listed:
        early, late = next(pair for pair in zip(called, listed, strict=True) if pair[0] is not pair[1])
        raise OutOfOrder(f"{names[early]} runs before {names[late]}, which is registered earlier", ran)

    walk = _Walk()
    entered = {listed[0]}
    for event in recorder.events:
        if event.kind == "leave":
            for node in event.nodes:
                walk.claim(node, recorder.depth_of[event.module])
        elif event.kind == "enter":
            upstream = max(map(walk.claim, event.nodes), default=EMBEDDINGS)
            if event.module not in entered and upstream == EMBEDDINGS:
                if not event.nodes:
                    return Trace(gap=f"no gradient flows back from {names[event.module]}")
                raise OutOfOrder(f"{names[event.module]} does not build on any of the blocks registered before it", ran)
            entered.add(event.module)
    for node in recorder.output:
        walk.claim(node, len(blocks))
    return Trace(walk.parameters, _leaf_depths(recorder, walk, head=len(blocks)))


def _leaf_depths(recorder: _Recorder, walk: _Walk, head: int) -> dict[nn.Module, frozenset[int]]:
    """The depths at which each leaf was called.

    Before the first block that is the embeddings, after the last the head. Between two blocks the leaf belongs with
    what computed its input: T5 calls the dropout of the decoder on the decoder's embeddings, after the encoder. What
    follows the last block is the head, also where the blocks then run once more (on another part of a long text).
    """
    first_call = next(i for i, event in enumerate(recorder.events) if event.kind == "enter")
    last_return = max(i for i, event in enumerate(recorder.events) if event.kind == "leave")
    depths = {leaf: set(inside) for leaf, inside in recorder.leaves.items()}
    for i, event in enumerate(recorder.events):
        if event.kind == "leaf":
            between = max(map(walk.deepest, event.nodes), default=EMBEDDINGS)
            between = head if between == head - 1 else between
            depth = EMBEDDINGS if i < first_call else head if i > last_return else between
            depths.setdefault(event.module, set()).add(depth)
    return {leaf: frozenset(each) for leaf, each in depths.items()}


class _Walk:
    """A walk upstream through the autograd graph that remembers what it has met, and how deep it lies."""

    def __init__(self) -> None:
        self.parameters: dict[nn.Parameter, int] = {}
        self._depths: dict[Node, int] = {}  # holds the nodes, too: their identity lasts only as long as they are held

    def claim(self, start: Node, depth: int | None = None) -> int:
        """Give what is upstream of `start`, and not met before, the depth given, or else the deepest met upstream."""
        new, deepest = self._upstream(start)
        depth = deepest if depth is None else depth
        for node in new:
            parameter = getattr(node, "variable", None)  # only the leaves of the graph have one
            # A weight is not downstream of the block that used it first: others may use it too.
            self._depths[node] = depth if parameter is None else EMBEDDINGS
            if parameter is not None:
                self.parameters.setdefault(parameter, depth)
        return depth

    def deepest(self, start: Node) -> int:
        """The deepest block upstream of `start` among those met, or the embeddings."""
        return self._upstream(start)[1]

    def _upstream(self, start: Node) -> tuple[set[Node], int]:
        """The nodes upstream of `start` that were not met before, and the greatest depth where they end."""
        new: set[Node] = set()
        deepest = EMBEDDINGS
        stack = [start]
        while stack:
            node = stack.pop()
            if node in self._depths:
                deepest = max(deepest, self._depths[node])
            elif node not in new:
                new.add(node)
                stack.extend(following for following, _ in node.next_functions if following is not None)
        return new, deepest
