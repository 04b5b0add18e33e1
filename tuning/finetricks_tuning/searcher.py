"""Which cell is run next: the one place that decides, on configurations and never on single seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from finetricks.guard import last_on
from finetricks_tuning.cell_run import CellOrder, lost
from finetricks_tuning.families import Families
from finetricks_tuning.ledger import FAILED, Ledger, Trial
from finetricks_tuning.limit import stack_of, trail_of

ORDER, AWAITED, TRIAL, TRIALS, ALONE, PROBLEM = "order", "awaited", "trial", "trials", "alone", "problem"
"""Keys of what goes to a worker and of what comes back: JSON texts, which Tune passes on as they are; the records of
an order that holds several cells, or that these are to be run alone; and why a worker cannot write in the study's
folder."""

LOST_IN_A_ROW = 3


class NextRound(Protocol):
    """Gives the cells without a result of the next round, none at the end. Called when the last round is over."""

    def __call__(self, trials: Mapping[str, Trial]) -> list[CellOrder]: ...


class Exhausted(Protocol):
    """Says why no further cell may begin; empty where one may."""

    def __call__(self, trials: Mapping[str, Trial], running: int, slots: float) -> str: ...


class CellSearcher(Searcher):  # type: ignore[misc]
    """Gives out the cells of one round after another, and writes each result to the ledger.

    While a round is not over and none of its cells can begin, workers are given an order for nothing, which lasts as
    long as the file `hold` exists, or until a file appears that a cell waits for: Tune would end those that have
    nothing to do, and a new one takes seconds to start. Where each cell has a process of its own there is no `hold`.

    Args:
        next_round: gives the cells. Those in the ledger are passed over.
        retry_failed: the ones that failed count as not run.
        exhausted: whether the budget is.
        on_change: called when a cell starts and when one ends.

    Attributes:
        trials: all results, by key.
        running: the cells that are at work, by Tune's name for them.
        slots: how many cells run at once; infinitely many until it is known.
        ended: why there is nothing more to run; empty while there is.
        problem: why the study's folder cannot be written; empty while it can. Nothing more is given out then.
    """

    def __init__(
        self,
        next_round: NextRound,
        ledger: Ledger,
        hold: Path | None,
        *,
        retry_failed: bool = False,
        exhausted: Exhausted = lambda trials, running, slots: "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        trials, _ = ledger.read()
        self.trials = {key: t for key, t in trials.items() if not (retry_failed and t.status == FAILED)}
        self.running: dict[str, CellOrder] = {}
        self.slots = math.inf
        self.ended = ""
        self.problem = ""
        self.on_change = on_change
        self._next_round = next_round
        self._exhausted = exhausted
        self._waiting: list[CellOrder] = []
        self._ledger = ledger
        self._hold = hold
        self._families = Families(ledger.path.parent)
        self._stopped = False
        self._lost_in_a_row = 0

    def has_work(self) -> bool:
        """Whether a cell can begin now. Decides the next round when the last one is over."""
        return self._following() is not None

    def _following(self) -> CellOrder | None:
        """The cell to run next; `None` where none can begin now."""
        if not self.ended and not self._waiting and not self.running:
            self._waiting = self._next_round(self.trials)
            if not self._waiting:
                self.ended = "every cell has a result"
        if self._waiting and (
            reason := self._exhausted(self.trials, sum(len(order.cells) for order in self.running.values()), self.slots)
        ):
            self._waiting, self.ended = [], reason
        return self._families.next(self._waiting, self.running.values(), self.slots)

    @property
    def workers_fail(self) -> bool:
        """Whether cell after cell has lost its worker: it is not the cells."""
        return self._lost_in_a_row >= LOST_IN_A_ROW

    def stop(self) -> None:
        """Give out no further cells."""
        self._stopped = True

    def release(self) -> None:
        """Let the workers go that have nothing to do: there is, or there is need of their place."""
        if self._hold is not None:
            self._hold.unlink(missing_ok=True)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stopped or self.workers_fail:
            return str(Searcher.FINISHED)
        order = self._following()
        if order is not None:
            self._waiting = [other for other in self._waiting if other.key != order.key]
            self.running[trial_id] = order = self._families.told(order, self._waiting)
            self.on_change()
            return {ORDER: json.dumps(order.to_dict())}
        if self.ended:
            return str(Searcher.FINISHED)
        if self._hold is None:
            return None
        with suppress(OSError):  # without it they only come back sooner
            self._hold.touch()
        return {ORDER: None, AWAITED: json.dumps(self._families.awaited(self._waiting))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        order = self.running.pop(trial_id, None)
        if order is None:
            return
        within = self._left_at(order) if error else ""
        several = bool(order.together)
        if error and not several:
            trials = [lost(order, f"{LOST}, the last time within {within}" if within else LOST)]
        else:
            trials = trials_in(result)
        # Where a trick was at it, it is the trick and not the workers.
        self._lost_in_a_row = self._lost_in_a_row + 1 if error and not within else 0
        if result and result.get(PROBLEM):
            self._give_up(result[PROBLEM])
        if several and (error or (result or {}).get(ALONE)):  # which of them it was shows when each is alone
            self._waiting = [*order.cells, *self._waiting]
        elif not trials or not all(map(self._record, trials)):
            # The worker was told to stop before it began, or cannot write.
            self._waiting.insert(0, replace(order, leads=(), leaves=()))
        self._families.tidy([*self._waiting, *self.running.values()])
        if not self.running or self._families.next(self._waiting, self.running.values(), self.slots):
            self.release()
        self.on_change()

    def _left_at(self, order: CellOrder) -> str:
        """Where the process of a lost cell was: the trick and its hook, if it was in one."""
        trail = trail_of(order, self._ledger.path.parent)
        within = last_on(trail)
        with suppress(OSError):
            for path in (trail, stack_of(trail)):
                path.unlink(missing_ok=True)
        return within

    def _record(self, trial: Trial) -> bool:
        try:
            self._ledger.append(trial)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return False
        self.trials[trial.key] = trial
        return True

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self.stop()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore it, and here the ledger is what a study is resumed from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""


def trials_in(result: Mapping[str, Any] | None) -> list[Trial]:
    """The records that a worker gave."""
    result = result or {}
    texts = [result[TRIAL]] if result.get(TRIAL) else json.loads(result.get(TRIALS) or "[]")
    return [Trial.from_json(text) for text in texts]


LOST = "its worker process was lost again and again (killed, out of memory, or a crash in native code)"
