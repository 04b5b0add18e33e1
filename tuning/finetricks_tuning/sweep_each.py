"""A study run on each of its data sets, one after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetricks_tuning.across import Across
from finetricks_tuning.data_sets import FOLDER
from finetricks_tuning.folder import check_folder, writing
from finetricks_tuning.results import write_results
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import OnUpdate, sweep


def sweep_each(
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
) -> Across:
    """Run a study that has several data sets, as `sweep` runs one that has one; the arguments are the same.

    `out` holds study.yaml, and summary.json and report.html of all; `out/data_sets/NAME` is a study's folder for each.

    Raises:
        InputError: the study, its data, its model, the folder or the address cannot be used.
    """
    folder = Path(out).absolute()
    check_folder(folder, study, resume=resume, overwrite=overwrite)
    with writing(folder, study, overwrite=overwrite):
        for name, one in study.data_sets.items():
            summary = sweep(
                one,
                folder / FOLDER / name,
                resume=True,  # this folder is held, and was emptied if it was to be replaced
                retry_failed=retry_failed,
                address=address,
                on_update=_named(on_update, name),
                command=command,
                trust_remote_code=trust_remote_code,
            )
            if not summary.complete:
                break  # it was interrupted: that is of the whole study
        across = write_results(folder)
        assert isinstance(across, Across)
        return across


def _named(on_update: OnUpdate | None, data_set: str) -> OnUpdate | None:
    return None if on_update is None else lambda status: on_update(replace(status, data_set=data_set))
