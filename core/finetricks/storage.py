"""A disk that is full, read-only or gone: no fault of a run's, and no reason to lose what was recorded."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetricks.errors import FinetricksError, in_words
from finetricks.guard import RAISED

ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE})
DENIED = frozenset({errno.EACCES, errno.EPERM})
PROBE = 64 * 1024  # bytes


class StorageError(FinetricksError):
    """What a run or a study must write cannot be written. It can be resumed once it can.

    Args:
        folder: the one that cannot be written.
        reason: what the system says.
        what: was stopped by it, `run` or `study`.
    """

    def __init__(self, folder: Path | str, reason: str, what: str = "study") -> None:
        self.folder = folder
        self.reason = reason
        self.what = what
        super().__init__(
            f"cannot write in {folder}: {reason}. The {what} was stopped; nothing that was recorded is lost. "
            "Make room, or make it writable, and go on with --resume"
        )

    def __reduce__(self) -> tuple[type[StorageError], tuple[Path | str, str, str]]:
        return type(self), (self.folder, self.reason, self.what)


def storage_problem(error: BaseException, folder: Path) -> str:
    """Why nothing can be written in `folder`, if `error` came of that; else the empty string.

    An error that names a file is of the disk where that lies. One that names none (of a write; safetensors tells it in
    the text) is taken for one of `folder`, unless a trick raised it, which writes elsewhere. In case of doubt (torch
    does not tell it at all) a few bytes are written to `folder`.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StorageError):
            return seen.reason
        named = isinstance(seen, OSError) and isinstance(seen.filename, str | bytes)
        code = _code(seen)
        if named and code in ERRORS | DENIED and _lies_in(seen.filename, folder):  # type: ignore[attr-defined]
            return os.strerror(code)
        if not named and code in ERRORS and not _of_a_trick(seen):
            return os.strerror(code)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return _probe(folder)


def _code(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", in_words(error))
    return int(told[1]) if told else 0


def _lies_in(name: str | bytes, folder: Path) -> bool:
    path = Path(os.fsdecode(name)).absolute()
    return path.is_relative_to(folder.absolute()) or path.resolve().is_relative_to(folder.resolve())


def _of_a_trick(error: BaseException) -> bool:
    return any(note.startswith(RAISED) for note in getattr(error, "__notes__", ()))


def _probe(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * PROBE)
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:  # nothing was written there yet
        return _probe(folder.parent) if folder != folder.parent else ""
    except OSError as failure:
        return os.strerror(failure.errno) if failure.errno in ERRORS and failure.errno else ""
    return ""


@contextmanager
def telling(folder: Path, what: str = "study") -> Iterator[None]:
    """Within the block, an `OSError` that says that `folder` cannot be written is a `StorageError`."""
    try:
        yield
    except OSError as error:
        if reason := storage_problem(error, folder):
            raise StorageError(folder, reason, what) from error
        raise
