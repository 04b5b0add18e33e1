"""Other labelled data sets to train on beside the task's own: what names them, their rows, and how many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetricks import InputFile
from finetricks.settings import Data
from finetricks_plugins.loss.targets import Problem

Sampling = Literal["size", "temperature", "equal"]

PROBLEMS: Mapping[str, Problem] = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


class OtherTask(BaseModel):
    """A labelled data set: the conventions are those of a recipe's `data`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: InputFile = Field(description="A file (.csv, .tsv, .jsonl, .parquet); all its rows are trained on.")
    text: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = Field(
        default="text", description="One text column, or two for sentence pairs."
    )
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="label", description="The label column; several 0/1 columns make a multi-label task."
    )
    kind: Literal["auto", "classification", "regression", "multi_label"] = Field(
        default="auto", description="auto: regression for labels with decimals, multi_label for several columns."
    )

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        data = self.as_data
        columns = data.text_columns + data.label_columns
        if len(set(columns)) < len(columns):
            raise ValueError(f"a column is named twice in text and label: {', '.join(columns)}")
        if len(data.label_columns) > 1 and self.kind not in ("auto", "multi_label"):
            raise ValueError(f"{self.kind} has one label column, but label names {len(data.label_columns)}")
        return self

    @property
    def as_data(self) -> Data:
        return Data.model_validate({name: _listed(value) for name, value in self})


@dataclass(frozen=True)
class Labelled:
    """The examples of a data set.

    Attributes:
        outputs: of a head for it.
        texts: one column, or two.
        labels: [examples][numbers]: a class, a value, or a 0/1 value for each label.
    """

    problem: Problem
    outputs: int
    texts: tuple[Sequence[str], ...]
    labels: Sequence[Sequence[float]]


def read_task(task: OtherTask) -> Labelled:
    """Read a data set, its labels encoded as those of a task are. Raises `DataError`."""
    from finetricks.tasks.files import read_table
    from finetricks.tasks.labels import encode, kind_of, names_of

    data, table = task.as_data, read_table(task.train)
    columns: Mapping[str, Sequence[str]] = table.texts(data.text_columns + data.label_columns)
    targets = {name: columns[name] for name in data.label_columns}
    kind = kind_of(data, targets)
    names = names_of(kind, table, targets)
    labels = [label if isinstance(label, list) else [label] for label in encode(kind, names, table, targets)]
    return Labelled(
        problem=PROBLEMS[kind],
        outputs=len(names) or 1,
        texts=tuple(columns[name] for name in data.text_columns),
        labels=labels,
    )


def rows_of_each(own: int, others: Sequence[int], sampling: Sampling, temperature: float) -> list[int]:
    """How many rows of each other data set stand beside `own` rows of the task; `others` are their sizes.

    n rows of a set become own * (n / own) ** (1 / temperature): n at temperature 1 (`size`), and as many as the task
    has at an infinite one (`equal`).
    """
    exponent = {"size": 1.0, "temperature": 1 / temperature, "equal": 0.0}[sampling]
    return [max(round(own * (size / own) ** exponent), 1) for size in others]


def draw(size: int, wanted: int, seed: int) -> list[int]:
    """Draw `wanted` of `size` rows: all of them as often as they fit, and a random part of them once more."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    return [*range(size)] * (wanted // size) + sorted(random.permutation(size)[: wanted % size].tolist())


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
