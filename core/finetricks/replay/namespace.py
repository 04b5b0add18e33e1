"""What states depend on beside the row that they are of: a name under which runs can share them."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from finetricks.layer_spec import EMBEDDINGS
from finetricks.layers import Layers
from finetricks.libraries import MODELS, versions_of_libraries
from finetricks.replay.chain import Chain
from finetricks.structure import config_of, settings_of


def namespaces(model: nn.Module, layers: Layers, chain: Chain, boundaries: int, kept_as: str) -> list[str]:
    """The name of each boundary from 0 to `boundaries`: hex digits.

    Equal names mean equal states for equal rows, bit for bit: the same weights and buffers of all that lies below, of
    the same classes with the same settings, computed by the same libraries on the same kind of device by as many
    threads.

    Args:
        kept_as: the type of the numbers that are kept.
    """
    device = next(model.parameters()).device
    versions = versions_of_libraries()
    common = {
        "versions": {name: versions.get(name) for name in MODELS},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "type": kept_as,
        "trunk": type(chain.trunk).__qualname__,
        "config": config_of(chain.trunk),
    }
    digest = hashlib.blake2b(json.dumps(common, sort_keys=True).encode(), digest_size=32)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    embeddings = [modules[name] for name, does in layers.modules.items() if does == {EMBEDDINGS}]
    parts = [embeddings, *([*block.modules()] for block in chain.blocks[:boundaries])]
    names = []
    for layer, inside in zip((EMBEDDINGS, *layers.blocks), parts, strict=False):
        for module in inside:
            digest.update(f"{type(module).__module__}.{type(module).__qualname__} {settings_of(module)}".encode())
            for name, buffer in module.named_buffers(recurse=False):
                digest.update(f"{name} {buffer.dtype} {list(buffer.shape)}".encode())
                digest.update(_bytes_of(buffer))
        for name in layers.parameters.get(layer, ()):
            digest.update(f"{name.rpartition('.')[2]} {parameters[name].dtype} {list(parameters[name].shape)}".encode())
            digest.update(_bytes_of(parameters[name]))
        names.append(digest.copy().hexdigest())
    return names


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else flat.numpy())
