"""Checkpoints that cannot lie: written beside, flushed, renamed; checked against a manifest before they are used.

A checkpoint is a folder `step-N` with the weights in safetensors, everything else in a file that `torch.load` reads
with `weights_only=True` (opening it never executes code), and `manifest.json` with the size and checksum of both.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetricks.atomic import flush
from finetricks.errors import CheckpointError

logger = logging.getLogger(__name__)

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
_NAME = re.compile(r"step-(\d+)")
_OF_THE_MACHINE = re.compile(r"not enough memory|can't allocate|cannot allocate|out of memory|\(os error \d+\)", re.I)
"""In the message of an error that says nothing of what is read: torch and safetensors have no classes for it."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})


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
        """Write `state` (its `model` is a state dict of tensors; the rest tensors and JSON values).

        What cannot be written leaves the checkpoints as they were.
        """
        final, partial = self.folder / f"step-{step:08d}", self.folder / f".step-{step:08d}.partial"
        for left in self.folder.glob(".step-*.partial"):  # by a kill
            shutil.rmtree(left)
        is_new = not self.folder.is_dir()
        partial.mkdir(parents=True)
        try:
            self._write(partial, state)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        flush(self.folder)
        if is_new:
            flush(self.folder.parent)
        before = [folder for folder in self._all() if _step(folder) < step]
        # Those beyond were passed over on resuming, and go if they are damaged.
        beyond = [folder for folder in self._all() if _step(folder) > step and _is_damaged(folder)]
        for old in [*before[: max(len(before) + 1 - self.keep, 0)], *beyond]:
            shutil.rmtree(old)
        return final

    def _write(self, folder: Path, state: Mapping[str, Any]) -> None:
        weights, aliases = _distinct(state["model"])
        save_file(weights, folder / WEIGHTS)
        torch.save({**state, "model": None, "aliases": aliases}, folder / STATE)
        for name in (WEIGHTS, STATE):
            flush(folder / name)
        write_manifest(folder, (WEIGHTS, STATE), MANIFEST)

    def newest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint's state; `None` when there is none. Says which ones it passed over.

        Raises:
            CheckpointError: there are some, and none is whole.
            OSError, RuntimeError, MemoryError: one cannot be read at the moment, which is no fault of its own.
        """
        passed_over = []
        for folder in reversed(self._all()):
            try:
                state = _read(folder)
            except CheckpointError as error:
                passed_over.append(f"checkpoint {folder.name} is damaged ({error})")
                continue
            for what in passed_over:
                logger.warning("%s; using the one before", what)
            return state
        if passed_over:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(passed_over)}; start again with --overwrite"
            )
        return None

    def steps(self) -> list[int]:
        """The steps whose checkpoints are there, the newest last."""
        return [int(folder.name.removeprefix("step-")) for folder in self._all()]

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(
            (path for path in self.folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)), key=_step
        )


def write_manifest(folder: Path, names: Iterable[str], manifest: str) -> None:
    """Write the sizes and checksums of files that are on disk already, then flush it and the folder."""
    (folder / manifest).write_text(json.dumps({name: _facts(folder / name) for name in names}))
    flush(folder / manifest)
    flush(folder)


def damage(folder: Path, names: Iterable[str], manifest: str) -> str:
    """Which of the files `names` in `folder` is not as its manifest says; empty for a whole one.

    Raises:
        OSError: a file that is there cannot be read.
    """
    try:
        found = json.loads((folder / manifest).read_bytes())
        if not isinstance(found, dict):
            return f"{manifest} is no JSON object"
        if missing := [name for name in names if name not in found]:
            return f"{manifest} does not know {', '.join(missing)}"
        for name in names:
            if not (folder / name).is_file():
                return f"{name} is missing, or is no file"
            if _facts(folder / name) != found[name]:
                return f"{name} differs from the manifest"
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in ABSENT:
            raise
        return f"{manifest}: {type(error).__name__}: {error}"
    return ""


@contextmanager
def no_code(what: Path | str) -> Iterator[None]:
    """Around `torch.load(..., weights_only=True)`: what it refuses is a `CheckpointError`.

    torch's own message advises to load the file all the same.
    """
    try:
        yield
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{what} is torn, or holds more than tensors and plain values: it could execute code, and is not opened"
        ) from None


def _read(folder: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises `CheckpointError` for one that is torn, altered or forged."""
    if reason := damage(folder, (WEIGHTS, STATE), MANIFEST):
        raise CheckpointError(reason)
    try:
        with no_code(STATE):
            state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        weights = load_file(folder / WEIGHTS)
        state["model"] = weights | {name: weights[kept] for name, kept in state.pop("aliases").items()}
    except (MemoryError, OSError, torch.OutOfMemoryError, CheckpointError):
        raise
    except Exception as error:  # its checksums are right, so somebody made it: it may raise anything
        if _OF_THE_MACHINE.search(str(error)):
            raise
        raise CheckpointError(f"it is not one of finetricks: {type(error).__name__}: {_first_line(error)}") from error
    return state


def _is_damaged(folder: Path) -> bool:
    try:
        return bool(damage(folder, (WEIGHTS, STATE), MANIFEST))
    except OSError:
        return False


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
