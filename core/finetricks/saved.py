"""What a finished run is good for: its model, loaded again, and the labels that it gives to new rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from transformers import AutoModelForSequenceClassification

from finetricks.errors import InputError, ModelError, Problem, RecipeError
from finetricks.folder import RECIPE, RunFolder
from finetricks.recipe import Recipe
from finetricks.settings import Data
from finetricks.streams import seeded
from finetricks.tasks.encode import Padding, added_columns, encode_rows, truncate
from finetricks.tasks.files import read_table
from finetricks.tasks.metrics import METRICS
from finetricks.tasks.models import REBUILT_WEIGHTS, head_of, load_config, load_saved, load_tokenizer
from finetricks.tasks.predictions import decide, score
from finetricks.validation import problems_of
from finetricks.yaml_file import Document

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from finetricks.catalog import Catalog


def load(
    folder: str | Path, catalog: Catalog | None = None, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a finished run, with the structure that its tricks gave it, and its tokenizer.

    Args:
        catalog: where the recipe's tricks are looked up; the installed ones by default.
        trust_remote_code: execute code that comes with the model.

    Raises:
        InputError: the folder holds no finished run with a model.
    """
    run = _finished(folder)
    written = run.recipe()
    return _load(run, _recipe(written, catalog), _columns(written), trust_remote_code)


def predict(
    folder: str | Path,
    file: str | Path,
    *,
    batch_size: int = 64,
    catalog: Catalog | None = None,
    trust_remote_code: bool = False,
) -> pd.DataFrame:
    """Label the rows of a file with a finished run's model, as it is.

    Returns:
        The file's columns, then `prediction` and a column `score:NAME` for each label.

    Raises:
        InputError: the folder holds no finished run with a model, or the file cannot be read or lacks a text column.
    """
    import pandas as pd

    run = _finished(folder)
    written = run.recipe()
    columns = _columns(written)
    recipe = _recipe(written, catalog)
    model, tokenizer = _load(run, recipe, columns, trust_remote_code)
    kind, labels = head_of(model.config)
    table = read_table(file)
    stack, about = recipe.stack(), _about(recipe, tokenizer, columns, model.config)
    rows = encode_rows(table, tokenizer, columns)
    dataset = stack.data(rows, "predict", recipe.streams.data, **about)
    added = added_columns(rows, dataset)
    if not stack.bounds_length:
        dataset = truncate(dataset, tokenizer, tokenizer.model_max_length)
    padding = Padding(recipe.training.pad_to_multiple_of, tokenizer.model_max_length)
    scores = score(model, dataset, tokenizer, kind=kind, batch_size=batch_size, added=added, padding=padding)
    given: dict[str, Any] = {**table.columns, "prediction": decide(scores, kind=kind, labels=labels)}
    return pd.DataFrame(given | {f"score:{name}": scores[:, index] for index, name in enumerate(labels)})


def _finished(folder: str | Path) -> RunFolder:
    run = RunFolder(folder)
    if not os.path.isfile(run.path / RECIPE):  # of a name that is too long, too
        raise InputError(f"{run.path} holds no run: it has no {RECIPE}")
    if run.result() is None:
        raise InputError(f"{run.path} holds no finished run with a model; finish it with --resume")
    if not run.model.is_dir():
        raise InputError(f"{run.path} holds a run that kept no model (a study's keep none); run its recipe again")
    return run


def _columns(written: dict[str, Any]) -> tuple[str, ...]:
    given = written.get("data")
    if given is None:
        raise InputError(
            "the run made weights for other recipes to begin with; its model has no head and labels nothing"
        )
    try:
        return Data.model_validate(given).text_columns
    except ValidationError as error:
        problems = problems_of(error, Data, given, ("data",), Document(written).place)
        raise RecipeError([Problem(f"{RECIPE} {problem.place}", problem.message) for problem in problems]) from None


def _recipe(written: dict[str, Any], catalog: Catalog | None) -> Recipe:
    """What the run did to its model. The files that it was trained on need not be there any more."""
    return Recipe(
        tricks=written.get("tricks") or (), training=written["training"], layers=written.get("layers"), catalog=catalog
    )


def _load(
    run: RunFolder, recipe: Recipe, columns: tuple[str, ...], trust: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    stack = recipe.stack()
    if not stack.changes_structure:
        return load_saved(run.model, trust=trust)
    # What tricks built into the model and did not take off again is built in afresh, and then given the weights.
    tokenizer = load_tokenizer(str(run.model), trust=trust)
    config = load_config(str(run.model), trust=trust)
    with seeded(0):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust)
    model = stack.build(model, recipe.streams.init, **_about(recipe, tokenizer, columns, config))
    stack.finish(model)  # what the run took off, before it wrote its weights
    try:
        load_weights(model, run.model / REBUILT_WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{run.model / REBUILT_WEIGHTS} does not hold this model's weights: {error}") from None
    return model.eval(), tokenizer


def _about(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, columns: tuple[str, ...], config: PretrainedConfig
) -> dict[str, Any]:
    """What tricks are told of the task, in `Context`: what the run told them."""
    kind, labels = head_of(config)
    return {
        "tokenizer": tokenizer,
        "max_length": tokenizer.model_max_length,
        "text_columns": columns,
        "explicit_layers": recipe.layers,
        "labels": labels,
        "metrics": METRICS[kind],
    }
