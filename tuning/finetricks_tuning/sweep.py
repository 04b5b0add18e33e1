"""A study run to its end: checked, run on Ray Tune, and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import InputError
from finetricks.storage import telling
from finetricks_tuning.address import check_address
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.folder import check_folder, writing
from finetricks_tuning.heads import MOST, Heads, order_of
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.limit import forget
from finetricks_tuning.loopback import keep_to_this_machine
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.plans import draw_plans
from finetricks_tuning.preflight import Needs
from finetricks_tuning.prepare import Prepared, prepare
from finetricks_tuning.results import write_summary
from finetricks_tuning.rounds import Rounds
from finetricks_tuning.status import Status, StatusKeeper
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, Summary
from finetricks_tuning.underfit import loss_of_the_shares, regularisers

if TYPE_CHECKING:
    from finetricks_tuning.searcher import CellSearcher

OnUpdate = Callable[[Status], None]
UPDATE_EVERY = 0.2  # seconds


def sweep(
    study: Study,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    on_update: OnUpdate | None = None,
    command: str = "finetricks sweep study.yaml --out DIR",
    trust_remote_code: bool = False,
) -> Summary:
    """Run a study and write its folder `out`: study.yaml, trials.jsonl, summary.json, report.html, cells/.

    Everything is checked, and the data are read, before Ray starts. Ctrl-C once lets the running cells finish, twice
    stops at once; either way the summary is of what there is (`complete` is false), and the study can be resumed.

    Args:
        resume: go on with the study in `out`; its cells that have a result are not run again. It may have more seeds
            or factors by now.
        overwrite: replace the study in `out`.
        retry_failed: run cells again that failed. Diverged ones would diverge again, and are not.
        address: of a running Ray cluster; by default Ray runs on this machine for as long as the study does.
        on_update: called with the status when a cell starts or ends, a few times a second at most.
        command: what runs the study again, for the report.
        trust_remote_code: execute code that comes with the model. No study can ask for it.

    Raises:
        InputError: the study, its data, its model, the folder or the address cannot be used.
        StorageError: the folder can no longer be written; the study can be resumed.
    """
    if study.data_sets:
        raise InputError("the study has several data sets: run it with sweep_each")
    folder = Path(out).absolute()
    check_folder(folder, study, resume=resume, overwrite=overwrite)
    if address is not None:
        check_address(address)
    prepared = prepare(study, trust_remote_code=trust_remote_code)
    with telling(folder), writing(folder, study, overwrite=overwrite):
        session = _Session(study, prepared, folder, command)
        with suppress(KeyboardInterrupt):
            session.run(retry_failed, address, on_update)
        return write_summary(folder)


class _Session:
    """One go at the cells of a study that have no result."""

    def __init__(self, study: Study, prepared: Prepared, folder: Path, command: str) -> None:
        self._study = study
        self._prepared = prepared
        self._folder = folder
        self._command = command
        self._rounds = Rounds(study, prepared.make, greater_is_better=prepared.greater_is_better)
        self._warnings = _warnings(study, prepared)
        self._loss_of_the_shares = loss_of_the_shares(study, prepared.task_of(study.recipe))
        self._heads = Heads(prepared.task_of)

    def run(self, retry_failed: bool, address: str | None, on_update: OnUpdate | None) -> None:
        if address is None:
            keep_to_this_machine()
        from finetricks_tuning.engine import Resources, run_cells
        from finetricks_tuning.searcher import CellSearcher
        from finetricks_tuning.worker import HOLD, Plugins

        searcher = CellSearcher(
            self._next_round,
            Ledger(self._folder / LEDGER),
            self._folder / HOLD if self._study.settings.isolation == "warm" else None,
            retry_failed=retry_failed,
            exhausted=self._exhausted,
        )
        if on_update is not None:
            searcher.on_change = self._updates(searcher, on_update)
        try:
            if searcher.has_work():
                searcher.on_change()
                forget(self._folder)
                run_cells(
                    searcher,
                    self._folder,
                    plugins=Plugins.of(self._study.catalog),
                    tasks=self._prepared.tasks,
                    device=self._prepared.device,
                    resources=Resources.of(self._study, self._prepared.gpus),
                    needs=Needs.of(self._study, self._prepared.tasks.values()),
                    isolation=self._study.settings.isolation,
                    cell_minutes=self._study.settings.cell_minutes,
                    loggers=self._study.settings.loggers,
                    address=address,
                )
        finally:
            self._plan(searcher.ended).write(self._folder)
        if searcher.ended:
            finished = {trial.configuration for trial in searcher.trials.values() if trial.status == FINISHED}
            draw_plans(
                self._study,
                self._rounds.configurations,
                self._rounds.rates,
                self._prepared.tasks,
                self._folder,
                finished=finished,
            )

    def _next_round(self, trials: Mapping[str, Trial]) -> list[CellOrder]:
        cells = self._rounds.next(trials)
        self._plan().write(self._folder)
        saves = self._study.design.saves_models
        if self._study.settings.heads == "apart":
            return [CellOrder.of(cell, save_model=saves) for cell in cells]
        budget = self._study.settings.budget
        left = MOST if budget is None or budget.cells is None else budget.cells - len(trials)
        groups = self._heads.groups(cells, at_most=left)
        self._warnings += tuple(told for told in self._heads.told() if told not in self._warnings)
        self._plan().write(self._folder)
        return [order_of(group, save_model=saves) for group in groups]

    def _exhausted(self, trials: Mapping[str, Trial], running: int, slots: float) -> str:
        budget = self._study.settings.budget
        gpus = self._prepared.gpus * self._study.settings.workers_per_cell
        return budget.exhausted(trials.values(), running, slots=slots, gpus=gpus) if budget else ""

    def _plan(self, ended: str = "") -> Manifest:
        """What is planned by now, for the report."""
        study, rounds = self._study, self._rounds
        return Manifest(
            study=study.to_dict(),
            configurations={configuration.name: configuration.levels for configuration in rounds.configurations},
            cells=tuple(rounds.planned),
            left_out=tuple(left_out.to_dict() for left_out in study.left_out),
            greater_is_better=self._prepared.greater_is_better,
            points={c.name: c.searched for c in rounds.configurations if c.searched},
            valid_examples=len(self._prepared.task_of(study.recipe).splits["valid"]),
            warnings=self._warnings,
            command=self._command,
            decisions=tuple(rounds.decisions),
            rates=rounds.rates,
            recommendation=rounds.recommendation.to_dict() if rounds.recommendation else None,
            ended=ended,
            regularisers=regularisers(study),
            loss_of_the_shares=self._loss_of_the_shares,
        )

    def _updates(self, searcher: CellSearcher, on_update: OnUpdate) -> Callable[[], None]:
        keeper = StatusKeeper(searcher.trials)
        last = -UPDATE_EVERY

        def update() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= UPDATE_EVERY or not searcher.running:
                last = now
                on_update(keeper.now(self._plan(), searcher.trials, at_work(searcher)))

        return update


def at_work(searcher: CellSearcher) -> list[CellOrder]:
    """The cells that are running."""
    return [cell for order in searcher.running.values() for cell in order.cells]


def _warnings(study: Study, prepared: Prepared) -> tuple[str, ...]:
    """What a reader of the results must know of how the study was set up."""
    warnings = list(prepared.task_of(study.recipe).notes)
    if study.recipe.stack().owner("schedule") is None:
        warnings.append("the baseline has no learning-rate schedule: beside it, any decay may look like a discovery")
    factors = {factor.name for factor in study.factors}
    if factors and "training.learning_rate" not in factors and study.settings.tune_learning_rate is None:
        warnings.append(
            "every configuration was trained at one learning rate: a trick that only changes the effective rate is "
            "credited for it; tune_learning_rate finds a rate for each, or training.learning_rate can be a factor"
        )
    return tuple(warnings)
