"""The warm actor in which cells run, one after another: torch stays imported, the tokenised data at hand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import cloudpickle, tune

from finetricks.catalog import Catalog, installed
from finetricks.storage import StorageError
from finetricks.trick import Trick
from finetricks_tuning.cell_run import CellOrder, lost, run_cell, run_group
from finetricks_tuning.limit import TookTooLong, limited, stack_of, trail_of
from finetricks_tuning.searcher import ALONE, AWAITED, ORDER, PROBLEM, TRIAL, TRIALS
from finetricks_tuning.sharing import sharing_of, was_lost_asking
from finetricks_tuning.worker_group import WorkerGroup
from finetricks_tuning.workplace import Workplace

if TYPE_CHECKING:
    from finetricks.tasks import Task

STOP = ".stop"
"""A file of this name in the study's folder keeps workers from beginning another cell."""

HOLD = ".hold"
"""A file of this name there keeps workers that have no cell from ending."""

LONGEST_WAIT, BETWEEN_LOOKS = 30.0, 0.05  # seconds


@dataclass(frozen=True)
class Plugins:
    """Tricks that no distribution announces, in a form that a worker on another machine can rebuild.

    Attributes:
        files: plugin files: name and source text.
        classes: tricks of a notebook or of the program that runs the study, pickled with their code: a worker may not
            be able to import where they are from.
    """

    files: tuple[tuple[str, str], ...]
    classes: bytes

    @classmethod
    def of(cls, catalog: Catalog) -> Plugins:
        from_files = {str(path) for path in catalog.files}
        others = [kind for name, kind in catalog.classes.items() if catalog.origin_of(name) not in from_files]
        files = tuple((path.name, path.read_text(encoding="utf-8")) for path in catalog.files)
        return cls(files, _with_code(others))

    def catalog(self, folder: Path) -> Catalog:
        """The installed tricks and these; files are written to `folder` first."""
        catalog = installed()
        for index, (name, text) in enumerate(self.files):
            path = folder / str(index) / name
            path.parent.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")
            catalog = catalog.with_file(path)
        return catalog.with_classes(cloudpickle.loads(self.classes))


def _with_code(classes: Sequence[type[Trick]]) -> bytes:
    # Those of __main__ are pickled with their code anyway.
    modules = {sys.modules[kind.__module__] for kind in classes if kind.__module__ != "__main__"}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(list(classes)))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


class CellWorker(tune.Trainable):  # type: ignore[misc]
    """Runs one cell a step; `reuse_actors` gives the same process one cell after another."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        folder: str,
        plugins: Plugins,
        tasks: Mapping[str, Task],
        device: str,
        bundles: Sequence[Mapping[str, float]],
        cell_minutes: float | None,
    ) -> None:
        self._folder = Path(folder)
        self._device = device
        self._minutes = cell_minutes
        self._workplace = Workplace(plugins, tasks)
        self._group = WorkerGroup(bundles, plugins, tasks) if len(bundles) > 1 else None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        if (self._folder / STOP).exists():
            return {TRIAL: None, "done": True}
        if self.config[ORDER] is None:
            self._wait([self._folder / path for path in json.loads(self.config.get(AWAITED) or "[]")])
            return {TRIAL: None, "done": True}
        self._workplace.tidy()
        order = CellOrder(**json.loads(self.config[ORDER]))
        if was_lost_asking(order, self._folder):
            stack_of(trail_of(order, self._folder)).unlink(missing_ok=True)  # it was not this cell that took too long
            order = replace(order, leads=())
        run = partial(self._group.run, order) if self._group else None
        sharing = sharing_of(order, self._folder, self._workplace.recipe)
        try:
            with limited(order, self._folder, self._minutes):
                if order.together:
                    trials = run_group(order, self._folder, self._device, self._workplace.prepare)
                    return {TRIALS: json.dumps([trial.to_json() for trial in trials]), "done": True}
                trial = run_cell(order, self._folder, self._device, self._workplace.prepare, run, sharing=sharing)
        except TookTooLong as error:
            if order.together:
                return {ALONE: True, "done": True}
            trial = replace(lost(order, str(error)), seconds=60 * (self._minutes or 0.0))
        except StorageError as error:
            return {TRIAL: None, PROBLEM: error.reason, "done": True}
        return {TRIAL: trial.to_json(), "done": True}

    def _wait(self, awaited: Sequence[Path]) -> None:
        """Stay warm until the round is over, or a cell can begin that waited for one of the files.

        Not for ever, since the driver may have been killed.
        """
        until = time.monotonic() + LONGEST_WAIT
        while (self._folder / HOLD).exists() and time.monotonic() < until:
            if any(path.exists() for path in awaited):
                return
            time.sleep(BETWEEN_LOOKS)

    def cleanup(self) -> None:
        if self._group:
            self._group.end()
        self._workplace.close()
