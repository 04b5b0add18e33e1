"""The blocks of a model, found in its module tree: what repeats between the embeddings and the head.

A *depth* says where something stands between input and output: `EMBEDDINGS` is before the first block, `i` is block
`i`, and the number of blocks is the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

EMBEDDINGS = -1
_EMBEDDING_TABLES = (nn.Embedding, nn.EmbeddingBag)
_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_RECURRENT_WEIGHT = re.compile(r"_l(\d+)(_reverse)?$")  # as nn.RNNBase names them: weight_ih_l0, bias_hh_l1_reverse


@dataclass(frozen=True, eq=False)
class Block:
    """One block: the module that is called to run it, and its parameters.

    The layers of an `nn.LSTM` (or GRU, RNN) are blocks that share their module.
    """

    name: str
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @property
    def is_single_matrix(self) -> bool:
        """Whether it is one matrix (and biases): a linear layer or a convolution."""
        return sum(map(_is_matrix, self.parameters)) < 2


def candidate_blocks(model: nn.Module, *, traced: bool) -> list[tuple[Block, ...]]:
    """The ways to cut a model into blocks, from input to output, the likeliest first. Empty when nothing repeats.

    There are two where blocks of the outermost container hold runs of their own. These may be stages with blocks
    inside (Swin, ResNet), or blocks with parallel experts inside: only a trace can tell.

    Args:
        traced: whether a trace will check the order. Without one, a list of single matrices is not taken for a chain:
            nothing says that its items run one after the other.
    """
    for backbone in (base_model(model), model):
        if backbone is not None and (found := _candidates_inside(backbone, model, traced)):
            return found
    return []


def base_model(model: nn.Module) -> nn.Module | None:
    """The backbone inside a transformers model with a task head; `None` where there is no such thing."""
    for module in model.modules():
        prefix = getattr(module, "base_model_prefix", None)
        base = getattr(module, prefix, None) if isinstance(prefix, str) and prefix else None
        if isinstance(base, nn.Module) and base is not module:
            return base
    return None


def parameterless_leaves(model: nn.Module) -> dict[str, nn.Module]:
    """The modules without parameters and without children, by name: dropout, activations."""
    return {
        name: module
        for name, module in model.named_modules()
        if next(module.children(), None) is None and next(module.parameters(), None) is None
    }


def registered_depths(model: nn.Module, blocks: Sequence[Sequence[nn.Parameter]]) -> dict[str, int]:
    """The depth of every module, as far as the order of registration tells; for what a trace does not reach.

    Embedding tables are embeddings, and what stands outside the backbone is the head. The rest is embeddings before
    the first block, head after the last, and the block before in between.
    """
    depth_of = {parameter: i for i, block in enumerate(blocks) for parameter in block}
    modules = list(model.named_modules())
    block_depths = [
        [depth_of[parameter] for parameter in module.parameters(recurse=False) if parameter in depth_of]
        for _, module in modules
    ]
    last = max((position for position, depths in enumerate(block_depths) if depths), default=-1)
    base = base_model(model)
    backbone = set(model.modules() if base is None else base.modules())
    head = len(blocks)

    result: dict[str, int] = {}
    depth = EMBEDDINGS
    for position, (name, module) in enumerate(modules):
        depth = max(block_depths[position], default=depth if position < last else head)
        if isinstance(module, _EMBEDDING_TABLES):
            result[name] = EMBEDDINGS
        else:
            result[name] = depth if module in backbone else head
    return result


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Two axes longer than one: the scale of a weight norm, a matrix in shape only, does not count."""
    return sum(size > 1 for size in parameter.shape) > 1


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _items(container: nn.Module) -> list[nn.Module]:
    """The items that hold parameters, each once."""
    return [item for item in container.children() if next(item.parameters(), None) is not None]


def _is_run(module: nn.Module) -> bool:
    """Whether it is a container of blocks: all its items hold at least two weight matrices."""
    items = _items(module)
    return (
        isinstance(module, _CONTAINERS)
        and bool(items)
        and all(sum(map(_is_matrix, item.parameters())) > 1 for item in items)
    )


def _candidates_inside(backbone: nn.Module, model: nn.Module, traced: bool) -> list[tuple[Block, ...]]:
    """As `candidate_blocks`, of what stands in `backbone`: what stands in a head may repeat as well."""
    runs = list(_outermost_runs(backbone))
    if runs:
        items = [item for run in runs for item in _items(run)]
        opened = [block for run in runs for block in _open_stages(run)]
        cuts = [opened] if opened == items else [opened, items]
        return [_as_blocks(model, cut) for cut in cuts]
    blocks = _recurrent_blocks(backbone, model) or _as_blocks(model, _chain(backbone, traced))
    return [blocks] if blocks else []


def _outermost_runs(module: nn.Module) -> Iterator[nn.Module]:
    if any(isinstance(child, ParametrizationList) for child in module.children()):
        return  # the parts of a reparametrised weight (`torch.nn.utils.parametrize`) are one matrix
    if _is_run(module):
        yield module
    else:
        for child in module.children():
            yield from _outermost_runs(child)


def _open_stages(run: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a run, those inside its stages included."""
    items = _items(run)
    alike = len({tuple(parameter.shape for parameter in item.parameters()) for item in items}) == 1
    for item in items:
        inner = _stage_run(item, alike)
        if inner is None:
            yield item
        else:
            yield from _open_stages(inner)


def _stage_run(item: nn.Module, alike: bool) -> nn.Module | None:
    """The run inside a stage: several items of one class that make up the whole, or half of one of unlike stages.

    Stages differ in width or length. Blocks that are alike stay whole though much of them repeats (experts, the short
    FFNs of MobileBERT).
    """
    for run in _outermost_runs(item):
        inner = _items(run)
        repeats = len(inner) > 1 and len({type(module) for module in inner}) == 1
        share = _size(run) / _size(item)
        if repeats and (share == 1 or (share >= 0.5 and not alike)):
            return run
    return None


def _recurrent_blocks(backbone: nn.Module, model: nn.Module) -> tuple[Block, ...]:
    """The layers of each recurrent network in turn."""
    inside = set(backbone.modules())
    blocks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module in inside:
            layers: dict[str, list[nn.Parameter]] = {}
            for key, parameter in module.named_parameters(recurse=False):
                if layer := _RECURRENT_WEIGHT.search(key):
                    layers.setdefault(layer[1], []).append(parameter)
            blocks += [Block(name, module, tuple(parameters)) for parameters in layers.values()]
    return tuple(blocks)


def _chain(backbone: nn.Module, traced: bool) -> list[nn.Module]:
    """The items of the container that holds most of them, such as the linear layers of an MLP.

    Embedding tables are no such items, and norms belong with the item before them.
    """
    kinds = _CONTAINERS if traced else (nn.Sequential,)
    chains = [
        [
            item
            for item in _items(module)
            if any(map(_is_matrix, item.parameters())) and not isinstance(item, _EMBEDDING_TABLES)
        ]
        for module in backbone.modules()
        if isinstance(module, kinds)
    ]
    longest = max(chains, key=len, default=[])
    return longest if len(longest) > 1 else []


def _as_blocks(model: nn.Module, modules: Sequence[nn.Module]) -> tuple[Block, ...]:
    """A block for each module; shared modules and shared weights count once, in the lowest."""
    names = {module: name for name, module in model.named_modules()}
    seen: set[nn.Parameter] = set()
    blocks = []
    for module in modules:
        own = tuple(parameter for parameter in module.parameters() if parameter not in seen)
        seen.update(own)
        if own:
            blocks.append(Block(names[module], module, own))
    return tuple(blocks)
