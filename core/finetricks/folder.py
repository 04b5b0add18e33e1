"""A run's folder: what it holds, and who may write there. Names and shapes are public."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from finetricks.checkpoint import Checkpoints
from finetricks.errors import CheckpointError, InputError, Problem, shortened
from finetricks.text_file import content_of, decoded
from finetricks.validation import first_of

if TYPE_CHECKING:
    from finetricks.recipe import Recipe

RECIPE, VERSIONS, METRICS, RESULT = "recipe.yaml", "versions.json", "metrics.jsonl", "result.json"


@dataclass(frozen=True)
class _Result:
    valid: dict[str, float]
    test: dict[str, float] | None
    seconds: float
    steps: int
    notes: list[str]
    decisions: dict[str, int] = field(default_factory=dict)


_RESULT: TypeAdapter[_Result] = TypeAdapter(_Result)


class RunFolder:
    """The files of one run.

    recipe.yaml (as it was resolved), versions.json, metrics.jsonl (a line an evaluation), result.json, predictions/,
    model/, checkpoints/.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def model(self) -> Path:
        return self.path / "model"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.csv"

    @property
    def is_run(self) -> bool:
        return os.path.isfile(self.path / RECIPE)  # of a name that is too long, too

    def check(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        """Refuse what `recipe` may not be written to. Changes nothing.

        Raises:
            InputError: it holds another run and neither `resume` nor `overwrite` is asked for, or something that is no
                run (which is never deleted).
            CheckpointError: `resume` of another recipe, with what differs.
        """
        if resume and overwrite:
            raise InputError("resume and overwrite exclude one another: continue the run, or replace it")
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise InputError(f"{self.path} is a file; name a folder")
        if not os.path.isdir(self.path) or holds_nothing(self.path, partial_name(RECIPE)):
            return
        if not self.is_run:
            raise InputError(f"{self.path} is not empty and holds no run; name a new or an empty folder")
        if resume:
            self._check_same(recipe)
        elif not overwrite:
            raise InputError(f"{self.path} already holds a run: --resume continues it, --overwrite replaces it")

    def begin(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder ready for a run of `recipe`; without `resume` the run that it holds is removed.

        Raises:
            InputError: it cannot be made.
        """
        if not resume and self.is_run:
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"{shortened(str(self.path), 500)} cannot be made: {error.strerror}; name another folder"
            raise InputError(told) from None
        write_atomically(self.path / RECIPE, recipe.to_yaml())
        write_atomically(self.path / VERSIONS, json.dumps(versions(recipe), indent=2) + "\n")

    def _check_same(self, recipe: Recipe) -> None:
        from finetricks.recipe import determining

        before = self.recipe()
        if differing := _differences(determining(before), determining(recipe.to_dict())):
            details = "; ".join(differing)
            raise CheckpointError(f"{self.path} holds a run of another recipe; what differs: {details}")

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or `None`. Raises `InputError` for a file that is none."""
        path = self.path / RESULT
        if not path.exists():
            return None
        text = decoded(path.name, content_of(path, InputError), InputError)
        try:
            return vars(_RESULT.validate_json(text, strict=True))
        except ValidationError as error:
            raise InputError(Problem(str(path), f"is no result of a run: {first_of(error)}; run it again")) from None

    def recipe(self) -> dict[str, Any]:
        """The run's recipe as it was resolved. Raises `InputError` for a file that is none."""
        from finetricks.yaml_file import load_yaml

        document = load_yaml(self.path / RECIPE)
        given = document.data
        if not isinstance(given, dict) or not all(isinstance(given.get(key), dict) for key in ("data", "training")):
            raise InputError(Problem(document.place(()), "is no recipe of a run: it lacks `data` or `training`"))
        return given

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_atomically(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl: what was written after the checkpoint that a run resumes from is gone with it."""
        write_atomically(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


def holds_nothing(folder: Path, *left: str) -> bool:
    """Whether a folder is empty, but for the names in `left`: what a kill leaves before anything is there."""
    return all(path.name in left for path in folder.iterdir())


def partial_name(name: str) -> str:
    """What the file `name` is called while it is written."""
    return f".{name}.partial"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader, or a kill, sees the old content or the new."""
    partial = path.with_name(partial_name(path.name))
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def versions(recipe: Recipe) -> dict[str, Any]:
    """What the run was made with: interpreter, libraries, and the distributions of its tricks."""
    libraries = (
        "finetricks",
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "tokenizers",
        "safetensors",
        "numpy",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "tricks": {name: recipe.catalog.origin_of(name) for name, _ in recipe.tricks},
    }


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line for key in keys for line in _differences(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{place}: {before!r} there, {now!r} here"]
