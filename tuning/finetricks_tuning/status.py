"""How far a study is, for who watches it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from scipy import stats

from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.ledger import FINISHED, Trial
from finetricks_tuning.manifest import COMPARE, Manifest


@dataclass(frozen=True)
class ConfigurationStatus:
    """One configuration: cells by state, and the mean of its metric so far."""

    name: str
    planned: int
    finished: int
    lost: int
    running: int
    mean: float | None
    interval: tuple[float, float] | None = None
    """Of the mean, over seeds, at the study's level; `None` with fewer than two."""


@dataclass(frozen=True)
class Status:
    """A study at a moment.

    Attributes:
        phase: what is run now: `tune`, `compare` or `confirm`.
        configurations: of the comparison.
        planned: cells of the rounds that were decided so far.
        done: cells with a result, whatever it is.
        seconds_left: estimated from this session's cells; `None` until one has ended.
        alpha: the intervals are at 1 - alpha.
        data_set: which is at work, of a study that has several.
    """

    metric: str
    phase: str
    configurations: tuple[ConfigurationStatus, ...]
    done: int
    planned: int
    seconds_left: float | None
    greater_is_better: bool = True
    alpha: float = 0.05
    data_set: str = ""


class StatusKeeper:
    """Makes the status from the plan, the ledger's trials and the cells that are running."""

    def __init__(self, trials: Mapping[str, Trial]) -> None:
        self._before = set(trials)
        self._at_once = 1  # the most cells that ran at a time

    def now(self, plan: Manifest, trials: Mapping[str, Trial], running: Iterable[CellOrder]) -> Status:
        metric = str(plan.study["metric"])
        at_work = [order.configuration for order in running]
        self._at_once = max(self._at_once, len(at_work))
        own: dict[str, list[Trial]] = {name: [] for name in plan.configurations}
        planned: Counter[str] = Counter()
        for cell in plan.cells:
            if cell.phase == COMPARE:
                planned[cell.configuration] += 1
                if cell.key in trials:
                    own[cell.configuration].append(trials[cell.key])
        rows = []
        for name, trials_of in own.items():
            values = [value for trial in trials_of if (value := trial.value(metric)) is not None]
            finished = sum(trial.status == FINISHED for trial in trials_of)
            mean = sum(values) / len(values) if values else None
            lost = len(trials_of) - finished
            interval = _interval(values, plan.study["alpha"])
            rows.append(ConfigurationStatus(name, planned[name], finished, lost, at_work.count(name), mean, interval))
        done = {cell.key for cell in plan.cells} & set(trials)
        return Status(
            metric=metric,
            phase=_phase(plan, done),
            configurations=tuple(rows),
            done=len(done),
            planned=len(plan.cells),
            seconds_left=self._left(plan, trials),
            greater_is_better=plan.greater_is_better,
            alpha=plan.study["alpha"],
        )

    def _left(self, plan: Manifest, trials: Mapping[str, Trial]) -> float | None:
        seconds = [trial.seconds for key, trial in trials.items() if key not in self._before]
        left = len({cell.key for cell in plan.cells} - set(trials))
        # Not by when cells ended: those that began together end together, and the first ones are the slowest.
        return left * sum(seconds) / len(seconds) / self._at_once if seconds else None


def _interval(values: Sequence[float], alpha: float) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    reach = float(stats.t.isf(alpha / 2, len(values) - 1)) * float(stats.sem(values))
    mean = sum(values) / len(values)
    return (mean - reach, mean + reach)


def _phase(plan: Manifest, done: Set[str]) -> str:
    """Of the first cell that has no result."""
    return next((cell.phase for cell in plan.cells if cell.key not in done), COMPARE)
