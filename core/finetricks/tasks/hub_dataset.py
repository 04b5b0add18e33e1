"""Hugging Face data sets: by name on the Hub, or a local folder of files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.csv.csv import CsvConfig
from huggingface_hub import is_offline_mode

from finetricks.errors import DataError, Problem, suggest
from finetricks.tasks.table import Table


class HubDataset:
    """A data set with named splits, as `datasets` reads it: of CSV it guesses types, so that 01 becomes the number 1.

    Raises:
        DataError: it does not exist, cannot be reached, or cannot be read.
    """

    def __init__(self, name: str, subset: str | None = None) -> None:
        self.name = Path(name).name if os.path.isdir(name) else name
        with _quiet(), _explained(name):
            self._splits = _load(name, subset)

    def table(self, split: str, place: str) -> Table:
        """The rows of a split; `place` is the setting that names it. Classes are given by name.

        Raises:
            DataError: there is no such split, or it has no rows.
        """
        if split not in self._splits:
            hint = suggest(split, self._splits)
            listed = ", ".join(self._splits)
            raise DataError(
                Problem(place, f"{self.name} has no split {split!r}{hint}; its splits are {listed} (a file works too)")
            )
        rows = self._splits[split]
        if not len(rows):
            raise DataError(Problem(place, f"the split {split!r} of {self.name} has no rows"))
        columns = {name: _values(rows, name) for name in rows.column_names}
        return Table(f"{self.name}/{split}", columns)


def _load(name: str, subset: str | None) -> Any:
    builder = datasets.load_dataset_builder(name, subset)
    if isinstance(builder.config, CsvConfig):
        # Or else the words "NA" and "null" would be taken for missing values.
        builder = datasets.load_dataset_builder(name, subset, keep_default_na=False)
    builder.download_and_prepare()
    return builder.as_dataset()


def _values(rows: Any, name: str) -> list[Any]:
    values = rows[name][:]
    feature = rows.features[name]
    if not isinstance(feature, datasets.ClassLabel):
        return list(values)
    # The hidden labels of a test split are -1 by custom.
    return [None if value is None or value < 0 else feature.int2str(value) for value in values]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        why = "offline: HF_HUB_OFFLINE=1 is set" if is_offline_mode() else "it looks offline"
        raise DataError(
            f"cannot load the data set {name!r}: no file or folder of that name, it is not in the cache, and the "
            f"Hugging Face Hub could not be reached ({why}). Check the name, or load it once with a network. {error}"
        ) from None
    except DatasetGenerationError as error:
        raise DataError(f"cannot read the data set {name!r}: {error.__cause__ or error}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the data set {name!r}: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    # Bars are for someone who watches.
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
