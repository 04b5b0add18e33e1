"""States in files that runs share, one after the other and at once.

`root/<namespace>/<any name>.states`: each process appends to a file of its own (`segment.py`), and reads those of all.
What cannot be read, is not whole or has been altered is not there; what cannot be written is not kept. Nothing of this
ends a run: it computes anew what it does not find.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import RLock

import torch

from finetricks.cache import cache_folder
from finetricks.replay.room import SUFFIX, alone, distrust, make, room_for
from finetricks.replay.segment import Place, Segment, may_be_stored, size_of

logger = logging.getLogger(__name__)

KEY = 32  # bytes
_LEAST, _MOST = 4 * 2**20, 256 * 2**20
"""Bytes of a segment: each of a writer's is twice as large as all before it, within these."""
_MANY = 16
"""Segments of a namespace, each of which costs two file descriptors; of more the small ones are merged."""


def default_folder() -> Path:
    """Where states are kept if no other folder is named: in the cache."""
    return cache_folder() / "replay"


class DiskStore:
    """The states of one namespace. Safe to use by threads and by processes, and after a fork.

    A folder where others may write, or that is somebody else's, is neither read nor written.

    Args:
        folder: of all namespaces; made when something is written.
        namespace: a hex digest of what the states depend on besides their keys.
        limit: bytes of all files in `folder`, all namespaces together. What nobody has open goes first; if there is
            still no room nothing more is kept.

    Raises:
        ValueError: the namespace is no hex digest.
    """

    def __init__(self, folder: Path, namespace: str, limit: int) -> None:
        if not re.fullmatch("[0-9a-f]{8,128}", namespace):
            raise ValueError(f"a namespace is a hex digest, got {namespace!r}")
        self._root = Path(folder).expanduser().absolute()
        self._folder = self._root / namespace
        self._limit = limit
        self._lock = RLock()
        self._segments: dict[str, Segment] = {}
        self._used: set[str] = set()
        self._places: dict[bytes, tuple[Segment, Place]] = {}
        self._whole: set[bytes] = set()  # whose checksum was compared
        self._nbytes = 0
        self._writer: Segment | None = None
        self._process = os.getpid()
        self._taken = 0  # bytes, of its own segments
        self._is_readable = self._is_writable = True
        self._refresh()

    @property
    def nbytes(self) -> int:
        """Of the states that were found so far."""
        return self._nbytes

    def get(self, keys: Sequence[bytes]) -> list[torch.Tensor | None]:
        """The states, each [tokens, width] on the CPU; `None` where there is none. They are not to be written to."""
        with self._lock:
            if not self._places.keys() >= {*keys}:
                self._refresh()
            return [self._get(key) for key in keys]

    def put(self, keys: Sequence[bytes], states: Sequence[torch.Tensor]) -> None:
        """Keep states of one width and dtype (fp32, fp16, bf16), each [tokens, width], but for keys that are there.

        Raises:
            ValueError: states or keys of another kind.
        """
        _check(keys, states)
        with self._lock:
            new = {
                key: state
                for key, state in zip(keys, states, strict=True)
                if key not in self._places and state.numel() and self._is_writable
            }
            if new:
                try:
                    self._append(list(new), list(new.values()))
                except OSError as error:
                    self._stop(error.strerror or str(error))

    def close(self) -> None:
        """Close the files. States that were read stay as they are while anybody has them."""
        with self._lock:
            self._close_writer()
            for name in self._used & self._segments.keys():
                self._touch(self._segments[name])
            self._segments, self._places, self._whole, self._used = {}, {}, set(), set()
            self._is_readable = self._is_writable = False
            self._nbytes = 0

    # -- reading ---------------------------------------------------------------------------------------------

    def _get(self, key: bytes) -> torch.Tensor | None:
        if (found := self._places.get(key)) is None:
            return None
        segment, place = found
        if key not in self._whole:
            if not segment.is_whole(place):
                self._forget(segment)
                return None
            self._whole.add(key)
            if segment.path.name not in self._used:
                self._used.add(segment.path.name)
                self._touch(segment)
        return segment.read(place)

    def _forget(self, segment: Segment) -> None:
        """Remove a file with a state that is not what was written: its states are computed and put anew."""
        _say(str(segment.path), "a stored state was altered; the file is removed, and what it held computed anew")
        for key in [key for key, (other, _) in self._places.items() if other is segment]:
            self._nbytes -= self._places.pop(key)[1].nbytes
            self._whole.discard(key)
        with suppress(OSError):
            segment.path.unlink()
        if segment is self._writer:
            self._writer = None

    def _refresh(self) -> None:
        """Look for what others have added."""
        if not self._is_readable:
            return
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        except OSError:
            names = []  # not there yet, or no longer
        if names and not self._segments and not self._is_trusted():
            return
        for name in names:
            if name not in self._segments:
                with suppress(OSError, ValueError):  # it has just been made, is being removed, or is no segment
                    self._segments[name] = Segment(self._folder / name)
        for segment in self._segments.values():
            self._read_index(segment)

    def _read_index(self, segment: Segment) -> None:
        with suppress(OSError):
            for key, place in segment.frames():
                if key not in self._places:
                    self._places[key] = segment, place
                    self._nbytes += place.nbytes

    def _is_trusted(self) -> bool:
        for folder in (self._root, self._folder):
            reason = distrust(folder)
            if folder == self._folder and folder.is_symlink():
                reason = "it is a link"
            if reason:
                self._is_readable = self._is_writable = False
                _say(str(folder), f"no states are read or stored there: {reason}. The run computes them itself")
                return False
        return True

    @staticmethod
    def _touch(segment: Segment) -> None:
        with suppress(OSError):  # read-only
            segment.touch()

    # -- writing ---------------------------------------------------------------------------------------------

    def _append(self, keys: list[bytes], states: list[torch.Tensor]) -> None:
        size = size_of(states)
        if self._process != os.getpid():  # the other side of a fork goes on with that file
            self._writer, self._taken, self._process = None, 0, os.getpid()
        if self._writer is None or self._writer.free < size or self._writer.is_removed:
            self._close_writer()
            self._writer = self._new_segment(size)
        if self._writer is not None:
            self._writer.append(keys, states)
            self._read_index(self._writer)

    def _new_segment(self, least: int) -> Segment | None:
        """A segment for a frame of `least` bytes, and what is to follow; `None` where there is to be none."""
        make(self._folder, self._root)
        if not self._is_trusted():
            return None
        small = self._small()
        wanted = max(least, min(_MOST, self._limit // 16, max(_LEAST, 2 * self._taken)))
        wanted += sum(segment.filled for segment in small)
        name = uuid.uuid4().hex + SUFFIX
        with alone(self._root):
            size = room_for(self._root, wanted, self._limit)
            if size < least:
                self._stop(f"there is no room within {self._limit} bytes, or on the disk")
                return None
            make(self._folder, self._root)  # it may have gone with the last that was in it
            segment = self._segments[name] = Segment.create(self._folder / name, size)
            self._taken += size
            if size == wanted:
                self._merge(small, segment)
        return segment

    def _small(self) -> list[Segment]:
        """Segments to be merged: where there are many, the smallest of them, up to a sixteenth of all room."""
        found: list[Segment] = []
        room = self._limit // 16
        for segment in sorted(self._segments.values(), key=lambda one: one.filled):
            room -= segment.filled
            if room < 0:
                break
            found.append(segment)
        return found if len(self._segments) >= _MANY and len(found) > 1 else []

    def _merge(self, small: Sequence[Segment], into: Segment) -> None:
        """Move the states of small segments. Whoever has one of them open keeps it until they close it."""
        moved: dict[tuple[int, torch.dtype], dict[bytes, torch.Tensor]] = {}
        for key, (segment, place) in list(self._places.items()):
            if segment in small:
                if segment.is_whole(place):
                    moved.setdefault((place.width, place.dtype), {})[key] = segment.read(place)
                del self._places[key]
                self._nbytes -= place.nbytes
        for states in moved.values():
            into.append(list(states), list(states.values()))
            self._read_index(into)
        for segment in small:
            del self._segments[segment.path.name]
            with suppress(OSError):
                segment.path.unlink()

    def _stop(self, reason: str) -> None:
        self._is_writable = False
        self._close_writer()
        _say(str(self._root), f"no more states are stored there: {reason}. The run goes on without")

    def _close_writer(self) -> None:
        if self._writer is not None and self._process == os.getpid():
            with suppress(OSError):
                self._writer.close()
        self._writer = None


def _check(keys: Sequence[bytes], states: Sequence[torch.Tensor]) -> None:
    if len(keys) != len(states) or any(len(key) != KEY for key in keys):
        raise ValueError(f"as many keys of {KEY} bytes as states, got {len(keys)} and {len(states)}")
    kinds = {(state.ndim, state.shape[-1:], state.dtype) for state in states}
    if len(kinds) > 1 or any(ndim != 2 or not may_be_stored(dtype) for ndim, _, dtype in kinds):
        raise ValueError(f"states are [tokens, width], of one width and of fp32, fp16 or bf16, got {kinds}")


@cache
def _say(place: str, what: str) -> None:
    """Once in a process: each run of a study would say it again."""
    logger.warning("%s: %s", place, what)
