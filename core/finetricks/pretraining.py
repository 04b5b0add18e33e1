"""A run without a task: the body of a model learns from text, by tricks that train weights before training begins.

A recipe that names a model and no data, and a trick whose `init` learns (`further_pretraining` on a corpus), comes to a
model folder without a head, from which other recipes go on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.distributed import Ranks
from finetricks.errors import InputError, Problem
from finetricks.folder import RunFolder
from finetricks.implementation import implementations
from finetricks.layers import find_layers
from finetricks.runner import Result, device
from finetricks.tasks.models import load_model, load_tokenizer, resolve_model, write_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetricks.layers import Layers
    from finetricks.recipe import Recipe

SAMPLE = ["a text", "another text"]
"""What the layers are found with."""


@dataclass(frozen=True)
class Subject:
    """What learns: the model with a head that is taken off again, and what comes with it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: Layers


def subject_of(recipe: Recipe, trust_remote_code: bool = False) -> Subject:
    """Load what a recipe without data trains.

    Raises:
        InputError: a trick acts elsewhere than on the weights, or the model cannot be loaded.
    """
    problems = [
        Problem(
            f"tricks.{name}",
            f"acts in training (its hooks: {', '.join(hooks)}), and a recipe without `data` only makes weights; leave "
            "it out, or name data",
        )
        for name, trick in recipe.tricks
        if (hooks := [one.hook for one in implementations(type(trick)) if one.hook != "init"])
    ]
    if problems:
        raise InputError(problems)
    name, trust = resolve_model(recipe.model or ""), trust_remote_code
    tokenizer = load_tokenizer(name, trust=trust)
    seed = recipe.streams.init
    # Tricks know models by their heads; this one has as many outputs as a head must have.
    model = load_model(
        name, kind="classification", labels=("0", "1"), seed=seed, pad_token_id=tokenizer.pad_token_id, trust=trust
    )
    sample = dict(tokenizer(SAMPLE, padding=True, return_tensors="pt"))
    return Subject(model, tokenizer, find_layers(model, sample, recipe.layers))


def pretrain(
    recipe: Recipe, out: str | Path, *, resume: bool = False, overwrite: bool = False, trust_remote_code: bool = False
) -> Result:
    """Make the weights that `recipe` asks for, and write the run's folder `out`; as `finetricks.run`.

    What a trick has learnt when it is killed is its own to keep: `further_pretraining` goes on from the cache.
    """
    folder, ranks = RunFolder(out), Ranks.current()
    ranks.of_first(lambda: folder.check(recipe, resume=resume, overwrite=overwrite))
    if resume and (done := ranks.of_first(folder.result)) is not None:
        return Result(**{**done, "notes": tuple(done["notes"])}, folder=folder.path)
    started = time.perf_counter()
    with ranks.together():
        subject = subject_of(recipe, trust_remote_code)
    ranks.of_first(lambda: folder.begin(recipe, resume=resume, ranks=ranks.size))
    model = subject.model.to(device())
    with ranks.together():
        recipe.stack().init(
            model, subject.layers, recipe.streams.init, tokenizer=subject.tokenizer, explicit_layers=recipe.layers
        )

    def write() -> Result:
        body: Any = model.base_model
        body.config.problem_type = None  # it has no head, and says no task
        write_model(body, subject.tokenizer, folder.model, max_length=subject.tokenizer.model_max_length)
        seconds = time.perf_counter() - started
        result = Result(valid={}, test=None, seconds=seconds, steps=0, notes=(), folder=folder.path)
        folder.write_result({key: value for key, value in vars(result).items() if key not in ("folder", "branched")})
        return result

    return ranks.of_first(write)
