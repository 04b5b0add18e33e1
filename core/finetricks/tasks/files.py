"""Data files: CSV, TSV, JSON Lines and Parquet. Text stays text: nothing is guessed, and no word means "missing"."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetricks.errors import DataError, Problem, quoted, shortened
from finetricks.tasks.table import SHOWN, Table, listed
from finetricks.text_file import content_of, decoded

MOST_KEYS = 1_000
"""Different keys of JSON Lines, above which most rows must have most of them."""

MOST_ROWS_A_BYTE = 50
"""Of a Parquet file: equal rows take next to no space there, and much in memory."""

SHOWN_TEXT = 60


def read_table(path: str | Path) -> Table:
    """Read a data file. UTF-8, with or without a byte order mark; any line ends; blank lines are passed over.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, not UTF-8 or malformed, each with its line.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: unknown kind of file; the kinds are {', '.join(READERS)}")
    content = content_of(path, DataError)
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
        lines = decoded(str(path), content_of(path, DataError), DataError).splitlines()
    found = [text for text in map(str.strip, lines) if text]
    if not found:
        raise DataError(f"{path}: the file holds no text")
    return found


def _read_separated(path: Path, content: bytes, delimiter: str) -> Table:
    rows = _separated_rows(path, decoded(path.name, content, DataError), delimiter)
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
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(Problem(place, f"the header names {listed(twice)} more than once; rename all but one"))


def _read_csv(path: Path, content: bytes) -> Table:
    return _read_separated(path, content, ",")


def _read_tsv(path: Path, content: bytes) -> Table:
    return _read_separated(path, content, "\t")


def _read_json_lines(path: Path, content: bytes) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not splitlines(): JSON may hold U+2028 and its like within a text.
    for number, line in enumerate(re.split("\r\n|\r|\n", decoded(path.name, content, DataError)), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:
            told = f"not JSON Lines, one object a line: {error}{_array_hint(line)}"
            raise DataError(Problem(place, told)) from None
        if not isinstance(row, dict):
            told = f"not a JSON object: {shortened(line.strip()[:SHOWN_TEXT], SHOWN_TEXT)}{_array_hint(line)}"
            raise DataError(Problem(place, told))
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MOST_KEYS and len(names) * len(rows) > 100 * sum(map(len, rows)):
        told = f"{len(names):,} different keys in {len(rows):,} rows; the keys are the columns, the same in all rows"
        raise DataError(Problem(path.name, told))
    return Table(path.name, {name: [row.get(name) for row in rows] for name in names}, lines)


def _parsed(line: str) -> Any:
    row = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
    if "\\u" in line:  # only by escapes can JSON hold half of a pair
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{quoted(error.object[error.start])} is half of a surrogate pair, and no text") from None
    return row


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {shortened(text)} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {quoted(twice)} stands twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _array_hint(line: str) -> str:
    return "; an array cannot be read, write one object a line" if line.lstrip().startswith("[") else ""


def _read_parquet(path: Path, content: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    failures = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if (there := file.metadata.num_rows) > MOST_ROWS_A_BYTE * len(content):
            told = f"{there:,} rows in {len(content):,} bytes: nearly all of them are the same"
            raise DataError(Problem(path.name, told))
        table = file.read()
        names = list(table.column_names)  # they need not be text
    except failures as error:
        raise DataError(Problem(path.name, f"not a Parquet file: {error}")) from None
    _check_header(path.name, names)
    columns: dict[str, list[Any]] = {}
    for name in names:
        try:
            columns[name] = table.column(name).to_pylist()
        except failures as error:  # text that is not UTF-8, a time that Python cannot hold
            raise DataError(Problem(path.name, f"the column {quoted(name)} cannot be read: {error}")) from None
    return Table(path.name, columns)


READERS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
"""How each kind of file is read, by its suffix."""
