"""Files that are replaced as a whole, and folders that are written by nobody but their owner."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection
from pathlib import Path

from finetricks.errors import InputError

_PARTIAL = re.compile(r"\..+?(\.[0-9a-f]{32})?\.partial")
_MOST = 100  # bytes of a name that a partial one keeps; a file's name has 255


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader, or a kill, sees the old content or the new.

    Several processes may write one file at once: each has a temporary file of its own, and the last one to end stands.
    A link in the file's place is replaced, not followed.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_MOST])  # of more letters than one byte each, say
    partial = path.with_name(f".{name}.{uuid.uuid4().hex}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_partial(name: str) -> bool:
    """Whether a file of this name is what a killed `write_atomically` leaves."""
    return _PARTIAL.fullmatch(name) is not None


def holds_nothing(folder: Path, left: Collection[str] = ()) -> bool:
    """Whether a folder is empty, but for the names in `left` and for what a kill leaves before anything is there."""
    return all(path.name in left or is_partial(path.name) for path in folder.iterdir())


def remove_partials(folder: Path) -> None:
    """Remove what killed writers have left. Only for a folder in which nobody else is writing."""
    for path in folder.iterdir():
        if is_partial(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_links(folder: Path, closed: Collection[Path] = ()) -> None:
    """Raise `InputError` for a symbolic link in `folder`: what is written there, or removed, would lie elsewhere.

    The folder may itself be one: its owner has made it.

    Args:
        closed: folders in it that are not looked into, though none of them may be a link.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # a run at work has removed it by now
        return
    for entry in entries:
        if entry.is_symlink():
            raise InputError(
                f"{entry.path} is a symbolic link, and what stands in a results folder is written and removed without "
                "a question; put what it points to in its place, or remove it"
            )
        if entry.is_dir() and Path(entry.path) not in closed:
            refuse_links(Path(entry.path), closed)
