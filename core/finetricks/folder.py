"""A run's folder: what it holds, and who may write there. Names and shapes are public."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from finetricks.atomic import holds_nothing, is_partial, refuse_links, remove_partials, write_atomically
from finetricks.checkpoint import Checkpoints
from finetricks.determinism import record
from finetricks.errors import CheckpointError, InputError, Problem, shortened
from finetricks.libraries import versions_of_libraries
from finetricks.text_file import content_of, decoded
from finetricks.validation import first_of

if TYPE_CHECKING:
    from finetricks.recipe import Recipe

RECIPE, VERSIONS, METRICS, RESULT = "recipe.yaml", "versions.json", "metrics.jsonl", "result.json"
OWN = frozenset({RECIPE, VERSIONS, METRICS, RESULT, "predictions", "model", "checkpoints"})
"""All that a run's folder holds."""


@dataclass(frozen=True)
class _Result:
    valid: dict[str, float]
    test: dict[str, float] | None
    seconds: float
    steps: int
    notes: list[str]
    decisions: dict[str, int] = field(default_factory=dict)
    replay: dict[str, Any] = field(default_factory=dict)
    branched: dict[str, Any] | None = None


_RESULT: TypeAdapter[_Result] = TypeAdapter(_Result)


class RunFolder:
    """The files of one run.

    recipe.yaml (as it was resolved), versions.json (what it was made with, and what of that is not deterministic),
    metrics.jsonl (a line an evaluation), result.json, predictions/, model/, checkpoints/.
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
        """Whether a run has begun here. A recipe alone is none: its author may keep it in a folder of their own."""
        return os.path.isfile(self.path / RECIPE) and self._is_begun  # of a name that is too long, too

    @property
    def _is_begun(self) -> bool:
        """Whether its versions.json is a run's: what a kill leaves, and no file of somebody's own."""
        try:
            written = json.loads((self.path / VERSIONS).read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(written, dict) and {"libraries", "tricks"} <= written.keys()

    def check(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        """Refuse what `recipe` may not be written to. Changes nothing.

        Raises:
            InputError: it holds another run and neither `resume` nor `overwrite` is asked for, or something that is no
                part of a run (which is never deleted), or a symbolic link.
            CheckpointError: `resume` of another recipe, with what differs.
        """
        if resume and overwrite:
            raise InputError("resume and overwrite exclude one another: continue the run, or replace it")
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise InputError(f"{self.path} is a file; name a folder")
        if not os.path.isdir(self.path) or holds_nothing(self.path, {VERSIONS} if self._is_begun else ()):
            return
        if not self.is_run:
            raise InputError(f"{self.path} is not empty and holds no run; name a new or an empty folder")
        refuse_links(self.path)
        if resume:
            self._check_same(recipe)
        elif not overwrite:
            raise InputError(f"{self.path} already holds a run: --resume continues it, --overwrite replaces it")
        elif others := sorted(path.name for path in self.path.iterdir() if not _is_own(path.name)):
            raise InputError(
                f"{self.path} also holds {', '.join(others[:3])}, which no run has written and --overwrite would "
                "delete; move it away, or name another folder"
            )

    def begin(self, recipe: Recipe, *, resume: bool, ranks: int = 1) -> None:
        """Make the folder ready for a run of `recipe` in `ranks` processes; without `resume` one that it holds goes.

        Raises:
            InputError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"{shortened(str(self.path), 500)} cannot be made: {error.strerror}; name another folder"
            raise InputError(told) from None
        if not resume:
            self.clear()
        for folder in (self.path, self.path / "predictions"):
            if folder.is_dir():
                remove_partials(folder)
        made_with = {**versions(recipe), "determinism": record(ranks)}
        write_atomically(self.path / VERSIONS, json.dumps(made_with, indent=2) + "\n")
        write_atomically(self.path / RECIPE, recipe.to_yaml())  # from here on it is a run's

    def clear(self) -> None:
        """Remove the run, and nothing else.

        What says that it is finished goes first, what says that it is one goes last: a kill leaves it to be removed.
        """
        order = {RESULT: -1, RECIPE: 1, VERSIONS: 2}
        for path in sorted(self.path.iterdir(), key=lambda path: order.get(path.name, 0)):
            if _is_own(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _check_same(self, recipe: Recipe) -> None:
        from finetricks.recipe import determining

        before = self.recipe()
        if differing := differences(determining(before), determining(recipe.to_dict())):
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
        if not isinstance(given, dict) or not isinstance(given.get("training"), dict):
            raise InputError(Problem(document.place(()), "is no recipe of a run: it lacks `training`"))
        return given

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_atomically(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl: what was written after the checkpoint that a run resumes from is gone with it."""
        write_atomically(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


def _is_own(name: str) -> bool:
    return name in OWN or is_partial(name)


def versions(recipe: Recipe) -> dict[str, Any]:
    """What the run was made with: interpreter, libraries, and the distributions of its tricks."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions_of_libraries(),
        "tricks": {name: recipe.catalog.origin_of(name) for name, _ in recipe.tricks},
    }


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Where two resolved recipes differ, a line each."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line for key in keys for line in differences(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        both = enumerate(zip(before, now, strict=True))
        return [line for index, pair in both for line in differences(*pair, f"{place}.{index}".lstrip("."))]
    return [] if before == now else [f"{place}: {before!r} there, {now!r} here"]
