"""Which cell is run next: the one place that decides, on configurations and never on single seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.ledger import FAILED, Ledger, Trial

ORDER, TRIAL = "order", "trial"
"""Keys of what goes to a worker and of what comes back: JSON texts, which Tune passes on as they are."""

LOST_IN_A_ROW = 3


class CellSearcher(Searcher):  # type: ignore[misc]
    """Gives out the cells that the ledger does not hold, in their order, and writes each result to the ledger.

    Args:
        orders: the cells to run. Those in the ledger are passed over.
        retry_failed: the ones that failed count as not run.
        on_change: called when a cell starts and when one ends.
    """

    def __init__(
        self,
        orders: Iterable[CellOrder],
        ledger: Ledger,
        *,
        retry_failed: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        trials, _ = ledger.read()
        self.trials = {key: t for key, t in trials.items() if not (retry_failed and t.status == FAILED)}
        self.running: dict[str, CellOrder] = {}
        self._waiting = [order for order in orders if order.key not in self.trials]
        self._waiting.reverse()
        self._ledger = ledger
        self.on_change = on_change
        self._stopped = False
        self._lost_in_a_row = 0

    @property
    def has_work(self) -> bool:
        """Whether any cell waits for its turn."""
        return bool(self._waiting)

    @property
    def workers_fail(self) -> bool:
        """Whether cell after cell has lost its worker: it is not the cells."""
        return self._lost_in_a_row >= LOST_IN_A_ROW

    def stop(self) -> None:
        """Give out no further cells."""
        self._stopped = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self._stopped or self.workers_fail or not self._waiting:
            return str(Searcher.FINISHED)
        order = self._waiting.pop()
        self.running[trial_id] = order
        self.on_change()
        return {ORDER: json.dumps(order.to_dict())}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        order = self.running.pop(trial_id, None)
        if order is None:
            return
        self._lost_in_a_row = self._lost_in_a_row + 1 if error else 0
        if error:
            self._record(_lost(order))
        elif result and result.get(TRIAL):
            self._record(Trial.from_json(result[TRIAL]))
        else:  # the worker was told to stop before it began
            self._waiting.append(order)
        self.on_change()

    def _record(self, trial: Trial) -> None:
        self._ledger.append(trial)
        self.trials[trial.key] = trial

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore it, and here the ledger is what a study is resumed from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""


def _lost(order: CellOrder) -> Trial:
    return Trial(
        key=order.key,
        configuration=order.configuration,
        factors=order.factors,
        tricks={name: values for entry in order.recipe["tricks"] for name, values in entry.items()},
        seed=order.recipe["training"]["seed"],
        status=FAILED,
        error="its worker process was lost again and again (killed, out of memory, or a crash in native code)",
    )
