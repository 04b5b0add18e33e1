"""A cell, one (configuration, seed), and the key under which its result stands in the ledger.

The key is a hash of everything that determines the result: the resolved recipe with its seed, the content of the data,
of the model and of the files that tricks name, the source of the core and of the tricks that the recipe uses, the
versions of torch and transformers, and the kind of device. Where the data and the model lie, how often a run is saved,
and versions of anything else do not enter: an edited trick runs again, an unrelated upgrade does not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.prefix import BY_PLAN, OF_THE_STEPS, acts_before_training, acts_by_plan, unlike_any
from finetricks.recipe import Recipe, with_training
from finetricks.source import hash_of_core, hash_of_trick
from finetricks.trick import Trick, input_files
from finetricks_tuning.configurations import Configuration

if TYPE_CHECKING:
    from finetricks.tasks import Task
    from finetricks_tuning.study import Study

DATA_SOURCES = ("train", "valid", "test", "subset")


@dataclass(frozen=True)
class Cell:
    """The unit of work.

    Attributes:
        upto: the share of its steps after which it is put down; another cell goes on from there.
        place: the key of that other cell, whose folder is this one's too; its own where it is run to its end.
        family: what it has in common with the cells that may do the same first steps; empty where none can.
        start: the same for those that begin with the same weights, where it takes training to make them.
    """

    configuration: Configuration
    seed: int
    recipe: Recipe
    key: str
    upto: float = 1.0
    place: str = ""
    family: str = ""
    start: str = ""


def task_key(recipe: Recipe) -> str:
    """What determines the task of a recipe; cells with equal keys share one loaded task."""
    data = recipe.data.model_dump(mode="json") if recipe.data else None
    return json.dumps([recipe.model, data, recipe.training.max_length])


class Keys:
    """Makes the keys of a study's cells; files are hashed once.

    Args:
        task: gives a recipe's task.
        device: the kind of device that the cells run on: `cpu`, or a GPU's name.
        workers: how many train a cell together.
        heads: whether the study asks for heads that are trained `together`, or `apart`.
    """

    def __init__(self, task: Callable[[Recipe], Task], device: str, workers: int = 1, heads: str = "apart") -> None:
        self._task = task
        self._device = device
        self._workers = workers
        self._heads = heads
        self._core = hash_of_core()
        self._versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        self._tricks: dict[type, str] = {}
        self._models: dict[str, str] = {}
        self._files: dict[str, str] = {}

    def of(self, recipe: Recipe) -> str:
        """The key of the cell that runs `recipe`. Raises `InputError` for a trick whose source cannot be found."""
        return _hash(self.parts(recipe))

    def parts(self, recipe: Recipe) -> dict[str, Any]:
        """What the key is a hash of."""
        task = self._task(recipe)
        parts: dict[str, Any] = {
            "recipe": self._canonical(recipe),
            "data": task.fingerprint,
            "model": self._model(task.model_name),
            "core": self._core,
            "tricks": {name: self._trick(type(trick)) for name, trick in recipe.tricks},
            "files": {file: self._file(file) for _, trick in recipe.tricks for file in input_files(trick)},
            "versions": self._versions,
            "device": self._device,
        }
        if self._workers > 1:  # sums over the parts of a batch round differently
            parts["workers"] = self._workers
        if self._heads != "apart":
            parts["heads"] = self._heads
        return parts

    def common(self, recipe: Recipe, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of a recipe's parts those that are equal where cells do the same first steps; `None` where none does."""
        return None if unlike_any(recipe) else self._some(recipe, parts, BY_PLAN, lambda trick: not acts_by_plan(trick))

    def start(self, recipe: Recipe, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Those that are equal where cells begin with the same weights; `None` where these are made at once."""
        if not any(trick.learns for _, trick in recipe.tricks):
            return None
        held_out = bool(recipe.stack().deciders)
        return self._some(recipe, parts, OF_THE_STEPS, acts_before_training) | {"held_out": held_out}

    @staticmethod
    def _some(
        recipe: Recipe, parts: Mapping[str, Any], without: frozenset[str], acts: Callable[[Trick], bool]
    ) -> dict[str, Any]:
        acting = {name: trick for name, trick in recipe.tricks if acts(trick)}
        of_recipe, training = parts["recipe"], parts["recipe"]["training"]
        of_recipe = of_recipe | {
            "training": {key: value for key, value in training.items() if key not in without},
            "tricks": [trick for trick in of_recipe["tricks"] if trick.keys() <= acting.keys()],
        }
        files = {file for trick in acting.values() for file in input_files(trick)}
        return {
            **parts,
            "recipe": of_recipe,
            "tricks": {name: source for name, source in parts["tricks"].items() if name in acting},
            "files": {file: content for file, content in parts["files"].items() if file in files},
        }

    @staticmethod
    def _canonical(recipe: Recipe) -> dict[str, Any]:
        resolved = recipe.to_dict()
        del resolved["model"], resolved["training"]["checkpoint"]
        resolved["data"] = {key: value for key, value in resolved["data"].items() if key not in DATA_SOURCES}
        return resolved

    def _trick(self, kind: type) -> str:
        if kind not in self._tricks:
            self._tricks[kind] = hash_of_trick(kind)
        return self._tricks[kind]

    def _file(self, path: str) -> str:
        if path not in self._files:
            with Path(path).open("rb") as file:
                self._files[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._files[path]

    def _model(self, name: str) -> str:
        if name not in self._models:
            self._models[name] = hash_of_model(name)
        return self._models[name]


def hash_of_model(name: str) -> str:
    """Of a model folder's files (weights, configuration, tokenizer); for a name on the Hub, the name and the commit."""
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")  # .../snapshots/<commit>/config.json
        return f"{name}@{Path(found).parent.name}" if isinstance(found, str) else name
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CellMaker:
    """Makes the cells of a study. What the seeds of a configuration share is worked out once.

    Args:
        study: its recipe, and what a cell takes.
        keys: makes their keys.
    """

    def __init__(self, study: Study, keys: Keys) -> None:
        # Sums over more threads round differently.
        self._base = with_training(study.recipe, threads=study.threads)
        self._keys = keys
        self._known: dict[tuple[str, float | None], tuple[Recipe, _Parts]] = {}
        self._shares = study.settings.sharing == "auto" and study.design.start >= 1

    def __call__(self, configuration: Configuration, seed: int, rate: float | None = None, upto: float = 1.0) -> Cell:
        """The cell of a configuration and a seed, at a learning rate of its own if one is given."""
        place = (configuration.name, rate)
        if place not in self._known:
            recipe = configuration.recipe(self._base, seed, rate)
            parts = self._keys.parts(recipe)
            shared = (self._keys.common(recipe, parts), self._keys.start(recipe, parts)) if self._shares else ()
            self._known[place] = recipe, _Parts(parts, *shared)
        recipe, known = self._known[place]
        whole = _with_seed(known.whole, seed)
        key = whole if upto >= 1 else _hash({"of": whole, "upto": upto})
        seeded = with_training(recipe, seed=seed)
        family, start = _with_seed(known.family, seed), _with_seed(known.start, seed)
        return Cell(configuration, seed, seeded, key, upto, whole, family, start)


@dataclass(frozen=True)
class _Parts:
    """What the seeds of a configuration share, of what its key, its family and its start are hashes of."""

    whole: Mapping[str, Any]
    family: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None


def _with_seed(parts: Mapping[str, Any] | None, seed: int) -> str:
    """The hash of the parts with a seed; empty for none."""
    if parts is None:
        return ""
    resolved = parts["recipe"]
    return _hash({**parts, "recipe": resolved | {"training": resolved["training"] | {"seed": seed}}})
