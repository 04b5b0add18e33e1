"""Layers that the user gives: `layers: {embeddings: [embed], block.0: [encoder.0], head: [classifier]}`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import yaml
from torch import nn

from finetricks.errors import LayersError, Problem, suggest

EMBEDDINGS, HEAD = "embeddings", "head"
_BLOCK = re.compile(r"block\.(0|[1-9]\d*)")


def block_name(index: int) -> str:
    return f"block.{index}"


def is_block(layer: str) -> bool:
    return layer.startswith("block.")


def assign(model: nn.Module, spec: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The layer of each module and parameter that a prefix in `spec` covers; the longest prefix wins.

    A prefix covers the name that it equals, and the names that continue it after a dot. The aliases of tied weights
    are names too, and all of them get the lowest of their layers.

    Raises:
        LayersError: with every problem: unknown or disordered layers, prefixes that match nothing or stand twice,
            layers without parameters, parameters that no prefix covers.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names = [*modules, *(name for name, _ in named)]
    layer_of = _prefixes(spec)
    longest_first = sorted(layer_of, key=len, reverse=True)
    assigned: dict[str, str] = {}
    for name in names:
        if prefixes := [prefix for prefix in longest_first if _covers(prefix, name)]:
            assigned[name] = layer_of[prefixes[0]]
    lowest: dict[nn.Parameter, str] = {}
    for layer in spec:
        for name, parameter in named:
            if assigned.get(name) == layer:
                assigned[name] = lowest.setdefault(parameter, layer)

    problems = [*_order_problems(list(spec)), *_prefix_problems(spec, names)]
    flawed = {problem.place for problem in problems}
    problems += [
        Problem(
            _place(layer), "holds no parameters: they have longer prefixes in other layers, or are tied to lower ones"
        )
        for layer in spec
        if layer not in lowest.values() and _place(layer) not in flawed
    ]
    uncovered = [name for name, parameter in named if parameter not in lowest]
    problems += [Problem("layers", f"no layer holds {part}") for part in _summary(model, uncovered)]
    if problems:
        raise LayersError(problems)
    return assigned


def example(model: nn.Module, blocks: Sequence[str] = ()) -> str:
    """How the layers of `model` could be given, in its own names, for an error message: a start, to be corrected.

    Args:
        blocks: names of the modules that look like blocks, from input to output, where that much is known.
    """
    parts = list(_parts(model, blocks))
    tables = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    before = [part for part in parts if any(_covers(part, name) for name in tables) and part not in blocks]
    after = [part for part in parts if part not in before and part not in blocks]
    middle = list(dict.fromkeys(blocks))
    if not blocks:
        middle, after = after[:-1], after[-1:]
    layers = {EMBEDDINGS: before, **{block_name(i): [part] for i, part in enumerate(middle)}, HEAD: after}
    given = {layer: names for layer, names in layers.items() if names}
    return "layers: " + yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _parts(model: nn.Module, blocks: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Names that cover `model`: its children and own parameters; what holds `blocks` is taken apart down to them."""
    names = [name for name, _ in model.named_parameters(recurse=False)]
    children = {name: child for name, child in model.named_children() if next(child.parameters(), None) is not None}
    for name in [*names, *children]:
        full = prefix + name
        holds_blocks = any(block.startswith(f"{full}.") for block in blocks)
        if name in children and (holds_blocks or len(names) + len(children) == 1):
            yield from _parts(children[name], blocks, f"{full}.")
        else:
            yield full


def _covers(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _place(layer: str) -> str:
    return f"layers.{layer}"


def _prefixes(spec: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The layer of each prefix."""
    return {prefix: layer for layer, prefixes in spec.items() for prefix in _listed(prefixes)}


def _listed(prefixes: Sequence[str]) -> Sequence[str]:
    return [prefixes] if isinstance(prefixes, str) else prefixes


def _prefix_problems(spec: Mapping[str, Sequence[str]], names: Sequence[str]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for layer, prefixes in spec.items():
        if isinstance(prefixes, str):
            yield Problem(_place(layer), f"expected a list of module names, got {prefixes!r}; write [{prefixes}]")
        for prefix in _listed(prefixes):
            if prefix in seen:
                yield Problem(_place(layer), f"{prefix!r} stands in {seen[prefix]} already")
            elif not any(_covers(prefix, name) for name in names):
                yield Problem(_place(layer), f"no module or parameter is named {prefix!r}{suggest(prefix, names)}")
            seen.setdefault(prefix, layer)


def _order_problems(layers: Sequence[str]) -> Iterator[Problem]:
    known = [layer for layer in layers if layer in (EMBEDDINGS, HEAD) or _BLOCK.fullmatch(layer)]
    for layer in layers:
        if layer not in known:
            hint = suggest(layer, [EMBEDDINGS, HEAD, block_name(0)])
            yield Problem(_place(layer), f"no such layer{hint}; the names are embeddings, block.0, block.1, ..., head")
    expected = [
        *([EMBEDDINGS] if EMBEDDINGS in known else []),
        *map(block_name, range(sum(map(is_block, known)))),
        *([HEAD] if HEAD in known else []),
    ]
    if not layers:
        yield Problem("layers", "no layer is given")
    elif known != expected:
        yield Problem(
            "layers", f"expected the order from input to output {', '.join(expected)}, got {', '.join(known)}"
        )


def _summary(model: nn.Module, uncovered: Sequence[str]) -> list[str]:
    """The parameters in few words: a module stands for its parameters where all of them are among these."""
    left = dict.fromkeys(uncovered)
    parts = []
    for module_name, module in model.named_modules(remove_duplicate=False):
        names = [f"{module_name}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)]
        if module_name and names and all(name in left for name in names):
            parts.append(f"the {len(names)} parameters of {module_name}" if len(names) > 1 else names[0])
            for name in names:
                del left[name]
    return [*parts, *left]
