"""Rows of several tasks in one data set: put into it, and told apart in a batch again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetricks import Context, InputError
from finetricks_plugins.loss.other_tasks import Labelled

if TYPE_CHECKING:
    import datasets

TASK = "task"
"""The column that says whose row it is: 0 for the task's own, 1 for the first other one."""


def add_tasks(
    dataset: datasets.Dataset, others: Sequence[Labelled], rows: Sequence[Sequence[int]], context: Context, trick: str
) -> datasets.Dataset:
    """The task's rows, and below them `rows` of the others, tokenised and cut to the model's length.

    What is a label in the task is 0 in the others' rows; their own are in columns of one number each. Their
    `example_id` is negative.

    Raises:
        InputError: train is no tokenised data set, or there is no tokenizer.
    """
    from datasets import Dataset, Features, Value, concatenate_datasets

    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names or context.tokenizer is None:
        raise InputError(
            f"{trick} tokenises other data sets and puts their rows into a tokenised `datasets.Dataset`, with the "
            f"task's tokenizer; got a {type(dataset).__name__} and {'a' if context.tokenizer else 'no'} tokenizer "
            "(the Trainer's is `processing_class`)"
        )
    numbers = label_columns(max(len(other.labels[0]) for other in others))
    features = Features({**dataset.features, TASK: Value("int64")} | dict.fromkeys(numbers, Value("float64")))
    own = {TASK: [0] * len(dataset)} | {name: [0.0] * len(dataset) for name in numbers}
    parts = [Dataset.from_dict({**dataset.with_format(None)[:], **own}, features=features)]
    taken = -min([0, *dataset["example_id"][:]]) if "example_id" in dataset.column_names else 0
    blank = {name: _zero(dataset.with_format(None)[0][name]) for name in ("labels", "label") if name in features}
    for task, (other, chosen) in enumerate(zip(others, rows, strict=True), start=1):
        columns = _encoded(other, chosen, context)
        columns |= {name: [zero] * len(chosen) for name, zero in blank.items()}
        columns |= {TASK: [task] * len(chosen), "example_id": [-1 - taken - row for row in range(len(chosen))]}
        for index, name in enumerate(numbers):
            columns[name] = [other.labels[row][index] if index < len(other.labels[row]) else 0.0 for row in chosen]
        taken += len(chosen)
        empty = [None] * len(chosen)
        parts.append(Dataset.from_dict({name: columns.get(name, empty) for name in features}, features=features))
    return concatenate_datasets(parts)


def _encoded(other: Labelled, rows: Sequence[int], context: Context) -> dict[str, list[Any]]:
    """Texts and tokens of rows; the texts stand in the task's text columns as far as there are any."""
    from finetricks.tasks.encode import tokenize, truncate

    assert context.tokenizer is not None
    texts = [[column[row] for row in rows] for column in other.texts]
    encoded = tokenize({str(index): column for index, column in enumerate(texts)}, context.tokenizer, range(len(rows)))
    if context.max_length is not None:
        encoded = truncate(encoded, context.tokenizer, context.max_length)
    found = dict(zip(context.text_columns, texts, strict=False))
    columns: dict[str, list[Any]] = encoded[:]
    return {name: [""] * len(rows) for name in context.text_columns} | found | columns


def _zero(label: Any) -> Any:
    return [_zero(item) for item in label] if isinstance(label, list) else type(label)(0)


def label_columns(count: int) -> list[str]:
    """The columns of other tasks' labels: as many as the one with most labels at once has."""
    return [f"{TASK}_label_{index}" for index in range(count)]


def check_batch(batch: Any, trick: str) -> None:
    """Raise `InputError` for a batch that does not say whose its rows are."""
    if not isinstance(batch, Mapping) or TASK not in batch:
        raise InputError(
            f"{trick}: the training batches have no `{TASK}`, so that rows of other data sets are not among them. In a "
            "loop of your own let the recipe change the data set first (recipe.stack().data(train, 'train', "
            "recipe.streams.data, tokenizer=tokenizer)), and the collator keep the columns that it adds"
        )


def take_rows(value: Any, rows: Tensor, size: int) -> Any:
    """What belongs to `rows` of a micro-batch of `size` rows, in tensors and in mappings and tuples of them."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        return type(value)(**{name: take_rows(item, rows, size) for name, item in value.items()})
    if type(value) is tuple:
        return tuple(take_rows(item, rows, size) for item in value)
    return value


def labels_in(batch: Mapping[str, Any], count: int) -> Tensor:
    """Other tasks' labels: [rows, `count`]."""
    return torch.stack([batch[name] for name in label_columns(count)], dim=1)
