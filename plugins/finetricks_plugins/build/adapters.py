"""Adapters in a model: the modules that they add, and the weights that are frozen on their account.

Adapters are peft's, whether a trick of ours or the user has put them there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

_HELD = "_finetricks_held"


def is_adapted(module: nn.Module) -> bool:
    """Whether `module` stands around a layer of the model's own, with adapters beside it."""
    return hasattr(module, "adapter_layer_names") and isinstance(module._modules.get("base_layer"), nn.Module)


def adapters(model: nn.Module) -> list[nn.Module]:
    """The modules that adapters have added beside the model's own: their matrices, their dropout."""
    return [
        part
        for module in model.modules()
        if is_adapted(module)
        for name, part in module.named_children()
        if name != "base_layer"
    ]


def hold(model: nn.Module, parameters: Collection[nn.Parameter]) -> None:
    """Freeze parameters of `model`, and note on their modules which: the model may be taken apart, copied and saved."""
    wanted = {id(parameter) for parameter in parameters}
    for module in model.modules():
        own = [(name, p) for name, p in module.named_parameters(recurse=False) if id(p) in wanted and p.requires_grad]
        for _, parameter in own:
            parameter.requires_grad_(False)
        if own:
            module.__dict__[_HELD] = tuple(name for name, _ in own)


def held(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that `hold` has frozen."""
    return [module._parameters[name] for module in model.modules() for name in module.__dict__.get(_HELD, ())]  # type: ignore[misc]


def release(model: nn.Module) -> None:
    """Undo `hold`."""
    for parameter in held(model):
        parameter.requires_grad_(True)
    for module in model.modules():
        module.__dict__.pop(_HELD, None)


@contextmanager
def thawed(model: nn.Module) -> Iterator[None]:
    """Within the block what `hold` has frozen can be trained: by what goes on with the pretraining, before adapters."""
    frozen = held(model)
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
