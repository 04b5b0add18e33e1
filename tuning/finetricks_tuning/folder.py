"""A study's folder: who may write there, and whether what it holds is the same study."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetricks.atomic import holds_nothing, is_partial, refuse_links, write_atomically
from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks_tuning.data_sets import FOLDER as DATA_SETS
from finetricks_tuning.sharing import FOLDER as STEMS
from finetricks_tuning.study import Study

WANDB = "wandb"
STUDY, LOCK, LEDGER, PLAN = "study.yaml", ".lock", "trials.jsonl", "cells.json"
FILES = (LEDGER, PLAN, "summary.json", "report.html", ".stop", ".hold")
FOLDERS = ("cells", STEMS, DATA_SETS, "plans", "tensorboard", "mlflow", WANDB)
OWN = frozenset({STUDY, LOCK, *FILES, *FOLDERS})
"""All that a study's folder holds."""

HOUR = 3600.0  # seconds; a file is written in far less


def check_folder(folder: Path, study: Study, *, resume: bool, overwrite: bool) -> None:
    """Check, and change nothing.

    Raises:
        InputError: the folder holds a study and neither `resume` nor `overwrite` is asked for; it holds another study
            than the one to resume; or it holds something that is no part of a study (which is never deleted), or a
            symbolic link.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude one another: continue the study, or replace it")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    if not folder.is_dir():
        return
    if not is_study(folder):
        if holds_nothing(folder, {LOCK}):
            return
        raise InputError(f"{folder} is not empty and holds no study; name a new or an empty folder")
    refuse_links_in(folder)
    if resume:
        _check_extends(study, Study.load(folder / STUDY, catalog=study.catalog), folder)
    elif not overwrite:
        raise InputError(f"{folder} already holds a study: --resume continues it, --overwrite replaces it")
    elif others := sorted(path.name for path in folder.iterdir() if not _is_own(path.name)):
        raise InputError(
            f"{folder} also holds {', '.join(others[:3])}, which no study has written and --overwrite would delete; "
            "move it away, or name another folder"
        )


def is_study(folder: Path) -> bool:
    """Whether a sweep has begun here. Its YAML alone is none: its author may keep that in a folder of their own."""
    return (folder / STUDY).is_file() and ((folder / LOCK).is_file() or (folder / PLAN).is_file())


def refuse_links_in(folder: Path) -> None:
    """`refuse_links` for a study's folder, but for the links that wandb makes among its own files.

    Nothing of finetricks reads or writes there, and removing them follows no link.
    """
    studies = [folder, *(folder / DATA_SETS).glob("*")]
    refuse_links(folder, {own for study in studies for own in (study / WANDB).glob("*/wandb")})


def with_more_seeds(study: Study, folder: Path, count: int) -> Study:
    """The study with `count` seeds more than the study in `folder` has, or than its own where that holds none.

    Raises:
        InputError: `count` is not positive, or the folder's study cannot be read.
    """
    if count < 1:
        raise InputError(f"a number of seeds to add, at least 1, got {count}")
    there = (folder / STUDY).is_file()
    seeds = (Study.load(folder / STUDY, catalog=study.catalog) if there else study).settings.seeds
    more = range(max(seeds) + 1, max(seeds) + 1 + count)
    return Study(**study.to_dict() | {"seeds": [*seeds, *more]}, catalog=study.catalog)


@contextmanager
def writing(folder: Path, study: Study, *, overwrite: bool) -> Iterator[None]:
    """Hold a checked folder for the block, as its only writer; `overwrite` empties it first.

    Raises:
        InputError: another process is at work in it, or it cannot be written.
    """
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb")
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; name another folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another sweep is at work in {folder}; wait for it, or name another folder") from None
        if overwrite:
            _empty(folder)
        _remove_old_partials(folder)
        write_atomically(folder / STUDY, study.to_yaml())
        yield


def _empty(folder: Path) -> None:
    """Remove a study but for what says that there is one: a kill leaves one to be removed that has no results."""
    first = (LEDGER, PLAN)  # what says which cells are done
    for path in sorted(folder.iterdir(), key=lambda path: path.name not in first):
        if _is_own(path.name) and path.name not in (LOCK, STUDY):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_old_partials(folder: Path) -> None:
    """Remove what killed writers have left, but not what `report --watch` may be writing at this moment."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # it was written by now, and has its name
            if is_partial(path.name) and time.time() - path.stat().st_mtime > HOUR:
                path.unlink()


def _is_own(name: str) -> bool:
    return name in OWN or is_partial(name) or name.startswith(".preflight-")


def _check_extends(study: Study, before: Study, folder: Path) -> None:
    """A study may be resumed with more seeds or more factors: every cell that it had must be among its cells now."""
    any_seed = study.settings.seeds[0]
    now = {_recipe(study, c.recipe(study.recipe, any_seed)) for c in study.configurations}
    for configuration in before.configurations:
        is_known = _recipe(before, configuration.recipe(before.recipe, any_seed)) in now
        for seed in before.settings.seeds:
            if not is_known or seed not in study.settings.seeds:
                differ = [key for key, value in before.to_dict().items() if study.to_dict()[key] != value]
                raise InputError(
                    f"{folder} holds another study: its cell {configuration.name!r}, seed {seed}, is not in this one "
                    f"(what differs: {', '.join(differ)}); a study can be resumed with more seeds or factors, "
                    "otherwise name another folder"
                )


def _recipe(study: Study, recipe: Recipe) -> str:
    given = recipe.to_dict()
    given["training"] |= {"threads": study.threads, "checkpoint": None}
    return json.dumps(given, sort_keys=True)
