"""A study run to its end: checked, run on Ray Tune, and reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks_tuning.cell import Cell, Keys, cells_of, task_key
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.folder import open_folder, write_study
from finetricks_tuning.ledger import FAILED, Ledger, only_writer
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.report import write_report
from finetricks_tuning.status import Status, StatusKeeper
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, Summary, summarise

if TYPE_CHECKING:
    from finetricks.tasks import Task

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
    command: str = "",
) -> Summary:
    """Run a study and write its folder `out`: study.yaml, trials.jsonl, summary.json, report.html, cells/.

    Everything is checked, and the data are read, before Ray starts. Ctrl-C once lets the running cells finish, twice
    stops at once; both can be resumed.

    Args:
        resume: go on with the study in `out`; its cells that have a result are not run again. It may have more seeds
            or factors by now.
        overwrite: replace the study in `out`.
        retry_failed: also run cells again that failed. Diverged ones would diverge again, and are not.
        address: of a running Ray cluster; by default Ray runs on this machine for as long as the study does.
        on_update: called with the status when a cell starts or ends, a few times a second at most.
        command: what runs the study again, for the report.

    Raises:
        InputError: the study, its data, its model, the folder or the address cannot be used.
    """
    folder = Path(out).absolute()
    tasks = _Tasks()
    device, gpus = _device(study)
    _check_metric(study, tasks)
    cells = cells_of(study, Keys(tasks.of, device))
    open_folder(folder, study, resume=resume, overwrite=overwrite)
    with only_writer(folder):
        write_study(folder, study)
        manifest = _manifest(study, cells, tasks, command)
        manifest.write(folder)
        ledger = Ledger(folder / LEDGER)
        if retry_failed:
            ...
        try:
            _run(study, cells, folder, ledger, manifest, tasks, device, gpus, address, on_update)
        finally:
            summary = summarise(folder)
            summary.write(folder)
            write_report(summary, folder)
    return summary
