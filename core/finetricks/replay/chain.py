"""The part of a model that can be left out: blocks, one after the other, that take states and give states.

A model's replay needs three places in its module tree: the blocks, and the `trunk`, the smallest module that holds the
embeddings and all blocks, for that is where a batch comes in. One pass over two rows shows that they work as needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetricks.layer_pass import default_forward, first_rows, undisturbed
from finetricks.layer_spec import EMBEDDINGS
from finetricks.layer_trace import Forward
from finetricks.layers import Layers


class NoReplay(Exception):
    """Why nothing can be replayed, as the end of a sentence."""


@dataclass(frozen=True)
class Chain:
    """Where the work of frozen layers can be left out.

    Attributes:
        trunk: what takes the batch.
        blocks: the modules that act for `layers.blocks`, in their order.
        width: of the states.
        element_size: bytes of a number in them.
        tokens: of each row of the batch that was tried.
        rest: what stands behind the state in a tuple that a block gives; `None` where a block gives a tensor.
    """

    trunk: nn.Module
    blocks: tuple[nn.Module, ...]
    width: int = 0
    element_size: int = 4
    tokens: int = 0
    rest: tuple[Any, ...] | None = None

    def shaped(self, state: torch.Tensor) -> Any:
        """A state as a block gives it."""
        return state if self.rest is None else (state, *self.rest)


def find_chain(model: nn.Module, layers: Layers, batch: Any, forward: Forward | None = None) -> Chain:
    """Find the chain of `model`, and try it on two rows of `batch`. The model is left as it was.

    Raises:
        NoReplay: there is none, or its blocks do more than to give states on.
    """
    if batch is None:
        raise NoReplay("the loader's first batch cannot be looked at: an iterator's would be lost")
    blocks = tuple(_block(model, layers, name) for name in layers.blocks)
    if not blocks:
        raise NoReplay("the model has no blocks")
    if found := next((module for block in blocks for module in block.modules() if _depends_on_batch(module)), None):
        raise NoReplay(f"{type(found).__name__} gives a row other last bits beside other rows")
    trunk = _trunk(model, layers, blocks)
    return _tried(model, Chain(trunk, blocks), batch, forward or default_forward)


def _depends_on_batch(module: nn.Module) -> bool:
    """Whether a module multiplies few rows at a time: those of one time, or the tokens of one expert."""
    return isinstance(module, nn.RNNBase | nn.RNNCellBase) or "expert" in type(module).__name__.lower()


def _block(model: nn.Module, layers: Layers, layer: str) -> nn.Module:
    """The module that is the block `layer`: the outermost item of a list that acts for it alone."""
    lists = tuple(name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential))
    found = [
        name
        for name, works_for in layers.modules.items()
        if works_for == {layer} and name.rpartition(".")[0] in lists and name
    ]
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outermost) != 1:
        raise NoReplay(f"{layer} is not one item of a list of blocks")
    return model.get_submodule(outermost[0])


def _trunk(model: nn.Module, layers: Layers, blocks: tuple[nn.Module, ...]) -> nn.Module:
    """The smallest module that holds the embeddings and all blocks, and is called itself."""
    names = {module: name for name, module in model.named_modules()}
    inside = [names[block] for block in blocks]
    inside += [name.rpartition(".")[0] for name in layers.parameters.get(EMBEDDINGS, ())]
    paths = [name.split(".") if name else [] for name in inside]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    while common and (
        isinstance(model.get_submodule(".".join(common)), nn.ModuleList | nn.ModuleDict) or ".".join(common) in inside
    ):
        common.pop()
    return model.get_submodule(".".join(common))


def _tried(model: nn.Module, chain: Chain, batch: Any, forward: Forward) -> Chain:
    calls: list[tuple[nn.Module, Any, Any]] = []
    entered: list[nn.Module] = []

    def note(module: nn.Module, args: Any, keywords: Any, output: Any) -> None:
        calls.append((module, next(_positions(args, keywords), None), output))

    with undisturbed(model), torch.no_grad(), ExitStack() as handles:
        for block in chain.blocks:
            handles.callback(block.register_forward_hook(note, with_kwargs=True).remove)
        handles.callback(chain.trunk.register_forward_pre_hook(lambda module, _: entered.append(module)).remove)
        forward(model, first_rows(model, batch))
    if not entered or [module for module, _, _ in calls] != list(chain.blocks) * len(entered):
        raise NoReplay("its blocks are not called once each, one after the other")
    return _understood(chain, calls)


def _understood(chain: Chain, calls: list[tuple[nn.Module, Any, Any]]) -> Chain:
    shapes = set()
    rests = []
    for _, given, output in calls:
        state, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(given, torch.Tensor) or not isinstance(state, torch.Tensor) or given.shape != state.shape:
            raise NoReplay("its blocks do not take and give states of one shape")
        if state.ndim != 3:
            raise NoReplay(f"its states are no [rows, tokens, width] but have {state.ndim} dimensions")
        if any(item is not None for item in rest):
            raise NoReplay("its blocks give more than states")
        shapes.add(tuple(state.shape))
        rests.append(tuple(rest) if isinstance(output, tuple) else None)
    if len({shape[2] for shape in shapes}) > 1 or len(set(rests)) > 1:
        raise NoReplay("its blocks give states of several widths or kinds")
    shape = max(shapes)
    size = calls[0][1].element_size()
    return Chain(chain.trunk, chain.blocks, shape[2], size, max(shape[1] for shape in shapes), rests[0])


def _positions(args: Any, keywords: Any) -> Iterator[Any]:
    yield from args
    yield from keywords.values()
