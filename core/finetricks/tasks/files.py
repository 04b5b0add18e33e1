"""Data files: CSV, TSV, JSON Lines and Parquet. Text stays text: nothing is guessed, and no word means "missing"."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetricks.errors import DataError, Problem
from finetricks.tasks.table import SHOWN, Table


def read_table(path: str | Path) -> Table:
    """Read a data file. UTF-8, with or without a byte order mark; any line ends; blank lines are passed over.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, not UTF-8 or malformed, each with its line.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: unknown kind of file; the kinds are {', '.join(READERS)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(Problem(path.name, "the file is empty"))
    table = read(path, content)
    if not table.columns or not len(table):
        raise DataError(Problem(path.name, "the file has no rows"))
    return table


def read_texts(path: str | Path, column: str) -> list[str]:
    """The texts of a corpus: a table's `column`, or the lines of any other file; blank ones are left out.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    path = Path(path)
    if path.suffix.lower() in READERS:
        lines = list(read_table(path).texts((column,))[column])
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text, at byte {error.start}; save the file as UTF-8") from None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
    found = [text for text in map(str.strip, lines) if text]
    if not found:
        raise DataError(f"{path}: the file holds no text")
    return found


def _decode(path: Path, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(Problem(f"{path.name}:1", "not UTF-8 but UTF-16; save the file as UTF-8"))
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DataError(
            Problem(f"{path.name}:{line}", f"not UTF-8: the byte 0x{byte:02x}; save the file as UTF-8")
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(Problem(f"{path.name}:{line}", "holds a NUL byte, so it is not text; save the file as UTF-8"))
    return text


def _read_separated(path: Path, content: bytes, delimiter: str) -> Table:
    rows = _separated_rows(path, _decode(path, content), delimiter)
    line, header = next(rows)
    _check_header(f"{path.name}:{line}", header)
    lines: list[int] = []
    values: list[list[str]] = []
    ragged: list[Problem] = []
    for line, row in rows:
        if len(row) != len(header):
            ragged.append(
                Problem(
                    f"{path.name}:{line}", f"number of values: {len(row)}, but the header names {len(header)} columns"
                )
            )
        lines.append(line)
        values.append(row)
    if len(ragged) > SHOWN:
        ragged[SHOWN:] = [Problem(path.name, f"and {len(ragged) - SHOWN} more rows of another length than the header")]
    if ragged:
        raise DataError(ragged)
    return Table(path.name, {name: [row[index] for row in values] for index, name in enumerate(header)}, lines)


def _separated_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line on which it starts."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    with _fields_of_any_length():
        try:
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                line, what = start, "a quote that opens in this row is never closed"
            else:
                line, what = reader.line_num, f"malformed: {error}"
            hint = "within a quoted value, write a quote as two quotes"
            raise DataError(Problem(f"{path.name}:{line}", f"{what}; {hint}")) from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    # The csv module refuses fields of more than 131,072 characters, by a limit that all of the process shares.
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_header(place: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        listed = ", ".join(repr(name) for name in twice)
        raise DataError(Problem(place, f"the header names {listed} more than once; rename all but one"))


def _read_csv(path: Path, content: bytes) -> Table:
    return _read_separated(path, content, ",")


def _read_tsv(path: Path, content: bytes) -> Table:
    return _read_separated(path, content, "\t")


def _read_json_lines(path: Path, content: bytes) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not splitlines(): JSON may hold U+2028 and its like within a text.
    for number, line in enumerate(_decode(path, content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(
                Problem(f"{path.name}:{number}", f"not JSON Lines, one object a line: {error}{_array_hint(line)}")
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                Problem(f"{path.name}:{number}", f"not a JSON object: {line.strip():.60}{_array_hint(line)}")
            )
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(path.name, {name: [row.get(name) for row in rows] for name in names}, lines)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} stands twice")
    for name, value in pairs:
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"the text of {name!r} holds half of a surrogate pair")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _array_hint(line: str) -> str:
    return "; an array cannot be read, write one object a line" if line.lstrip().startswith("[") else ""


def _read_parquet(path: Path, content: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(Problem(path.name, f"not a Parquet file: {error}")) from None
    _check_header(path.name, table.column_names)
    return Table(path.name, {name: table.column(name).to_pylist() for name in table.column_names})


READERS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
"""How each kind of file is read, by its suffix."""
