"""The steps of a file at work, in a folder with one for each: what is finished is not done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.atomic import flush, holds_nothing, is_partial, refuse_links, write_atomically
from finetricks.distributed import Ranks
from finetricks.errors import CheckpointError, InputError, Problem
from finetricks.folder import OWN, RESULT, VERSIONS, RunFolder, differences
from finetricks.pipeline import STEPS, NewLSTM, Pipeline, PipelineStep
from finetricks.pretraining import subject_of
from finetricks.runner import OnProgress, Result, plan_of, run, task_of
from finetricks.yaml_file import dump_yaml, load_yaml

if TYPE_CHECKING:
    from finetricks.recipe import Recipe

FILE = "steps.yaml"
Around = Callable[[PipelineStep], AbstractContextManager[OnProgress | None]]


def run_pipeline(
    pipeline: Pipeline,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    around: Around = lambda step: nullcontext(),
    trust_remote_code: bool = False,
) -> dict[str, Result]:
    """Run the steps one after another, each in a folder of its name in `out`; gives what each recipe came to.

    All that is still to be done is checked before the first step begins: data, models, plans.

    Args:
        resume: steps that are finished are left as they are, one that was killed goes on from its checkpoint.
        overwrite: replace all the steps in `out`.
        around: the context in which a step is done; it gives what is called while it trains, as `run`'s `on_progress`.
        trust_remote_code: execute code that comes with the models.

    Raises:
        InputError: a step or the folder cannot be used.
        CheckpointError: on resuming, for steps that were another's.
    """
    folder, ranks = PipelineFolder(out), Ranks.current()
    ranks.of_first(lambda: folder.check(pipeline, resume=resume, overwrite=overwrite))
    made = {step.name: folder.model(step.name) for step in pipeline.steps if resume and folder.is_finished(step.name)}
    with ranks.together(), pipeline.loadable(made) as recipes:
        for name, recipe in recipes.items():
            if name not in made:
                _check(name, recipe, trust_remote_code)
    ranks.of_first(lambda: folder.begin(pipeline, overwrite=overwrite))
    results: dict[str, Result] = {}
    for step in pipeline.steps:
        with around(step) as on_progress:
            if isinstance(step.work, NewLSTM):
                ranks.of_first(partial(folder.create, step.name, step.work))
                continue
            recipe = step.work if step.after is None else step.work.with_model(str(folder.model(step.after)))
            results[step.name] = run(
                recipe,
                folder.path / step.name,
                resume=True,
                on_progress=on_progress,
                trust_remote_code=trust_remote_code,
            )
    return results


def _check(name: str, recipe: Recipe, trust_remote_code: bool) -> None:
    """Compile a step's plan, or load what it pretrains."""
    with naming(name):
        if recipe.only_pretrains:
            subject_of(recipe, trust_remote_code)
        else:
            plan_of(recipe, task_of(recipe, trust_remote_code))


@contextmanager
def naming(step: str) -> Iterator[None]:
    """Within the block an `InputError` names the step."""
    try:
        yield
    except InputError as error:
        problems = [Problem(f"{STEPS}.{step} {one.place}".rstrip(), one.message) for one in error.problems]
        raise type(error)(problems) from None


class PipelineFolder:
    """The folder: steps.yaml (as it was resolved), and a folder for each step."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.realpath(path))

    def model(self, step: str) -> Path:
        return self.path / step / "model"

    def is_finished(self, step: str) -> bool:
        """Whether a step's result is there. A new LSTM's folder comes into being as a whole, and holds nothing else."""
        path = self.path / step
        return (path / RESULT).exists() or ((path / "model").is_dir() and not (path / VERSIONS).exists())

    def _is_begun(self, step: str) -> bool:
        path = self.path / step
        return path.is_dir() and not holds_nothing(path)

    def check(self, pipeline: Pipeline, *, resume: bool, overwrite: bool) -> None:
        """Refuse what the steps may not be written to. Changes nothing."""
        if resume and overwrite:
            raise InputError("resume and overwrite exclude one another: continue the steps, or replace them")
        if os.path.exists(self.path) and not os.path.isdir(self.path):  # of a name that is too long, too
            raise InputError(f"{self.path} is a file; name a folder")
        if not os.path.isdir(self.path) or holds_nothing(self.path):
            return
        if not (self.path / FILE).is_file():
            raise InputError(f"{self.path} is not empty and holds no steps; name a new or an empty folder")
        refuse_links(self.path)
        before = self._before()
        if resume:
            self._check_same(pipeline, before)
        elif not overwrite:
            raise InputError(f"{self.path} already holds steps: --resume continues them, --overwrite replaces them")
        else:
            self._check_own({*before, *(step.name for step in pipeline.steps)})

    def begin(self, pipeline: Pipeline, *, overwrite: bool) -> None:
        """Make the folder ready for the steps.

        With `overwrite` those that it holds go, the last first: what is left after a kill is what the file says.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path} cannot be made: {error.strerror}; name another folder") from None
        if overwrite and (self.path / FILE).is_file():
            for name in reversed(list(self._before())):
                if self._is_begun(name):
                    RunFolder(self.path / name).clear()
        now = {STEPS: {step.name: step.determining() for step in pipeline.steps}}
        write_atomically(self.path / FILE, dump_yaml(now))

    def create(self, name: str, lstm: NewLSTM) -> None:
        """Make an LSTM in a step's folder, as a whole or not at all."""
        if self._is_begun(name):
            return
        unfinished = self.path / f".{name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        made = lstm.create(unfinished / "model")
        for path in (*made.iterdir(), made):
            flush(path)
        unfinished.rename(self.path / name)

    def _before(self) -> Mapping[str, Any]:
        document = load_yaml(self.path / FILE)
        steps = document.data.get(STEPS) if isinstance(document.data, dict) else None
        if not isinstance(steps, dict):
            raise InputError(Problem(document.place(()), f"is no file of steps: it lacks `{STEPS}`"))
        return steps

    def _check_same(self, pipeline: Pipeline, before: Mapping[str, Any]) -> None:
        for step in pipeline.steps:
            if not self._is_begun(step.name):
                continue
            path = self.path / step.name
            anew = "remove it, and those that went on from it, to run them anew"
            if differing := differences(before.get(step.name, {}), step.determining()):
                told = f"{path} holds another step; what differs: {'; '.join(differing)}"
                raise CheckpointError(f"{told}. Bring the step back, or {anew}")
            if step.after is not None and not self.is_finished(step.after):
                raise CheckpointError(f"{path} went on from {step.after}, which is no longer there; {anew}")

    def _check_own(self, steps: set[str]) -> None:
        for folder in (self.path / name for name in sorted(steps)):
            found = list(folder.iterdir()) if folder.is_dir() else []
            if others := [path.name for path in found if path.name not in OWN and not is_partial(path.name)]:
                raise InputError(
                    f"{folder} also holds {others[0]}, which no step has written and --overwrite would delete; move "
                    "it away, or name another folder"
                )
