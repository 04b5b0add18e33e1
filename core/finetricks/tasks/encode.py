"""From texts to batches: tokenise everything, cut what is too long, pad to the longest of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from finetricks.errors import DataError, Problem
from finetricks.tasks.table import Table

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""The columns with a value a token, where the tokenizer gives them."""
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
    encoded = tokenizer(
        *(list(column) for column in texts.values()),
        truncation=False,
        padding=False,
        return_attention_mask=True,
        verbose=False,
    )
    columns: dict[str, Any] = {"example_id": list(example_ids), **texts}
    if labels is not None:
        columns["labels"] = list(labels)
    return datasets.Dataset.from_dict(columns | {name: encoded[name] for name in TOKENS if name in encoded})


def truncate(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Cut the examples that are longer than `max_length` tokens.

    Special tokens are kept; of the texts between them the beginnings, the longest text cut first.
    """
    ids = dataset["input_ids"][:]
    too_long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    if not too_long:
        return dataset
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    kept = {row: _kept([token in special for token in ids[row]], max_length) for row in too_long}
    columns = dataset.with_format(None)[:]
    for name in TOKENS:
        if name in columns:
            for row, positions in kept.items():
                columns[name][row] = [columns[name][row][position] for position in positions]
    return datasets.Dataset.from_dict(columns, features=dataset.features)


def _kept(special: Sequence[bool], max_length: int) -> list[int]:
    """The positions that are kept: all special tokens, and of each run of other tokens a beginning."""
    room = max_length - sum(special)
    if room <= 0:  # a text that is full of special tokens itself
        return [*range(max_length - 1), len(special) - 1]
    runs = [list(run) for is_special, run in groupby(range(len(special)), special.__getitem__) if not is_special]
    kept = [position for position, is_special in enumerate(special) if is_special]
    # From the shortest run to the longest each takes up to an even part of the room that is left.
    for left, run in zip(range(len(runs), 0, -1), sorted(runs, key=len), strict=True):
        beginning = run[: room // left]
        room -= len(beginning)
        kept += beginning
    return sorted(kept)


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
    names = [name for name in known if name in examples[0]]
    length = padding.length(max(len(example["input_ids"]) for example in examples))
    pad = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=length)
    return dict(pad([{name: example[name] for name in names} for example in examples]))
