"""A study's results, written into its folder: summary.json and report.html."""

from __future__ import annotations

import os
from pathlib import Path

from finetricks.errors import InputError
from finetricks.yaml_file import load_yaml
from finetricks_tuning.across import Across
from finetricks_tuning.data_sets import FOLDER, NAME
from finetricks_tuning.folder import STUDY, refuse_links_in
from finetricks_tuning.manifest import FILE as PLAN
from finetricks_tuning.report import write_report, write_report_across
from finetricks_tuning.summary import Summary, summarise


def results_of(folder: Path) -> Summary | Across:
    """What the study in `folder` came to so far, on one data set or on several.

    Raises:
        InputError: it holds no study, or a symbolic link: what that points to would be shown.
    """
    if os.path.isdir(folder):
        refuse_links_in(folder)
    if not os.path.isdir(folder / FOLDER) or not (folder / STUDY).is_file():
        return summarise(folder)
    named = _data_sets(folder)
    begun = [name for name in named if (folder / FOLDER / name / PLAN).is_file()]
    if not begun:
        raise InputError(f"{folder} holds a study of which nothing was run yet")
    waiting = [name for name in named if name not in begun]
    return Across.of({name: summarise(folder / FOLDER / name) for name in begun}, waiting)


def _data_sets(folder: Path) -> list[str]:
    """The names of the data sets. Somebody may have sent the folder: none of them leads out of it."""
    study = load_yaml(folder / STUDY)
    named = study.data.get("data_sets") if isinstance(study.data, dict) else None
    if not isinstance(named, dict):
        raise InputError(f"{study.place(('data_sets',))}: the folder holds several data sets, but its study names none")
    for name in named:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(f"{folder / STUDY}: {name!r} names no folder of a data set in {folder / FOLDER}")
    return list(named)


def write_results(folder: str | Path, *, refresh: int | None = None) -> Summary | Across:
    """Write summary.json and report.html of the study in `folder`, finished or not; on several data sets, of each too.

    Args:
        refresh: seconds after which a browser loads the report again, while the study is not at its end.

    Raises:
        InputError: the folder holds no study.
    """
    folder = Path(folder).absolute()
    found = results_of(folder)
    if isinstance(found, Across):
        for name in found.summaries:
            _write(found.summaries[name], folder / FOLDER / name, refresh)
        found.write(folder)
        write_report_across(found, folder, refresh=refresh)
        return found
    return _write(found, folder, refresh)


def write_summary(folder: Path, *, refresh: int | None = None) -> Summary:
    """`write_results` of a study on one data set."""
    return _write(summarise(folder), folder, refresh)


def _write(summary: Summary, folder: Path, refresh: int | None) -> Summary:
    summary.write(folder)
    write_report(summary, folder, refresh=refresh)
    return summary
