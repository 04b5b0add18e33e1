"""How many tokens each example has, without a look at the tokens themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow.compute as pc

from finetricks.errors import FinetricksError


def token_counts(dataset: datasets.Dataset) -> list[int]:
    """The number of `input_ids` of each example of a tokenised data set, in its order."""
    column = dataset.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"]
    counts: list[int] = pc.list_value_length(column).to_pylist()
    return counts


def lengths_of(loader: Any) -> list[int]:
    """The lengths by which the examples behind a loader of the user's can be grouped.

    Raises:
        FinetricksError: they cannot be told: the examples have no `input_ids`, or have to be computed one by one.
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, datasets.Dataset):
        if isinstance(dataset.features.get("input_ids"), (datasets.List, datasets.LargeList)):
            return token_counts(dataset)
    elif isinstance(dataset, Sequence) and all(isinstance(row, Mapping) and "input_ids" in row for row in dataset):
        return [len(row["input_ids"]) for row in dataset]
    raise FinetricksError(
        "training.group_by_length: the lengths of the examples are not known; give lengths=[...], a number for each "
        "example of loader.dataset, or a loader over a tokenised datasets.Dataset or a list of mappings with input_ids"
    )
