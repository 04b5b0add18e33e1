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

    Libraries tell it in ways of their own (safetensors in the text, torch not at all), so a few bytes are written to
    `folder` in case of doubt.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StorageError):
            return seen.reason
        if isinstance(seen, OSError) and seen.errno is not None:
            denied = seen.errno in DENIED and Path(str(seen.filename)).is_relative_to(folder)
            if denied or seen.errno in ERRORS:
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
def telling(folder: Path, what: str = "study") -> Iterator[None]:
    """Within the block, an `OSError` that says that `folder` cannot be written is a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in ERRORS | DENIED:
            raise
        raise StorageError(folder, os.strerror(error.errno or 0), what) from error
