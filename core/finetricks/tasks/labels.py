"""What is predicted: the kind of task, the names of the labels, and their encoding."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

from finetricks.errors import DataError, Problem, quoted, shortened
from finetricks.settings import Data
from finetricks.tasks.table import SHOWN, Table, listed

Kind = Literal["classification", "regression", "multi_label"]
Columns = Mapping[str, Sequence[str]]
"""The label columns as text."""

_NUMBER = re.compile(r"[^\S\x1c-\x1f]*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[^\S\x1c-\x1f]*")  # as `float` strips
_LIKE_A_NUMBER = re.compile(r"\s*[-+]?\d[\d.,' \u00a0\u202f]*([eE][-+]?\d+)?\s*")
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


def kind_of(data: Data, train: Columns) -> Kind:
    """The kind of task: what `data.kind` says, or else what the labels of train look like.

    Several columns make a multi-label task, numbers of which one has a decimal point a regression, and everything
    else a classification.

    Raises:
        DataError: `data.kind` does not go with the number of label columns.
    """
    several = len(data.label_columns) > 1
    if data.kind != "auto":
        if several and data.kind != "multi_label":
            raise DataError(
                Problem(
                    "data.kind", f"{data.kind} has one label column, but data.label names {len(data.label_columns)}"
                )
            )
        return data.kind
    if several:
        return "multi_label"
    values = train[data.label_columns[0]]
    numbers = all(_NUMBER.fullmatch(value) for value in values)
    return "regression" if numbers and any("." in value for value in values) else "classification"


def names_of(kind: Kind, train: Table, columns: Columns) -> tuple[str, ...]:
    """The names of the labels, in the order in which the model numbers them: none for a regression.

    Classes are sorted, as numbers when all of them are numbers; `01` and `1` are two classes. The labels of a
    multi-label task are its columns, in the recipe's order.

    Raises:
        DataError: all rows have the same label, so there is nothing to learn.
    """
    if all(len(set(values)) == 1 for values in columns.values()):
        same = ", ".join(f"{shortened(name)}={shortened(values[0])}" for name, values in columns.items())
        raise DataError(Problem(train.source, f"all {len(train)} rows have the same label ({same}): nothing to learn"))
    if kind == "regression":
        return ()
    if kind == "multi_label":
        return tuple(columns)
    classes = set(next(iter(columns.values())))
    if all(_NUMBER.fullmatch(name) for name in classes):
        return tuple(sorted(classes, key=lambda name: (float(name), name)))
    return tuple(sorted(classes))


def doubts(names: Sequence[str]) -> list[str]:
    """What someone may not have meant by these classes, a sentence each."""
    found = []
    odd = next((name for name in names if not _NUMBER.fullmatch(name)), None)
    if odd is not None and all(_LIKE_A_NUMBER.fullmatch(name) for name in names):
        found.append(
            f"the labels are taken for classes: {quoted(odd)} is no number as it is written (a decimal point, and "
            "nothing between thousands)"
        )
    alike: dict[Hashable, list[str]] = {}
    for name in names:
        alike.setdefault(_in_essence(name), []).append(name)
    several = [group for group in alike.values() if len(group) > 1]
    found += [f"the labels {' and '.join(map(quoted, group))} differ only in how they are written" for group in several]
    return found if len(found) <= SHOWN else [*found[:SHOWN], f"and {len(found) - SHOWN} more such labels"]


def _in_essence(name: str) -> Hashable:
    """A label without spaces, case and the forms of Unicode; of a number its value."""
    text = unicodedata.normalize("NFKC", name).strip().casefold()
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else text


def encode(
    kind: Kind, names: Sequence[str], table: Table, columns: Columns
) -> list[int] | list[float] | list[list[float]]:
    """Labels as the model takes them: a class number, a value, or a 0/1 value for each label.

    Raises:
        DataError: a label that train lacks, a value that is no number, or one that is not 0 or 1.
    """
    if kind == "multi_label":
        return [list(row) for row in zip(*_numbers(table, columns, _flag, "0 or 1"), strict=True)]
    if kind == "regression":
        return _numbers(table, columns, _number, "a number")[0]
    values = next(iter(columns.values()))
    index_of = {name: index for index, name in enumerate(names)}
    unknown = [row for row, value in enumerate(values) if value not in index_of]
    if unknown:
        lacking = sorted({values[row] for row in unknown})
        labels = "label" if len(lacking) == 1 else "labels"
        raise DataError(
            table.problem_of(unknown, f"train lacks the {labels} {listed(lacking)} (it has {listed(names)})")
        )
    return [index_of[value] for value in values]


def _flag(text: str) -> float | None:
    return _FLAGS.get(text.strip().lower())


def _number(text: str) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _numbers(table: Table, columns: Columns, parse: Callable[[str], float | None], expected: str) -> list[list[float]]:
    problems: list[Problem] = []
    numbers: list[list[float]] = []
    for name, values in columns.items():
        parsed = [parse(value) for value in values]
        wrong = [row for row, number in enumerate(parsed) if number is None]
        if wrong:
            what = f"the label column {name!r} holds {quoted(values[wrong[0]])}, expected {expected}"
            problems.append(table.problem_of(wrong, what))
        numbers.append([number for number in parsed if number is not None])
    if problems:
        raise DataError(problems)
    return numbers
