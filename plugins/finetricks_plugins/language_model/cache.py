"""Results that are found again by what they were made of.

An entry of the cache is a folder named by the key: `about.json` says what it is, `result/` holds it, and `progress/`
what resume needs while it is made. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from finetricks import CheckpointError, InputError
from finetricks.cache import cache_folder
from finetricks.checkpoint import Checkpoints
from finetricks.structure import settings_of

logger = logging.getLogger(__name__)

VERSIONED = ("torch", "transformers")
"""Packages whose code is known by their version."""


class Entry:
    """One result in the cache, there or still to be made."""

    def __init__(self, kind: str, key: str) -> None:
        self.folder = cache_folder() / kind / key
        self._result = Checkpoints(self.folder / "result", keep=1)
        self._progress = Checkpoints(self.folder / "progress")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among the processes that want this entry. Raises `InputError` where the cache cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("another run is making %s; waiting for it", self.folder)
                lock.acquire()
        except OSError as error:
            raise InputError(
                f"cannot write the cache {self.folder}: {error.strerror}; set FINETRICKS_CACHE to a folder that can be "
                "written"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def result(self) -> dict[str, Tensor] | None:
        """The tensors; `None` where they are not there, or not whole."""
        state = _newest(self._result)
        return None if state is None else dict(state["model"])

    def progress(self) -> dict[str, Any] | None:
        """The newest whole state that was saved on the way; `None` where there is none."""
        return _newest(self._progress)

    def save_progress(self, step: int, state: Mapping[str, Any]) -> None:
        self._progress.save(step, state)

    def save(self, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep the result, and what may be read of it; what was saved on the way goes."""
        (self.folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
        self._result.save(step, {"model": tensors})
        self._progress.clear()


def _newest(checkpoints: Checkpoints) -> dict[str, Any] | None:
    try:
        return checkpoints.newest()
    except CheckpointError:
        logger.warning("nothing that is kept in %s is whole; it is made anew", checkpoints.folder)
        checkpoints.clear()
        return None


def key_of(model: nn.Module, facts: Mapping[str, Any], code: Iterable[Callable[..., Any]]) -> str:
    """The key of what training `model` gives.

    A hash of its weights and structure, of `facts` (JSON values), of the source of this package, of the files where the
    classes and functions `code` stand and of the model's own code, of the versions of torch and transformers, and of
    what the arithmetic is done on.
    """
    import transformers

    first = next(model.parameters())
    whole = {
        "facts": facts,
        "structure": [[name, type(m).__qualname__, settings_of(m)] for name, m in model.named_modules()],
        "code": sorted(_hash_of(file) for file in _files(model, code)),
        "versions": [torch.__version__, transformers.__version__],
        "on": torch.cuda.get_device_name(first.device)
        if first.is_cuda
        else [str(first.device), torch.get_num_threads()],
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _files(model: nn.Module, code: Iterable[Callable[..., Any]]) -> set[Path]:
    found = set(Path(__file__).parent.glob("*.py"))
    sources: set[Callable[..., Any]] = {*code, *map(type, model.modules())}
    for source in sources:
        if source.__module__.partition(".")[0] not in VERSIONED:
            with suppress(OSError, TypeError):  # of a notebook
                found.add(Path(inspect.getfile(source)))
    return found


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
