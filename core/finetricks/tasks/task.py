"""A task: the data, the tokenizer and the model that a recipe names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from finetricks.errors import DataError, InputError, ModelError, Problem, RecipeError
from finetricks.lengths import token_counts
from finetricks.settings import Data
from finetricks.tasks.encode import TOKENS, tokenize
from finetricks.tasks.examples import LabelledData, read_examples
from finetricks.tasks.labels import Kind
from finetricks.tasks.models import empty_model, load_config, load_model, load_tokenizer, max_positions, resolve_model
from finetricks.tasks.ragged import values_of

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MAX_LENGTH = 512
"""Tokens of an example where neither the model nor its tokenizer sets a limit."""

_NO_LIMIT = 10**9  # a tokenizer that sets no limit says 10**30


@dataclass(frozen=True)
class Task:
    """What is being learnt, ready to be trained on.

    Attributes:
        kind: `classification`, `regression` or `multi_label`.
        labels: names in the order of the model's outputs; none for a regression.
        splits: `train`, `valid`, and `test` if there is one: tokenised, not cut to `max_length`. The columns are those
            of `finetricks.tasks.encode.tokenize`; `example_id` is the row in the file or split it came from, from 0.
        tokenizer: with a padding token.
        model_name: the model's folder, or its name on the Hub.
        max_length: tokens of an example that the model will see, special tokens included.
        text_columns: one, or two for pairs.
        fingerprint: SHA-256 of what is learnt from: kind, labels, and every split as it is tokenised.
        notes: what the user should know, a sentence each.
        trust_remote_code: whether code that comes with the model is executed.
    """

    kind: Kind
    labels: tuple[str, ...]
    splits: Mapping[str, datasets.Dataset]
    tokenizer: PreTrainedTokenizerBase
    model_name: str
    max_length: int
    text_columns: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]
    trust_remote_code: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a tokenizer whose code comes with the model can only be loaded there, not unpickled."""
        return vars(self) | ({"tokenizer": None} if self.trust_remote_code else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["tokenizer"] is None:
            state = state | {"tokenizer": load_tokenizer(state["model_name"], trust=True)}
        vars(self).update(state)

    def with_length(self, max_length: int | None, *, named: str | None = None) -> Task:
        """The same task, seen through another length; the tokens are shared.

        Args:
            max_length: as in `load_task`.
            named: what errors call the model; its name by default.

        Raises:
            RecipeError: `max_length` does not fit the model.
        """
        name, trust = self.model_name, self.trust_remote_code
        positions = max_positions(empty_model(name, load_config(name, trust=trust), trust=trust))
        special = self.tokenizer.num_special_tokens_to_add(len(self.text_columns) == 2)
        length = _fit_length(max_length, positions, self.tokenizer, named or name, special)
        return replace(self, max_length=length)

    def model(self, seed: int) -> PreTrainedModel:
        """A fresh model with a head for this task, whose new weights are drawn from `seed`. Raises `ModelError`."""
        return load_model(
            self.model_name,
            kind=self.kind,
            labels=self.labels,
            seed=seed,
            pad_token_id=self.tokenizer.pad_token_id,
            trust=self.trust_remote_code,
        )


def load_task(model: str, data: Data, *, max_length: int | None = None, trust_remote_code: bool = False) -> Task:
    """Read and split the data, and tokenise them for a model. Loads no weights.

    Args:
        model: a packaged model's name, a local folder, or a name on the Hub.
        data: which data, and which column is what.
        max_length: tokens of an example; by default as many as the model and its tokenizer are made for.
        trust_remote_code: execute code that comes with the model.

    Raises:
        DataError: the data cannot be read or used, with every problem found.
        ModelError: the model does not exist, cannot be reached, or cannot classify.
        InputError: both, with the problems of both.
        RecipeError: `max_length` does not fit the model.
    """
    trust = trust_remote_code
    try:
        name = resolve_model(model)
        positions = max_positions(empty_model(name, load_config(name, trust=trust), trust=trust))
        tokenizer = load_tokenizer(name, trust=trust)
    except ModelError as of_model:
        try:
            read_examples(data)
        except DataError as of_data:
            raise InputError([*of_model.problems, *of_data.problems]) from None
        raise
    examples = read_examples(data)
    pair = len(data.text_columns) == 2
    length = _fit_length(max_length, positions, tokenizer, model, special=tokenizer.num_special_tokens_to_add(pair))
    splits = {split: tokenize(part.texts, tokenizer, part.ids, part.labels) for split, part in examples.splits.items()}
    return Task(
        kind=examples.kind,
        labels=examples.names,
        splits=splits,
        tokenizer=tokenizer,
        model_name=name,
        max_length=length,
        text_columns=data.text_columns,
        fingerprint=_fingerprint(examples, tokenizer, splits),
        notes=examples.notes,
        trust_remote_code=trust,
    )


def _fit_length(
    wanted: int | None, positions: int | None, tokenizer: PreTrainedTokenizerBase, model: str, special: int
) -> int:
    """Tokens of an example. Positions bind; what a tokenizer says is only a default, which a setting may exceed."""
    if wanted is None:
        limits = [limit for limit in (positions, tokenizer.model_max_length) if limit is not None and limit < _NO_LIMIT]
        return int(min(limits, default=DEFAULT_MAX_LENGTH))
    place = "training.max_length"
    if positions is not None and wanted > positions:
        raise RecipeError(Problem(place, f"{wanted}, but {model} sees at most {positions} tokens; ask for no more"))
    if wanted <= special:
        raise RecipeError(
            Problem(place, f"{wanted}, but {special} of an example's tokens are special ones; ask for more")
        )
    return wanted


def _fingerprint(
    examples: LabelledData, tokenizer: PreTrainedTokenizerBase, splits: Mapping[str, datasets.Dataset]
) -> str:
    content = hashlib.sha256()

    def add(value: object) -> None:
        content.update(json.dumps(value, ensure_ascii=True).encode() + b"\n")

    add([examples.kind, examples.names, len(tokenizer), tokenizer.all_special_tokens, tokenizer.all_special_ids])
    for split, dataset in sorted(splits.items()):
        for name in sorted(dataset.column_names):
            if name in TOKENS:
                add([split, name, token_counts(dataset)])
                content.update(np.ascontiguousarray(values_of(dataset, name), "<i4").tobytes())
            else:
                add([split, name, dataset[name][:]])
    return content.hexdigest()
