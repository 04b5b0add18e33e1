"""Rows as they came from a file or a data set, each of which can say where it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from finetricks.errors import DataError, Problem, quoted, shortened, suggest

T = TypeVar("T")

SHOWN = 5
"""How many of many like mistakes an error shows."""

SHOWN_NAMES = 20
"""How many of many labels or columns an error lists."""


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Attributes:
        source: what errors call it: `train.csv`, or `glue/train`.
        columns: the values of each column, all of one length.
        lines: for each row the line of the file on which it starts; `None` where there are no lines to speak of.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def place(self, row: int) -> str:
        """Where a row stands: `train.csv:12`, or `train.parquet row 11` (rows count from 1)."""
        return f"{self.source}:{self.lines[row]}" if self.lines is not None else f"{self.source} row {row + 1}"

    def texts(self, names: Collection[str]) -> dict[str, list[str]]:
        """The columns `names` as text: text as it stands, numbers as they are written in JSON.

        Raises:
            DataError: a column is missing, or has values that are missing, blank or not text.
        """
        problems: list[Problem] = []
        texts: dict[str, list[str]] = {}
        for name in names:
            if name not in self.columns:
                problems.append(Problem(self.source, self._no_column(name)))
                continue
            texts[name] = []
            empty: list[int] = []
            for row, value in enumerate(self.columns[name]):
                text = _as_text(value)
                if text is None:
                    problems.append(
                        Problem(self.place(row), f"the column {quoted(name)} holds {quoted(value)}, expected text")
                    )
                    break
                texts[name].append(text)
                if not text.strip():
                    empty.append(row)
            if empty:
                problems.append(self.problem_of(empty, f"the column {quoted(name)} is empty"))
        if problems:
            raise DataError(problems)
        return texts

    def _no_column(self, name: str) -> str:
        columns = list(self.columns)
        told = f"no column {quoted(name)}{suggest(name, columns)}; its columns are {listed(columns, shortened)}"
        delimiter = next((d for d in ";\t|" if d in columns[0]), None) if len(columns) == 1 else None
        if delimiter:
            return f"{told}: is it separated by {delimiter!r}? Save it with commas, or with tabs as .tsv"
        return f"{told}; the first line of a CSV file names its columns" if self.lines and self.lines[0] > 1 else told

    def problem_of(self, rows: Sequence[int], what: str) -> Problem:
        """One problem for many rows that share a mistake: how many they are, and where the first stand."""
        if len(rows) == 1:
            return Problem(self.place(rows[0]), what)
        unit, numbers = ("lines", self.lines) if self.lines is not None else ("rows", range(1, len(self) + 1))
        shown = ", ".join(str(numbers[row]) for row in rows[:SHOWN])
        more = ", ..." if len(rows) > SHOWN else ""
        return Problem(self.place(rows[0]), f"{what} in {len(rows)} rows ({unit} {shown}{more})")


def listed(names: Sequence[str], show: Callable[[str], str] = quoted) -> str:
    """Names for a message, the first of them where there are many, none of them long."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(show(name) for name in names[:SHOWN_NAMES]) + more


def _as_text(value: Any) -> str | None:
    """A cell as text; the empty string where the value is missing, `None` where it is no text at all."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return None


def for_each(splits: Iterable[str], make: Callable[[str], T]) -> dict[str, T]:
    """What `make` gives for each split. Raises one `DataError` with the problems of all of them."""
    made: dict[str, T] = {}
    problems: list[Problem] = []
    for split in splits:
        try:
            made[split] = make(split)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return made
