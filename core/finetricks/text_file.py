"""Files that people give: regular ones only, and text in UTF-8. What they are instead is told with its line."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path

from finetricks.errors import InputError, Problem

MADE_BY_OTHERS = {
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"PAR1": "a Parquet file; name it .parquet",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF-": "a PDF",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
}
"""What files of other kinds begin with, and what to do about it."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_END = re.compile(rb"\r\n|\r|\n")


def content_of(path: Path, error: type[InputError], most: int | None = None) -> bytes:
    """The bytes of a regular file; a pipe or a device could keep the reader for ever.

    Args:
        error: what is raised.
        most: bytes that it may have.

    Raises:
        InputError: of the kind `error`: the file cannot be read, is no regular file, or is larger.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise error(f"{path} is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path} is a pipe or a device; save what comes out of it as a file, and name that")
        if most is not None and status.st_size > most:
            raise error(f"{path} has {status.st_size:,} bytes; at most {most:,} are read: is it the right file?")
        return path.read_bytes()
    except OSError as failed:
        raise error(f"cannot read {path}: {failed.strerror}") from None
    except ValueError as failed:  # a NUL in the name
        raise error(f"cannot read {str(path)!r}: {failed}") from None


def decoded(name: str, content: bytes, error: type[InputError]) -> str:
    """Text from UTF-8, with or without a byte order mark; its line ends as they are.

    Args:
        name: of the file, for errors.
        error: what is raised.

    Raises:
        InputError: of the kind `error`, with the line: it is no text, or in another encoding.
    """
    if content.startswith(_UTF16):
        raise error(Problem(f"{name}:1", "not UTF-8 but UTF-16; save the file as UTF-8"))
    for beginning, kind in MADE_BY_OTHERS.items():
        if content.startswith(beginning):
            raise error(Problem(f"{name}:1", f"not text but {kind}"))
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as failed:
        place = f"{name}:{_line(failed.object, failed.start)}"
        byte = failed.object[failed.start]
        told = f"not UTF-8: the byte 0x{byte:02x}; save the file as UTF-8"
        raise error(Problem(place, f"{told} (of a Windows file: iconv -f cp1252 -t utf-8)")) from None
    if "\0" in text:
        line = _line(content, content.index(b"\0"))
        raise error(Problem(f"{name}:{line}", "holds a NUL byte, so it is not text; save the file as UTF-8"))
    return text


def _line(content: bytes, position: int) -> int:
    return len(_LINE_END.findall(content, 0, position)) + 1
