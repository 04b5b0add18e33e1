"""Checkpoints that cannot lie: written beside, flushed, renamed; checked against a manifest before they are used.

A checkpoint is a folder `step-N` with the weights in safetensors, everything else in a file that `torch.load` reads
with `weights_only=True` (opening it never executes code), and `manifest.json` with the size and checksum of both.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetricks.errors import CheckpointError

logger = logging.getLogger(__name__)

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"


class Checkpoints:
    """The checkpoints of a run, newest kept: `save` adds one, `newest` gives the last whole one.

    Args:
        folder: holds the checkpoints; made when the first is saved.
        keep: how many are kept; two, so that one torn while it is written leaves the one before.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` (its `model` is a state dict of tensors; the rest tensors and JSON values)."""
        final, partial = self.folder / f"step-{step:08d}", self.folder / f".step-{step:08d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        weights, aliases = _distinct(state["model"])
        save_file(weights, partial / WEIGHTS)
        torch.save({**state, "model": None, "aliases": aliases}, partial / STATE)
        (partial / MANIFEST).write_text(json.dumps({name: _facts(partial / name) for name in (WEIGHTS, STATE)}))
        for name in (WEIGHTS, STATE, MANIFEST):
            _flush(partial / name)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(self.folder)
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def newest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint's state; `None` when there is none. Says which ones it passed over."""
        for folder in reversed(self._all()):
            if reason := _damage(folder):
                logger.warning("checkpoint %s is damaged (%s); using the one before", folder.name, reason)
                continue
            state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location="cpu")
            state["model"] = load_file(folder / WEIGHTS)
            state["model"].update({name: state["model"][kept] for name, kept in state.pop("aliases").items()})
            return state
        if self._all():
            raise CheckpointError(f"no checkpoint in {self.folder} is whole; start again with --overwrite")
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _distinct(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors that are stored once, and the names that stand for one of them (tied weights)."""
    kept: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in kept:
            aliases[name] = kept[place]
        else:
            kept[place] = name
            tensors[name] = tensor.detach().contiguous()
    return tensors, aliases


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _damage(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name in (WEIGHTS, STATE):
            if _facts(folder / name) != manifest[name]:
                return f"{name} differs from the manifest"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # whatever JSON it holds
        return f"{type(error).__name__}: {error}"
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
