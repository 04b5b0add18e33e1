"""Several recipes in one file, one after another: pretrain, then tune, then classify.

    steps:
      pretrain:
        model: bert-base-uncased
        tricks: [{further_pretraining: {text: in_domain, corpus: corpus.txt}}]
      classify:
        model: {step: pretrain}
        data: {train: train.csv}
        tricks: [stlr]

A step is a recipe, or the making of an LSTM (`new_lstm`). It may begin with the model of a step before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field, ValidationError

from finetricks.catalog import Catalog, installed
from finetricks.errors import InputError, Problem, RecipeError, quoted, suggest
from finetricks.recipe import KEYS, Recipe, determining
from finetricks.settings import Settings
from finetricks.trick import InputFiles
from finetricks.validation import problems_of
from finetricks.yaml_file import Document, load_yaml, override

STEPS, NEW_LSTM = "steps", "new_lstm"
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


class NewLSTM(Settings):
    """An untrained LSTM with a vocabulary of its own; the fields are those of `finetricks.lstm.create_lstm`."""

    corpus: InputFiles = Field(description="A file or several, whose words the vocabulary comes from.")
    column: str = Field(default="text", description="The text column of a corpus that is a table.")
    bidirectional: bool = Field(default=False, description="Read from the end, too (ELMo).")
    embedding_size: int = Field(default=400, ge=1, description="Width of the embeddings and of the last layer.")
    hidden_size: int = Field(default=1150, ge=1, description="Width of the other layers.")
    layers: int = Field(default=3, ge=1)
    drop_mult: float = Field(default=1.0, ge=0, description="Factor on all dropouts, which are those of a wide model.")
    vocabulary: int = Field(default=30_000, ge=6, description="Words at the most, five special tokens included.")
    min_frequency: int = Field(default=1, ge=1, description="How often a word stands in the corpus at the least.")
    lower_case: bool = True
    seed: int = Field(default=0, ge=0, description="The weights are drawn from it.")

    def create(self, folder: Path) -> Path:
        """Write the model to `folder`. Raises `InputError` for a corpus without a word."""
        from finetricks.lstm import create_lstm
        from finetricks.tasks.files import read_texts

        texts = [text for file in self.corpus for text in read_texts(file, self.column)]
        return create_lstm(folder, texts, **self.model_dump(exclude={"corpus", "column"}))


@dataclass(frozen=True)
class PipelineStep:
    """One step.

    Attributes:
        after: the step before it whose model it begins with; `None` for one that names a model, or makes one.
        work: what is done; of a recipe that begins with a step's model, `model` is only that step's name.
    """

    name: str
    after: str | None
    work: Recipe | NewLSTM

    def determining(self) -> dict[str, Any]:
        """What determines the step's result, as plain JSON values."""
        if isinstance(self.work, NewLSTM):
            return {NEW_LSTM: self.work.model_dump(mode="json")}
        resolved = determining(self.work.to_dict())
        return resolved if self.after is None else {**resolved, "model": {"step": self.after}}


@dataclass(frozen=True)
class Pipeline:
    """The steps of a file, in order."""

    steps: tuple[PipelineStep, ...]

    @classmethod
    def load(cls, path: str | Path, overrides: Any = (), catalog: Catalog | None = None) -> Pipeline:
        """Read a file of steps, with `steps.NAME.a.b=c` overrides on top.

        Raises:
            RecipeError: with everything that is wrong, each with its place.
        """
        document = override(load_yaml(path), overrides)
        return cls(_Reader(document, catalog or installed()).steps())

    @property
    def recipes(self) -> dict[str, Recipe]:
        return {step.name: step.work for step in self.steps if isinstance(step.work, Recipe)}

    @contextmanager
    def loadable(self, made: Mapping[str, Path] | None = None) -> Iterator[dict[str, Recipe]]:
        """Each step's recipe, for a model of the same structure that is there before the step before it has run.

        Args:
            made: the models of the steps that have run.
        """
        with TemporaryDirectory() as scratch:
            models = {name: str(path) for name, path in (made or {}).items()}
            recipes: dict[str, Recipe] = {}
            for step in self.steps:
                if isinstance(step.work, NewLSTM):
                    if step.name not in models:
                        models[step.name] = str(step.work.create(Path(scratch) / step.name))
                    continue
                recipe = step.work if step.after is None else step.work.with_model(models[step.after])
                recipes[step.name] = recipe
                models.setdefault(step.name, str(recipe.model))
            yield recipes


def holds_steps(content: Any) -> bool:
    """Whether a file with this content is one of steps."""
    return isinstance(content, Mapping) and STEPS in content


class _Reader:
    """Reads the steps, and notes every problem instead of stopping at the first."""

    def __init__(self, document: Document, catalog: Catalog) -> None:
        self.document = document
        self.catalog = catalog
        self.given: Any = document.data[STEPS]
        self.read: dict[str, PipelineStep] = {}

    def steps(self) -> tuple[PipelineStep, ...]:
        problems = [
            Problem(self.document.place((key,)), f"unknown key {quoted(key)}; a file of steps has the one key {STEPS}")
            for key in self.document.data
            if key != STEPS
        ]
        if not isinstance(self.given, Mapping) or not self.given:
            told = f"a mapping of names to recipes, in their order, got {quoted(self.given)}"
            raise RecipeError([*problems, Problem(self.document.place((STEPS,)), told)])
        for name in self.given:
            try:
                self.read[name] = self._step(name)
            except InputError as error:
                problems += error.problems
        if problems:
            raise RecipeError(problems)
        return tuple(self.read.values())

    def _error(self, message: str, *within: str) -> RecipeError:
        return RecipeError(Problem(self.document.place((STEPS, *within)), message))

    def _step(self, name: Any) -> PipelineStep:
        content = self.given[name]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            told = f"the step {quoted(name)} needs a name of letters, digits, - and _: its folder is called so"
            raise self._error(told)
        if not isinstance(content, Mapping):
            raise self._error(f"a recipe with the keys {', '.join(KEYS)}, got {quoted(content)}", name)
        document = self.document.at(STEPS).at(name)
        if NEW_LSTM in content:
            return PipelineStep(name, None, self._lstm(name, document))
        after = self._after(name, content.get("model"))
        if after is not None:  # a name in its place: the model itself is not there yet
            document = replace(document, data={**content, "model": after})
        recipe = Recipe.from_document(document, self.catalog)
        if recipe.model is None:
            raise self._error("names no model: a Hub name, a folder, or {step: NAME}", name)
        if recipe.data is None and not recipe.only_pretrains:
            told = "names no data, and no trick that learns from text of its own (further_pretraining with a corpus)"
            raise self._error(told, name)
        return PipelineStep(name, after, recipe)

    def _lstm(self, name: str, document: Document) -> NewLSTM:
        if others := [str(key) for key in document.data if key != NEW_LSTM]:
            told = f"{NEW_LSTM} makes a model and does no more; move {', '.join(others)} to a step after it"
            raise self._error(told, name)
        given = document.data[NEW_LSTM]
        if not isinstance(given, Mapping):
            told = f"a mapping with the keys {', '.join(NewLSTM.model_fields)}, got {quoted(given)}"
            raise self._error(told, name, NEW_LSTM)
        given_here = any(loc[:1] == (NEW_LSTM,) for loc in document.overrides)
        context = {"folder": Path.cwd() if given_here else document.folder, "must_exist": True}
        try:
            return NewLSTM.model_validate(dict(given), context=context)
        except ValidationError as error:
            raise RecipeError(problems_of(error, NewLSTM, given, (NEW_LSTM,), document.place)) from None

    def _after(self, name: str, model: Any) -> str | None:
        """The step whose model a step begins with."""
        if not isinstance(model, Mapping):
            return None
        if list(model) != ["step"] or not isinstance(before := model["step"], str):
            raise self._error(f"a model's name, or {{step: NAME}} of a step before, got {quoted(model)}", name, "model")
        if before not in self.given:
            told = f"no step {before!r}{suggest(before, map(str, self.given))}; the steps are {', '.join(self.given)}"
            raise self._error(told, name, "model")
        names = list(self.given)
        if names.index(before) >= names.index(name):
            what = "is this step itself" if before == name else "comes later"
            raise self._error(f"{before!r} {what}; a step begins with the model of one before it", name, "model")
        if before in self.read and isinstance(recipe := self.read[before].work, Recipe):
            stack = recipe.stack()
            if stack.changes_structure:
                built = ", ".join(sorted({*stack.implementing("build")} - {*stack.implementing("finish")}))
                told = f"{before!r} changes the model's structure ({built}), so that no other recipe can begin with it"
                raise self._error(f"{told}; leave that to the last step", name, "model")
        return before
