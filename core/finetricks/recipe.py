"""What one run uses: its tricks with their values, and the training settings. Checked as a whole (rule 10)."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from finetricks.catalog import Catalog, UnknownTrick, installed
from finetricks.errors import Problem, RecipeError, ends_program, in_words, quoted, shortened, suggest
from finetricks.settings import Data, Training
from finetricks.stack import Named, Stack, conflicts
from finetricks.streams import Streams
from finetricks.trick import Trick, texts
from finetricks.validation import at, problems_of
from finetricks.yaml_file import Document, Loc, dump_yaml, load_yaml, override

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from finetricks.session import Session

PATH_MAX = 500  # characters of a path that an error shows
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
M = TypeVar("M", bound=BaseModel)
KEYS = ("model", "data", "training", "tricks", "layers")


class Recipe:
    """The tricks and settings of one run, immutable.

    `Recipe(tricks=["stlr", {"discriminative_lr": {"decay": 2.6}}, MyTrick()])` in Python; `Recipe.load(file)` for
    YAML. A recipe that names no model and no data is one for a model and a loader of your own.

    Args:
        model: a Hub name, a local folder, or a packaged model (`minilm`).
        data: a `Data`, or a mapping of its fields.
        training: a `Training`, or a mapping of its fields.
        tricks: names, one-key mappings of a name to its values, or `Trick` instances.
        layers: layer names to prefixes of module names, for a model whose order cannot be told.
        catalog: where names are looked up; the installed tricks by default.

    Raises:
        RecipeError: with everything that is wrong, each with its place.
    """

    model: str | None
    data: Data | None
    training: Training
    tricks: tuple[Named, ...]
    layers: dict[str, list[str]] | None

    def __init__(
        self,
        *,
        model: str | None = None,
        data: Data | Mapping[str, Any] | None = None,
        training: Training | Mapping[str, Any] | None = None,
        tricks: Iterable[str | Mapping[str, Any] | Trick] = (),
        layers: Mapping[str, Sequence[str]] | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        given = {"model": model, "data": data, "training": training, "tricks": list(tricks), "layers": layers}
        self._fill(
            Document({key: value for key, value in given.items() if value is not None}),
            catalog or installed(),
        )

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = (), catalog: Catalog | None = None) -> Recipe:
        """Read a recipe from a YAML file, with `a.b=c` overrides on top. Relative paths are relative to the file."""
        return cls.from_document(override(load_yaml(path), overrides), catalog)

    @classmethod
    def from_document(cls, document: Document, catalog: Catalog | None = None) -> Recipe:
        """A recipe from YAML that has been read already; its errors name the document's lines."""
        recipe = cls.__new__(cls)
        recipe._fill(document, catalog or installed())
        return recipe

    def _fill(self, document: Document, catalog: Catalog) -> None:
        given = {} if document.data is None else document.data
        if not isinstance(given, Mapping):
            raise RecipeError(Problem(document.place(()), f"a recipe is a mapping with the keys {', '.join(KEYS)}"))
        problems = [
            Problem(
                document.place((key,)),
                f"unknown key {quoted(key)}{suggest(str(key), KEYS)}; the keys are {', '.join(KEYS)}",
            )
            for key in given
            if key not in KEYS
        ]
        reader = _Reader(document, catalog, problems)
        self.model = reader.model(given.get("model"))
        self.data = reader.data(given.get("data"))
        self.training = reader.block("training", Training, given.get("training") or {}) or Training()
        self.tricks = reader.tricks(given.get("tricks"))
        self.layers = reader.layers(given.get("layers"))
        self.catalog = catalog
        if problems:
            raise RecipeError(problems)

    # -- what it says ------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The seeds of the run's three random streams."""
        t = self.training
        return Streams.derive(t.seed, init=t.init_seed, data=t.data_seed, dropout=t.dropout_seed)

    @property
    def only_pretrains(self) -> bool:
        """Whether it names a model and no data, and a trick that trains weights from text of its own."""
        return self.model is not None and self.data is None and any(trick.learns for _, trick in self.tricks)

    def with_model(self, model: str) -> Recipe:
        """The same recipe for another model. Raises `RecipeError` for one that cannot be used."""
        return Recipe(**{**self.to_dict(), "model": model}, catalog=self.catalog)

    def stack(self) -> Stack:
        """The recipe's tricks, composed afresh."""
        return Stack(self.tricks)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every default filled in, paths absolute; `Recipe(**...)` reads it back."""
        resolved: dict[str, Any] = {}
        if self.model is not None:
            resolved["model"] = self.model
        if self.data is not None:
            resolved["data"] = self.data.model_dump(mode="json")
        resolved["training"] = self.training.model_dump(mode="json")
        resolved["tricks"] = [{name: trick.model_dump(mode="json")} for name, trick in self.tricks]
        if self.layers is not None:
            resolved["layers"] = self.layers
        return resolved

    def to_yaml(self) -> str:
        return dump_yaml(self.to_dict())

    @property
    def fingerprint(self) -> str:
        """A hash of all that determines the run's result; what a checkpoint must agree with."""
        text = json.dumps(determining(self.to_dict()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    # -- what it is used for -----------------------------------------------------------------------------

    def bind(self, model: nn.Module, loader: Iterable[Any], **options: Any) -> Session:
        """Bind the recipe to a model and a loader of your own; see `finetricks.Session.bind` for the options."""
        from finetricks.session import Session

        return Session.bind(self, model, loader, **options)

    def training_arguments(self, output_dir: str | Path, **more: Any) -> TrainingArguments:
        """`transformers.TrainingArguments` that match the recipe's training settings; `more` goes on top."""
        from finetricks.arguments import training_arguments

        return training_arguments(self.training, output_dir, **more)


def determining(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved recipe determines the run's result: all but how often the run is saved."""
    kept = {key: value for key, value in resolved["training"].items() if key != "checkpoint"}
    return {**resolved, "training": kept}


def with_training(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with other settings of training, which are not checked."""
    changed = copy.copy(recipe)
    changed.training = recipe.training.model_copy(update=settings)
    return changed


class _Reader:
    """Reads the blocks of a recipe, and notes every problem instead of stopping at the first."""

    def __init__(self, document: Document, catalog: Catalog, problems: list[Problem]) -> None:
        self.document = document
        self.catalog = catalog
        self.problems = problems

    def note(self, loc: Loc, message: str) -> None:
        self.problems.append(Problem(self.document.place(loc), message))

    def block(self, key: str, kind: type[M], given: Any) -> M | None:
        if isinstance(given, kind):
            return given
        if not isinstance(given, Mapping):
            self.note((key,), f"a mapping with the keys {', '.join(kind.model_fields)}, got {quoted(given)}")
            return None
        try:
            return kind.model_validate(dict(given))
        except ValidationError as error:
            self.problems.extend(problems_of(error, kind, given, (key,), self.document.place))
            return None

    def model(self, given: Any) -> str | None:
        if given is None:
            return None
        if not isinstance(given, str) or not given.strip():
            self.note(("model",), f"a Hub name, a local folder, or a packaged model (minilm), got {quoted(given)}")
            return None
        folder = self._folder(("model",)) / os.path.expanduser(given)
        if os.path.isdir(folder):  # of a name that is too long, too
            return os.path.realpath(folder)
        if given.startswith((".", "/", "~")):
            self.note(("model",), f"no such folder: {shortened(str(folder), PATH_MAX)}")
        return given

    def data(self, given: Any) -> Data | None:
        if given is None:
            return None
        if isinstance(given, Data):
            given = given.model_dump()
        if isinstance(given, Mapping):
            given = {key: self._source(key, value) for key, value in given.items()}
        return self.block("data", Data, given)

    def _source(self, key: str, value: Any) -> Any:
        if key not in ("train", "valid", "test") or not isinstance(value, str):
            return value
        if not value.strip():
            self.note(("data", str(key)), "is empty: name a file, or a data set")
            return value
        path = self._folder(("data", key)) / os.path.expanduser(value)
        if os.path.isdir(path):
            return os.path.realpath(path)
        if os.path.exists(path):  # by its own name: what a link points to may have none that says its kind
            return os.path.join(os.path.realpath(path.parent), path.name)
        if value.lower().endswith(DATA_SUFFIXES) or value.startswith((".", "/", "~")):
            self.note(("data", key), f"no such file: {shortened(str(path), PATH_MAX)}")
        return value

    def _folder(self, loc: Loc) -> Path:
        # What is given on the command line is relative to where the command is run.
        given_there = any(loc[: len(o)] == o for o in self.document.overrides)
        return Path.cwd() if given_there else self.document.folder

    def tricks(self, given: Any) -> tuple[Named, ...]:
        if given is None:
            return ()
        if not isinstance(given, Sequence) or isinstance(given, str):
            self.note(("tricks",), f"a list such as [stlr, {{warmup: {{steps: 10}}}}], got {quoted(given)}")
            return ()
        found = [named for index, entry in enumerate(given) if (named := self._trick(index, entry))]
        for problem in conflicts(found):
            self.problems.append(Problem(self.document.place(("tricks",)), str(problem)))
        return tuple(found)

    def _trick(self, index: int, entry: Any) -> Named | None:
        if isinstance(entry, Trick):
            return self._given(index, entry)
        if isinstance(entry, Mapping) and len(entry) == 1:
            name, values = next(iter(entry.items()))
        else:
            name, values = entry, None
        if not isinstance(name, str) or not (values is None or isinstance(values, Mapping)):
            self.note(
                ("tricks", index, name) if isinstance(name, str) else ("tricks", index),
                f"a trick's name, or one name with its values (name: {{key: value}}), got {quoted(entry)}",
            )
            return None
        loc: Loc = ("tricks", index, name)
        try:
            kind = self.catalog.get(name)
            here = frozenset(texts(self._overridden(loc, values)))
            context = {"folder": self._folder(loc), "here": here, "must_exist": self._runs()}
            return name, kind.model_validate(dict(values or {}), context=context)
        except UnknownTrick as error:
            self.note(loc, str(error))
        except ValidationError as error:
            self.problems.extend(problems_of(error, kind, values or {}, loc, self.document.place))
        except (Exception, SystemExit) as error:  # a validator of a third party's
            if ends_program(error):
                raise
            self.note(loc, f"trick {name!r} of {self.catalog.origin_of(name)} cannot be made: {in_words(error)}")
        return None

    def _overridden(self, loc: Loc, values: Any) -> list[Any]:
        """What stands on the command line for parts of the trick at `loc`."""
        return [at(values, given[len(loc) :]) for given in self.document.overrides if given[: len(loc)] == loc]

    def _runs(self) -> bool:
        """Whether the recipe is one to be run: files that it names must be there."""
        return self.document.data.get("data") is not None or self.document.data.get("model") is not None

    def _given(self, index: int, trick: Trick) -> Named | None:
        """An instance, by the name of its class; one that is another trick's would be read back as that."""
        name, kind = self.catalog.name_of(type(trick)), type(trick)
        if name in self.catalog.entries and self.catalog.get(name) is not kind:
            taken = self.catalog.origin_of(name)
            self.note(("tricks", index), f"{kind.__name__} is called {name!r}, as a trick of {taken}; rename the class")
            return None
        return name, trick

    def layers(self, given: Any) -> dict[str, list[str]] | None:
        if given is None:
            return None
        if isinstance(given, Mapping) and all(
            isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)
            for value in given.values()
        ):
            return {str(name): list(value) for name, value in given.items()}
        self.note(("layers",), f"layer names, each with a list of module names, got {quoted(given)}")
        return None
