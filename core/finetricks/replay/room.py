"""The folder of all stored states: how much lies in it, and what goes when there must be room.

It holds a folder for each namespace, and in that the segments of those who wrote. The time of a segment's last change
is that of its last use.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from finetricks.replay.segment import cut, is_own

SUFFIX = ".states"
_LOCK = ".lock"
_SPARE = 2**30
"""Bytes of the disk that are left to others, or a twentieth of a smaller disk."""


@dataclass(frozen=True)
class Stored:
    """A segment's file: its bytes with the room that it may still fill, and when it was last used (ns)."""

    path: Path
    size: int
    filled: int
    used: int


def distrust(folder: Path) -> str:
    """Why states in `folder` are not used; the empty string where they may be, or where it is not there yet."""
    try:
        link, status = os.lstat(folder), os.stat(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "it is no folder"
    if link.st_uid != os.geteuid() or not is_own(status):
        return "it is somebody else's, or others may write there"
    return ""


def stored(root: Path) -> list[Stored]:
    """All segments in `root`, that which was not used for the longest time first."""
    found = []
    for folder in _entries(root):
        if folder.is_dir(follow_symlinks=False):
            for entry in _entries(Path(folder.path)):
                with suppress(FileNotFoundError):
                    if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        filled = min(status.st_blocks * 512, status.st_size)
                        found.append(Stored(Path(entry.path), status.st_size, filled, status.st_mtime_ns))
    return sorted(found, key=lambda one: one.used)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def make(folder: Path, root: Path) -> None:
    """Make the folder of a namespace, and the root, for this user alone. Raises `OSError`."""
    root.parent.mkdir(parents=True, exist_ok=True)
    for one in (root, folder):
        one.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Alone among the processes that make segments in `root`."""
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def room_for(root: Path, wanted: int, limit: int) -> int:
    """Bytes that may be added to `root` so that all of it stays within `limit`: `wanted`, or less.

    For it goes what killed writers did not fill, then what nobody has open, that which was not used for the longest
    time first. To be called `alone`.
    """
    left = limit - sum(one.size for one in stored(root))
    for act in (_cut, _remove):
        for one in stored(root) if left < wanted else ():
            if left < wanted:
                left += _unless_open(one, act)
    disk = os.statvfs(root)
    spare = min(_SPARE, disk.f_blocks * disk.f_frsize // 20)
    return max(min(wanted, left, disk.f_bavail * disk.f_frsize - spare), 0)


def _unless_open(one: Stored, act: Callable[[Stored, int], int]) -> int:
    """Do it to a segment that nobody has open; the bytes that are free now."""
    try:
        descriptor = os.open(one.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return act(one, descriptor)
    except OSError:  # BlockingIOError above all
        return 0
    finally:
        os.close(descriptor)


def _cut(one: Stored, descriptor: int) -> int:
    return cut(descriptor) if one.filled < one.size else 0


def _remove(one: Stored, descriptor: int) -> int:
    remove(one)
    return one.size


def remove(one: Stored) -> None:
    """Remove a segment; who has it open keeps it until they close it."""
    one.path.unlink(missing_ok=True)
    with suppress(OSError):  # others lie in it
        one.path.parent.rmdir()
