"""What a finished run is good for: its model, loaded again, and the labels it gives to new rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import InputError
from finetricks.folder import RECIPE, RunFolder
from finetricks.recipe import Recipe
from finetricks.tasks import load_saved

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetricks.catalog import Catalog


def load(folder: str | Path, catalog: Catalog | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a finished run, with the structure that its tricks gave it, and its tokenizer.

    Raises:
        InputError: the folder holds no finished run with a model.
    """
    raise NotImplementedError(load_saved, Recipe, RunFolder, RECIPE, InputError, pd)
