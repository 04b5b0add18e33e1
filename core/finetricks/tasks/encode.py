"""From texts to batches: tokenise everything, cut what is too long, pad to the longest of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from finetricks.errors import DataError, Problem
from finetricks.lengths import token_counts
from finetricks.tasks.ragged import column_of, values_of
from finetricks.tasks.table import Table

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""The columns with a value a token, where the tokenizer gives them."""
_TYPES = {"input_ids": np.int32, "attention_mask": np.int8, "token_type_ids": np.int8}

ROWS_AT_ONCE = 1000
"""Texts that a tokenizer is given at a time: enough to keep its threads busy."""

RESERVED = (*TOKENS, "labels", "example_id")


@dataclass(frozen=True)
class Padding:
    """How long a batch is: its longest example, rounded up to a multiple.

    Attributes:
        multiple: tokens. Fewer different lengths, so that kernels find shapes that they know, and a frozen layer's
            states for an example are, to the last bit, those of fewer kinds of batch.
        limit: beyond which nothing is rounded up: the length that the model is given at most.
    """

    multiple: int = 1
    limit: int | None = None

    def length(self, longest: int) -> int:
        rounded = -(-longest // self.multiple) * self.multiple
        return max(longest, rounded if self.limit is None else min(rounded, self.limit))


NO_MORE = Padding()
"""To the longest example of a batch."""


def encode_rows(table: Table, tokenizer: PreTrainedTokenizerBase, text_columns: Sequence[str]) -> datasets.Dataset:
    """Tokenise rows without labels; an example's `example_id` is its row, from 0.

    Raises:
        DataError: a text column is missing, or has values that are missing, blank or not text.
    """
    return tokenize(table.texts(text_columns), tokenizer, range(len(table)))


def tokenize(
    texts: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    example_ids: Sequence[int],
    labels: Sequence[Any] | None = None,
) -> datasets.Dataset:
    """Tokenise one text column, or two as pairs, with special tokens and without cutting anything.

    Returns:
        A data set in memory: `example_id`, the texts, `labels` if given, and what the tokenizer gives of `TOKENS`.

    Raises:
        DataError: a text column has a name that the model's own columns need.
    """
    if taken := [name for name in texts if name in RESERVED]:
        raise DataError(Problem("data.text", f"the name {taken[0]!r} is the model's own; rename the column"))
    columns: dict[str, Any] = {"example_id": list(example_ids), **texts}
    if labels is not None:
        columns["labels"] = list(labels)
    tokens = _Tokens()
    for start in range(0, len(example_ids), ROWS_AT_ONCE):
        part = (list(column[start : start + ROWS_AT_ONCE]) for column in texts.values())
        tokens.add(tokenizer(*part, truncation=False, padding=False, return_attention_mask=True, verbose=False))
    return datasets.Dataset.from_dict(columns | tokens.columns())


class _Tokens:
    """What a tokenizer gave, packed batch by batch: as lists it would take twenty times the memory."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._values: dict[str, list[NDArray[Any]]] = {}

    def add(self, encoded: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self._counts += map(len, encoded["input_ids"])
        for name in TOKENS:
            if name in encoded:
                values = np.fromiter(chain.from_iterable(encoded[name]), _TYPES[name])
                self._values.setdefault(name, []).append(values)

    def columns(self) -> dict[str, pa.Array]:
        counts = np.array(self._counts)
        return {name: column_of(np.concatenate(values), counts) for name, values in self._values.items()}


def truncate(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Cut the examples that are longer than `max_length` tokens.

    Special tokens are kept; of the texts between them the beginnings, the longest text cut first.
    """
    counts = np.array(token_counts(dataset))
    too_long = np.flatnonzero(counts > max_length)
    if not len(too_long):
        return dataset
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    kept = _kept(np.isin(values_of(dataset, "input_ids"), list(special)), counts, too_long, max_length)
    left = np.minimum(counts, max_length)
    table = dataset.with_format("arrow")[:]
    for name in TOKENS:
        if name in table.column_names:
            field = table.schema.field(name)
            column = column_of(values_of(dataset, name)[kept], left).cast(field.type)
            table = table.set_column(table.schema.get_field_index(name), field, column)
    return datasets.Dataset.from_dict({name: table[name] for name in table.column_names}, features=dataset.features)


def _kept(special: NDArray[Any], counts: NDArray[Any], too_long: NDArray[Any], max_length: int) -> NDArray[Any]:
    """Which tokens are kept: all special ones, and of each run of other tokens a beginning.

    Args:
        special: [tokens] of all examples, one after the other.
        counts: tokens of each example.
        too_long: the examples that are cut; the others are kept as they are.
    """
    ends = np.cumsum(counts)
    starts = ends - counts
    first = np.zeros(len(special), bool)
    first[starts[counts > 0]] = True
    before = np.concatenate([[True], special[:-1]]) | first
    after = np.concatenate([special[1:], [True]]) | np.concatenate([first[1:], [True]])
    run_starts, run_ends = np.flatnonzero(~special & before), np.flatnonzero(~special & after) + 1
    specials = np.concatenate([[0], np.cumsum(special)])
    rooms = max_length - (specials[ends] - specials[starts])
    of_row = np.searchsorted(run_starts, starts), np.searchsorted(run_starts, ends)
    changes = np.zeros(len(special) + 1, np.int64)  # +1 where a stretch that is dropped begins, -1 where it ends
    for row in too_long.tolist():
        if rooms[row] <= 0:  # a text that is full of special tokens itself
            changes[starts[row] + max_length - 1] += 1
            changes[ends[row] - 1] -= 1
            continue
        runs = [(int(run_starts[run]), int(run_ends[run])) for run in range(of_row[0][row], of_row[1][row])]
        for start, end in _dropped(runs, int(rooms[row])):
            changes[start] += 1
            changes[end] -= 1
    dropped: NDArray[Any] = np.cumsum(changes[:-1]) > 0
    return ~dropped


def _dropped(runs: Sequence[tuple[int, int]], room: int) -> Iterator[tuple[int, int]]:
    """The ends of an example's runs that are dropped, so that no more than `room` tokens are left of all of them."""
    # From the shortest run to the longest each takes up to an even part of the room that is left.
    for left, (start, end) in zip(range(len(runs), 0, -1), sorted(runs, key=lambda run: run[1] - run[0]), strict=True):
        taken = min(room // left, end - start)
        room -= taken
        yield start + taken, end


def loader(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    *,
    shuffle: bool = False,
    added: Sequence[str] = (),
    padding: Padding = NO_MORE,
) -> DataLoader[Any]:
    """Batches of a tokenised data set; the last one may be short.

    They hold the columns that the model takes, and those that tricks `added`: a number an example.
    """
    columns = [name for name in (*TOKENS, "labels", *added) if name in dataset.column_names]
    collate = collator(tokenizer, added, padding)
    return DataLoader(dataset.select_columns(columns), batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


def added_columns(before: datasets.Dataset, after: datasets.Dataset) -> tuple[str, ...]:
    """The columns of one number an example that tricks added to a data set."""
    return tuple(
        name
        for name, feature in after.features.items()
        if name not in before.column_names and getattr(feature, "dtype", "").startswith(("int", "float", "bool"))
    )


def collator(
    tokenizer: PreTrainedTokenizerBase, added: Sequence[str] = (), padding: Padding = NO_MORE
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
    """Makes a batch of examples, as long as `padding` says.

    The batch holds `input_ids`, `attention_mask`, `token_type_ids` where there are any ([examples, tokens], long), and
    `labels` ([examples] long for classes, [examples] float for values, [examples, labels] float for several labels).
    """
    return partial(_collate, tokenizer, padding, (*TOKENS, "labels", *added))


def _collate(
    tokenizer: PreTrainedTokenizerBase,
    padding: Padding,
    known: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, torch.Tensor]:
    counts = [len(example["input_ids"]) for example in examples]
    length = padding.length(max(counts))
    left = tokenizer.padding_side == "left"
    spans = [slice(length - count, length) if left else slice(count) for count in counts]
    fills = dict(zip(TOKENS, (tokenizer.pad_token_id, 0, tokenizer.pad_token_type_id), strict=True))
    batch = {}
    for name in known:
        if name not in examples[0]:
            continue
        values = [example[name] for example in examples]
        if name in fills:
            rows = np.full((len(examples), length), fills[name], np.int64)
            for row, span, own in zip(rows, spans, values, strict=True):
                row[span] = own
            batch[name] = torch.from_numpy(rows)
        else:
            batch[name] = torch.tensor(values)
    return batch
