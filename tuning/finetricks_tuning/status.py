"""How far a study is, for who watches it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.ledger import FINISHED, Trial
from finetricks_tuning.manifest import Manifest


@dataclass(frozen=True)
class ConfigurationStatus:
    """One configuration: cells by state, and the mean of its metric so far."""

    name: str
    finished: int
    lost: int
    running: int
    mean: float | None


@dataclass(frozen=True)
class Status:
    """A study at a moment.

    Attributes:
        done: cells with a result, whatever it is.
        seconds_left: estimated from this session's cells; `None` until two have ended.
    """

    metric: str
    seeds: int
    configurations: tuple[ConfigurationStatus, ...]
    done: int
    planned: int
    seconds_left: float | None


class StatusKeeper:
    """Makes the status from the ledger's trials and the cells that are running."""

    def __init__(self, manifest: Manifest, trials: Mapping[str, Trial]) -> None:
        self._manifest = manifest
        self._keys = {cell.key for cell in manifest.cells}
        self._before = len(self._keys & set(trials))
        self._first_end: tuple[float, int] | None = None

    def now(self, trials: Mapping[str, Trial], running: Iterable[CellOrder]) -> Status:
        metric = str(self._manifest.study["metric"])
        ours = [trial for key, trial in trials.items() if key in self._keys]
        at_work = [order.configuration for order in running]
        own: dict[str, list[Trial]] = {name: [] for name in self._manifest.configurations}
        for trial in ours:
            own[trial.configuration].append(trial)
        rows = []
        for name, trials_of in own.items():
            values = [v for t in trials_of if (v := (t.metrics.get("valid") or {}).get(metric)) is not None]
            finished = sum(trial.status == FINISHED for trial in trials_of)
            mean = sum(values) / len(values) if values else None
            rows.append(ConfigurationStatus(name, finished, len(trials_of) - finished, at_work.count(name), mean))
        seconds_left = self._seconds_left(len(ours))
        seeds = len(self._manifest.study["seeds"])
        return Status(metric, seeds, tuple(rows), len(ours), len(self._keys), seconds_left)

    def _seconds_left(self, done: int) -> float | None:
        if self._first_end is None:
            # Until here workers were starting; the pace shows in what comes after.
            self._first_end = (time.monotonic(), done) if done > self._before else None
            return None
        since, first = self._first_end
        return (time.monotonic() - since) / (done - first) * (len(self._keys) - done) if done > first else None
