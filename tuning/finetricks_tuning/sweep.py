"""A study run to its end: checked, run on Ray Tune, and reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks_tuning.address import check_address
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.folder import check_folder, writing
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.loopback import keep_to_this_machine
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.prepare import Prepared, prepare
from finetricks_tuning.report import write_report
from finetricks_tuning.status import Status, StatusKeeper
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, Summary, summarise

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

    Raises:
        InputError: the study, its data, its model, the folder or the address cannot be used.
    """
    folder = Path(out).absolute()
    check_folder(folder, study, resume=resume, overwrite=overwrite)
    if address is not None:
        check_address(address)
    prepared = prepare(study)
    with writing(folder, study, overwrite=overwrite):
        manifest = _manifest(study, prepared, command)
        manifest.write(folder)
        session = _Session(study, prepared, folder, manifest)
        with suppress(KeyboardInterrupt):
            session.run(retry_failed, address, on_update)
        return write_results(folder)


def write_results(folder: str | Path) -> Summary:
    """Write summary.json and report.html of the study in `folder`, finished or not.

    Raises:
        InputError: the folder holds no study.
    """
    folder = Path(folder).absolute()
    summary = summarise(folder)
    summary.write(folder)
    write_report(summary, folder)
    return summary


@dataclass(frozen=True)
class _Session:
    """One go at the cells of a study that have no result."""

    study: Study
    prepared: Prepared
    folder: Path
    manifest: Manifest

    def run(self, retry_failed: bool, address: str | None, on_update: OnUpdate | None) -> None:
        if address is None:
            keep_to_this_machine()
        from finetricks_tuning.engine import Resources, run_cells
        from finetricks_tuning.searcher import CellSearcher
        from finetricks_tuning.worker import Plugins

        orders = [CellOrder.of(cell) for cell in self.prepared.cells]
        searcher = CellSearcher(orders, Ledger(self.folder / LEDGER), retry_failed=retry_failed)
        if on_update is not None:
            searcher.on_change = self._updates(searcher, on_update)
            searcher.on_change()
        if searcher.has_work:
            run_cells(
                searcher,
                self.folder,
                plugins=Plugins.of(self.study.catalog),
                tasks=self.prepared.tasks,
                device=self.prepared.device,
                resources=Resources(self.study.threads, self.prepared.gpus),
                address=address,
            )

    def _updates(self, searcher: CellSearcher, on_update: OnUpdate) -> Callable[[], None]:
        keeper = StatusKeeper(self.manifest, searcher.trials)
        last = -UPDATE_EVERY

        def update() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= UPDATE_EVERY or not (searcher.running or searcher.has_work):
                last = now
                on_update(keeper.now(searcher.trials, searcher.running.values()))

        return update


def _manifest(study: Study, prepared: Prepared, command: str) -> Manifest:
    task = prepared.task_of(study.recipe)
    warnings = list(task.notes)
    if study.recipe.stack().owner("schedule") is None:
        warnings.append("the baseline has no learning-rate schedule: beside it, any decay may look like a discovery")
    if "training.learning_rate" not in {factor.name for factor in study.factors}:
        warnings.append(
            "every configuration was trained at one learning rate: a trick that only changes the effective rate is "
            "credited for it; training.learning_rate can be a factor"
        )
    return Manifest(
        study=study.to_dict(),
        configurations={configuration.name: configuration.levels for configuration in study.configurations},
        cells=tuple(PlannedCell(cell.key, cell.configuration.name, cell.seed) for cell in prepared.cells),
        left_out=tuple(left_out.to_dict() for left_out in study.left_out),
        greater_is_better=prepared.greater_is_better,
        valid_examples=len(task.splits["valid"]),
        warnings=tuple(warnings),
        command=command,
    )
