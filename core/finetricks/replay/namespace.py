"""What states depend on beside the row that they are of: a name under which runs can share them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from finetricks.layer_spec import EMBEDDINGS
from finetricks.layers import Layers
from finetricks.libraries import MODELS, versions_of_libraries
from finetricks.replay.chain import Chain
from finetricks.structure import config_of, settings_of


class Namespaces:
    """The names of a model's boundaries, by their number: hex digits.

    Equal names mean equal states for equal rows, bit for bit: the same weights and buffers of all that lies below, of
    the same classes with the same settings, computed by the same libraries on the same kind of device by as many
    threads.

    Args:
        kept_as: the type of the numbers that are kept.
    """

    def __init__(self, model: nn.Module, layers: Layers, chain: Chain, kept_as: str) -> None:
        self._model = model
        self._layers = layers
        self._chain = chain
        self._kept_as = kept_as
        self._made: list[tuple[tuple[int, ...], str]] = []  # by boundary: the weights' versions, and the name

    def __getitem__(self, boundary: int) -> str:
        versions = self._versions()
        if [made for made, _ in self._made[: boundary + 1]] != versions[: boundary + 1]:
            self._made = list(zip(versions, self._names(), strict=True))
        return self._made[boundary][1]

    @property
    def _parts(self) -> list[tuple[list[nn.Module], list[nn.Parameter]]]:
        """Modules and parameters of the embeddings and of each block."""
        parameters, modules = dict(self._model.named_parameters()), dict(self._model.named_modules())
        inside = [[modules[name] for name, does in self._layers.modules.items() if does == {EMBEDDINGS}]]
        inside += [list(block.modules()) for block in self._chain.blocks]
        own = [self._layers.parameters.get(layer, ()) for layer in (EMBEDDINGS, *self._layers.blocks)]
        return [(found, [parameters[name] for name in names]) for found, names in zip(inside, own, strict=True)]

    def _versions(self) -> list[tuple[int, ...]]:
        return [tuple(p._version for p in parameters) for _, parameters in self._parts]

    def _names(self) -> list[str]:
        digest = hashlib.blake2b(json.dumps(self._common(), sort_keys=True).encode(), digest_size=32)
        names = []
        for modules, parameters in self._parts:
            for module in modules:
                digest.update(f"{type(module).__module__}.{type(module).__qualname__} {settings_of(module)}".encode())
                for name, buffer in module.named_buffers(recurse=False):
                    _add(digest, name, buffer)
            for parameter in parameters:
                _add(digest, "", parameter)
            names.append(digest.copy().hexdigest())
        return names

    def _common(self) -> dict[str, Any]:
        device, versions = next(self._model.parameters()).device, versions_of_libraries()
        on_gpu = device.type == "cuda"
        return {
            "versions": {name: versions[name] for name in MODELS},
            "device": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "type": self._kept_as,
            "trunk": type(self._chain.trunk).__qualname__,
            "config": config_of(self._chain.trunk),
        }


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(_bytes_of(tensor))


def _bytes_of(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""
