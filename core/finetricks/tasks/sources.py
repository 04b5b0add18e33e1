"""From the names in a recipe's `data` to the rows of train, valid and test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import DataError, Problem
from finetricks.settings import Data
from finetricks.tasks import stdlib_docstrings
from finetricks.tasks.files import READERS, read_table
from finetricks.tasks.table import Table, for_each

if TYPE_CHECKING:
    from finetricks.tasks.hub_dataset import HubDataset


def read_sources(data: Data) -> tuple[dict[str, Table], tuple[str, ...]]:
    """Read `train`, and `valid` and `test` where they are named (a share is drawn later).

    Returns:
        A table for each split, and notes for the user.

    Raises:
        DataError: what cannot be read, with every problem found.
    """
    given: dict[str, Table] = {}
    notes: tuple[str, ...] = ()
    hub: HubDataset | None = None
    if data.train == stdlib_docstrings.NAME:
        given["train"], notes = stdlib_docstrings.stdlib_docstrings()
    elif not _is_file(data.train):
        from finetricks.tasks.hub_dataset import HubDataset

        hub = HubDataset(data.train, data.subset)
        given["train"] = hub.table("train", "data.train")
    if data.subset is not None and hub is None:
        raise DataError(Problem("data.subset", f"only a Hugging Face data set has subsets, {data.train} has none"))
    named = {"train": data.train, "valid": data.valid, "test": data.test}
    names = {split: name for split, name in named.items() if isinstance(name, str)}
    missing = [split for split in names if split not in given]
    read = for_each(missing, lambda split: _read(names[split], f"data.{split}", hub))
    return given | read, notes


def _is_file(name: str) -> bool:
    return Path(name).suffix.lower() in READERS or os.path.isfile(name)


def _read(name: str, place: str, hub: HubDataset | None) -> Table:
    if _is_file(name):
        return read_table(name)
    if hub is None:
        raise DataError(
            Problem(place, f"no file {name!r}, and only a Hugging Face data set in data.train has splits to name")
        )
    return hub.table(name, place)
