"""Text to train a language model on, as tokens: the task's own, or a corpus in files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetricks import InputError
from finetricks.tasks.files import read_texts

AT_ONCE = 1000
"""How many texts are tokenised at a time."""


class Texts:
    """Tokenised texts: the tokens one after another, and where each text ends."""

    def __init__(self, texts: Iterable[Sequence[int]]) -> None:
        parts = [np.asarray(text, dtype=np.int32) for text in texts]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return self._tokens[start : self._ends[index]]

    @property
    def tokens(self) -> int:
        return len(self._tokens)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._ends.tobytes() + self._tokens.tobytes()).hexdigest()

    def batch(self, indices: Sequence[int], pad_id: int) -> tuple[Tensor, Tensor]:
        """The texts at `indices`, padded on the right: tokens and the mask of real ones, both [texts, tokens]."""
        chosen = [self[index] for index in indices]
        ids = torch.full((len(chosen), max(map(len, chosen))), pad_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(chosen):
            ids[row, : len(text)] = torch.from_numpy(text)
            mask[row, : len(text)] = 1
        return ids, mask


def pieces(text: Sequence[int], max_length: int) -> Iterator[Sequence[int]]:
    """A text in as few pieces of at most `max_length` tokens as will do, of about the same length."""
    count = -(-len(text) // max_length)
    bounds = [len(text) * piece // count for piece in range(count + 1)] if count else []
    return (text[start:end] for start, end in pairwise(bounds))


def texts_of_batches(batches: Iterable[Any], trick: str) -> Iterator[list[int]]:
    """The tokens of each row of the batches, without padding. Raises `InputError` for batches without `input_ids`."""
    for batch in batches:
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            raise InputError(
                f"{trick}: the task's text is read from the training batches, mappings with `input_ids` [rows, "
                f"tokens]; got {type(batch).__name__}. Give batches of that form, or a corpus"
            )
        mask = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids).bool()
        yield from (row[real].tolist() for row, real in zip(ids, mask, strict=True))


def texts_of_files(paths: Sequence[str], column: str, tokenizer: Any, trick: str) -> Iterator[list[int]]:
    """The tokens of each text in the files: a line, or a row's `column`.

    Raises:
        DataError: a file is missing, empty or malformed.
        InputError: there is no tokenizer.
    """
    if tokenizer is None:
        raise InputError(
            f"{trick}: a corpus is text, and here is no tokenizer to read it with: give "
            "recipe.bind(..., context={'tokenizer': tokenizer}), or processing_class=tokenizer to the Trainer"
        )
    texts = [text for path in paths for text in read_texts(path, column)]
    for start in range(0, len(texts), AT_ONCE):
        yield from tokenizer(texts[start : start + AT_ONCE], truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
