"""A study's folder: who may write there, and whether what it holds is the same study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from finetricks.errors import InputError
from finetricks.folder import write_atomically
from finetricks_tuning import manifest
from finetricks_tuning.study import Study

STUDY = "study.yaml"


def open_folder(folder: Path, study: Study, *, resume: bool, overwrite: bool) -> None:
    """Make the folder ready for a study.

    Raises:
        InputError: it holds a study and neither `resume` nor `overwrite` is asked for; it holds another study than the
            one to resume; or it holds something that is no study (which is never deleted).
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude one another: continue the study, or replace it")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / STUDY).is_file():
            raise InputError(f"{folder} is not empty and holds no study; name a new or an empty folder")
        if overwrite:
            shutil.rmtree(folder)
        elif not resume:
            raise InputError(f"{folder} already holds a study: --resume continues it, --overwrite replaces it")
        else:
            _check_extends(study, Study.load(folder / STUDY, catalog=study.catalog), folder)
    folder.mkdir(parents=True, exist_ok=True)


def write_study(folder: Path, study: Study) -> None:
    write_atomically(folder / STUDY, study.to_yaml())


def _check_extends(study: Study, before: Study, folder: Path) -> None:
    """A study may be resumed with more seeds or more factors: every cell that it had must be among its cells now."""
    now = {_recipe(study, c.recipe(study.recipe, seed)) for c in study.configurations for seed in study.settings.seeds}
    for configuration in before.configurations:
        for seed in before.settings.seeds:
            if _recipe(before, configuration.recipe(before.recipe, seed)) not in now:
                differ = [key for key, value in before.to_dict().items() if study.to_dict()[key] != value]
                raise InputError(
                    f"{folder} holds another study: its cell {configuration.name!r}, seed {seed}, is not in this one "
                    f"(what differs: {', '.join(differ)}); a study can be resumed with more seeds or factors, "
                    "otherwise name another folder"
                )
