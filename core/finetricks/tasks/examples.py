"""The examples of each split, still as text: read, checked, their labels encoded, and the splits drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetricks.errors import DataError, Problem
from finetricks.settings import Data
from finetricks.tasks.labels import Kind, doubts, encode, kind_of, names_of
from finetricks.tasks.sources import read_sources
from finetricks.tasks.splits import draw_rows, draw_share
from finetricks.tasks.table import for_each, listed


@dataclass(frozen=True)
class Examples:
    """Examples of one source: `ids` are its rows, from 0; `texts` by column; `labels` as the model takes them."""

    ids: Sequence[int]
    texts: Mapping[str, Sequence[str]]
    labels: Sequence[Any]

    def without(self, rows: Iterable[int]) -> Examples:
        gone = set(rows)
        return self.take(row for row in range(len(self)) if row not in gone)

    def take(self, rows: Iterable[int]) -> Examples:
        rows = list(rows)
        return Examples(
            ids=[self.ids[row] for row in rows],
            texts={name: [column[row] for row in rows] for name, column in self.texts.items()},
            labels=[self.labels[row] for row in rows],
        )

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """What makes two examples equal: their texts."""
        return list(zip(*self.texts.values(), strict=True))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class LabelledData:
    """The splits `train`, `valid` and perhaps `test`, of one kind and with the same label names."""

    kind: Kind
    names: tuple[str, ...]
    splits: Mapping[str, Examples]
    notes: tuple[str, ...]


def read_examples(data: Data) -> LabelledData:
    """Read what `data` names. `valid` as a share comes first out of train, `rows` out of what is left.

    So the valid set is the same for any number of rows.

    Raises:
        DataError: with every problem found.
    """
    _check_columns(data)
    tables, notes = read_sources(data)
    texts = for_each(tables, lambda split: tables[split].texts(data.text_columns + data.label_columns))
    targets = for_each(tables, lambda split: {name: texts[split][name] for name in data.label_columns})
    kind = kind_of(data, targets["train"])
    names = names_of(kind, tables["train"], targets["train"])
    labels = for_each(tables, lambda split: encode(kind, names, tables[split], targets[split]))
    splits = {
        split: Examples(range(len(table)), {name: texts[split][name] for name in data.text_columns}, labels[split])
        for split, table in tables.items()
    }
    stratified = kind == "classification"
    if isinstance(data.valid, float):
        train = splits["train"]
        drawn = draw_share(train.keys, train.labels if stratified else None, data.valid, data.split_seed)
        splits |= {"train": train.without(drawn), "valid": train.take(drawn)}
    if data.rows is not None:
        train = splits["train"]
        strata = train.labels if stratified else None
        splits["train"] = train.take(draw_rows(strata, len(train), data.rows, data.split_seed))
    splits = {split: splits[split] for split in ("train", "valid", "test") if split in splits}
    return LabelledData(kind, names, splits, (*notes, *_notes(data, kind, names, splits)))


def _check_columns(data: Data) -> None:
    columns = data.text_columns + data.label_columns
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError([Problem("data", f"the column {name!r} is named twice in text and label") for name in twice])


def _notes(data: Data, kind: Kind, names: Sequence[str], splits: Mapping[str, Examples]) -> list[str]:
    notes: list[str] = []
    if data.kind == "auto" and kind == "regression":
        notes.append("the labels are numbers with decimals, so this is a regression; `data.kind` can say otherwise")
    if kind == "classification":
        notes += doubts(names)
    for split, examples in splits.items():
        if kind == "classification" and (absent := sorted(set(range(len(names))) - set(examples.labels))):
            notes.append(f"{split} has no example of {listed([names[index] for index in absent])}")
        shared = len(set(examples.keys) & set(splits["train"].keys)) if split != "train" else 0
        if shared:
            notes.append(f"{shared} texts of {split} stand in train too")
    return notes
