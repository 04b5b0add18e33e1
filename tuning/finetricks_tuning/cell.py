"""A cell, one (configuration, seed), and the key under which its result stands in the ledger.

The key is a hash of everything that determines the result: the resolved recipe with its seed, the content of the data,
of the model and of the files that tricks name, the source of the core and of the tricks that the recipe uses, the
versions of torch and transformers, and the kind of device. Where the data and the model lie, how often a run is saved,
and versions of anything else do not enter: an edited trick runs again, an unrelated upgrade does not.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.recipe import Recipe
from finetricks.source import hash_of_core, hash_of_trick
from finetricks.trick import input_files
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
    """

    configuration: Configuration
    seed: int
    recipe: Recipe
    key: str
    upto: float = 1.0
    place: str = ""


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
        self._known: dict[tuple[str, float | None], tuple[Recipe, dict[str, Any]]] = {}

    def __call__(self, configuration: Configuration, seed: int, rate: float | None = None, upto: float = 1.0) -> Cell:
        """The cell of a configuration and a seed, at a learning rate of its own if one is given."""
        place = (configuration.name, rate)
        if place not in self._known:
            recipe = configuration.recipe(self._base, seed, rate)
            self._known[place] = recipe, self._keys.parts(recipe)
        recipe, parts = self._known[place]
        resolved = parts["recipe"]
        own = resolved | {"training": resolved["training"] | {"seed": seed}}
        whole = _hash(parts | {"recipe": own})
        key = whole if upto >= 1 else _hash({"of": whole, "upto": upto})
        return Cell(configuration, seed, with_training(recipe, seed=seed), key, upto, whole)


def with_training(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with other settings of training, which are not checked."""
    changed = copy.copy(recipe)
    changed.training = recipe.training.model_copy(update=settings)
    return changed
