"""A disk that is full, read-only or gone: no fault of a cell's, and no reason to lose what was recorded."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetricks.errors import FinetricksError, in_words

ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})
DENIED = frozenset({errno.EACCES, errno.EPERM})
PROBE = 64 * 1024  # bytes


class StorageError(FinetricksError):
    """What a study must write cannot be written. It can be resumed once it can."""

    def __init__(self, folder: Path | str, reason: str) -> None:
        self.folder = folder
        self.reason = reason
        super().__init__(
            f"cannot write in {folder}: {reason}. The study was stopped; nothing that was recorded is lost. "
            "Make room, or make it writable, and go on with --resume"
        )

    def __reduce__(self) -> tuple[type[StorageError], tuple[Path | str, str]]:
        return type(self), (self.folder, self.reason)


def storage_problem(error: BaseException, folder: Path) -> str:
    """Why nothing can be written, if `error` came of that; else the empty string.

    Libraries tell it in ways of their own (safetensors in the text, torch not at all), so a few bytes are written to
    `folder` in case of doubt.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in ERRORS:
            return os.strerror(seen.errno)
        if (told := re.search(r"\(os error (\d+)\)", in_words(seen))) and int(told[1]) in ERRORS:
            return os.strerror(int(told[1]))
        seen = seen.__cause__ or seen.__context__
    return _probe(folder)


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
def telling(folder: Path) -> Iterator[None]:
    """Within the block, an `OSError` that says that `folder` cannot be written is a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in ERRORS | DENIED:
            raise
        raise StorageError(folder, os.strerror(error.errno or 0)) from error
