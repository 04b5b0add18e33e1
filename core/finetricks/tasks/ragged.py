"""Columns with a value a token, as Arrow keeps them: all values in a row, and how many each example has."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def values_of(dataset: datasets.Dataset, name: str) -> NDArray[Any]:
    """The values of a column, example after example, [tokens]."""
    column = dataset.select_columns([name]).with_format("arrow")[:][name]
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.zeros(0)])


def column_of(values: NDArray[Any], counts: NDArray[Any]) -> pa.Array:
    """The column of `values` [tokens], of which each example has as many as `counts` [examples] says."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if offsets[-1] > np.iinfo(np.int32).max:
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
