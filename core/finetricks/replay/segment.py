"""A file of states on disk: frames, one after the other, each whole or not there.

A frame is a header, a table of keys, and the rows, each at a multiple of 64 bytes. The rows are written first: whoever
finds a header whose checksum is right finds all that it names, and what a killed writer has left is not found at all.
Numbers are in the machine's own byte order (a file from one of the other order has no frames). Files are as long as
they may become from the beginning on, sparse: their room is taken before it is filled, and a map of one never grows.

Whoever has a file open holds a shared lock on it, which the kernel takes back when the process ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ALIGNED = 64  # bytes
_MAGIC = 0x46545231
_HEADER = struct.Struct("=IIIIQI")
"""Magic, code of the dtype, rows, width, bytes of the frame, CRC-32 of what stands before it and of the table."""
_ROW = struct.Struct("=32sII")
"""Key, tokens, CRC-32 of the state."""
_PEEK = 4096
"""Bytes; a header with the table of a usual batch."""
_DTYPES = {1: torch.float32, 2: torch.float16, 3: torch.bfloat16}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies in a segment: a tensor [tokens, width] of `dtype`, from byte `start`."""

    start: int
    tokens: int
    width: int
    dtype: torch.dtype
    crc: int

    @property
    def nbytes(self) -> int:
        return self.tokens * self.width * self.dtype.itemsize


class Segment:
    """A file that is open for reading, or for writing where it was created by this process.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no file that only its owner may write, or it is empty.
        BlockingIOError: it is being removed.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._is_writer = descriptor is not None
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe in its place blocks not
        self._file = os.fdopen(descriptor, "rb", buffering=0)  # closes the descriptor with this object
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not is_own(status):
            raise ValueError(f"{path} is no file that only you may write")
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Private, so that torch has memory that may be written to, and the file stays as it is.
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        self._end = 0  # of the frames read so far

    @classmethod
    def create(cls, path: Path, capacity: int) -> Segment:
        """A new one of `capacity` bytes."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, capacity)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor)

    @property
    def capacity(self) -> int:
        return len(self._map)

    @property
    def filled(self) -> int:
        """Bytes of the frames that were read so far."""
        return self._end

    @property
    def free(self) -> int:
        return self.capacity - self._end

    @property
    def is_removed(self) -> bool:
        """Whether nobody will find it any more."""
        return not os.fstat(self._file.fileno()).st_nlink

    def append(self, keys: Sequence[bytes], states: Sequence[torch.Tensor]) -> None:
        """Add a frame of `size_of(states)` bytes; there must be room for it. Raises `OSError` if it cannot."""
        width, dtype = states[0].shape[1], states[0].dtype
        contents = [_bytes(state) for state in states]
        table = b"".join(
            _ROW.pack(key, len(state), zlib.crc32(content))
            for key, state, content in zip(keys, states, contents, strict=True)
        )
        size = size_of(states)
        front = _HEADER.pack(_MAGIC, _CODES[dtype], len(keys), width, size, 0)[:-4]
        rows = b"".join(content + b"\0" * _padding(len(content)) for content in contents)
        _write(self._file.fileno(), rows, self._end + _front(len(keys)))
        head = front + struct.pack("=I", zlib.crc32(table, zlib.crc32(front))) + table
        _write(self._file.fileno(), head, self._end)

    def frames(self) -> Iterator[tuple[bytes, Place]]:
        """The rows of the frames that were added since this was last asked: key and place."""
        while (found := _frame(self._file.fileno(), self._end)) is not None and found.end <= self.capacity:
            self._end = found.end
            yield from found.rows

    def read(self, place: Place) -> torch.Tensor:
        """The state, as a view of the map. The map stays, and with it the lock, while anybody has a view."""
        count = place.tokens * place.width
        flat = torch.frombuffer(self._map, dtype=place.dtype, count=count, offset=place.start)
        return flat.view(place.tokens, place.width)

    def is_whole(self, place: Place) -> bool:
        with memoryview(self._map) as view:
            return zlib.crc32(view[place.start : place.start + place.nbytes]) == place.crc

    def touch(self) -> None:
        """Say that it was used now."""
        os.utime(self._file.fileno())

    def close(self) -> None:
        """Give back the room that was not filled, if it was created here. What was read stays as it is."""
        if self._is_writer:
            cut(self._file.fileno())


@dataclass(frozen=True, slots=True)
class _Frame:
    rows: list[tuple[bytes, Place]]
    end: int


def _frame(descriptor: int, start: int) -> _Frame | None:
    """The frame that begins at byte `start`; `None` where no whole one does (yet).

    Read, and not looked up in a map: its writer may have cut off by now what it did not fill.
    """
    head = os.pread(descriptor, _PEEK, start)
    if len(head) < _HEADER.size:
        return None
    magic, code, count, width, size, crc = _HEADER.unpack_from(head)
    length = _HEADER.size + count * _ROW.size
    if magic != _MAGIC or code not in _DTYPES or not count or length > size:
        return None
    if start + size > os.fstat(descriptor).st_size:  # somebody has cut it off
        return None
    if length > len(head):
        head += os.pread(descriptor, length - len(head), start + len(head))
    table = head[_HEADER.size : length]
    if zlib.crc32(table, zlib.crc32(head[: _HEADER.size - 4])) != crc:
        return None
    rows, at = [], start + _front(count)
    for key, tokens, check in _ROW.iter_unpack(table):
        place = Place(at, tokens, width, _DTYPES[code], check)
        rows.append((key, place))
        at += place.nbytes + _padding(place.nbytes)
    return _Frame(rows, at) if at == start + size else None


def cut(descriptor: int) -> int:
    """Cut off what no frame fills, and give its bytes. Only for who writes the file, or has it alone."""
    end = 0
    while (found := _frame(descriptor, end)) is not None:
        end = found.end
    before = os.fstat(descriptor).st_size
    os.ftruncate(descriptor, end)
    return before - end


def is_own(status: os.stat_result) -> bool:
    """Whether a file or a folder is this user's, and nobody else may write there."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def size_of(states: Sequence[torch.Tensor]) -> int:
    """Bytes of the frame that holds `states`."""
    return _front(len(states)) + sum(state.nbytes + _padding(state.nbytes) for state in states)


def may_be_stored(dtype: torch.dtype) -> bool:
    return dtype in _CODES


def _front(count: int) -> int:
    length = _HEADER.size + count * _ROW.size
    return length + _padding(length)


def _padding(length: int) -> int:
    return -length % ALIGNED


def _bytes(state: torch.Tensor) -> bytes:
    flat = state.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _write(descriptor: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
