"""A report that is kept up to date while its study runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from finetricks_tuning.data_sets import FOLDER
from finetricks_tuning.manifest import FILE as PLAN
from finetricks_tuning.summary import LEDGER

EVERY = 2.0  # seconds


def watch(folder: Path, write: Callable[[], bool], *, every: float = EVERY) -> None:
    """Call `write` now and whenever the study in `folder` has changed, until it says that the study has ended."""
    seen = None
    while True:
        now = _state(folder)
        if now != seen:
            seen = now  # before it is read: what comes meanwhile is seen next time
            if write():
                return
        time.sleep(every)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a cell ends or a round begins, of the study or of each of its data sets."""
    places = [folder, *sorted(folder.glob(f"{FOLDER}/*"))]
    files = [path for place in places for path in (place / LEDGER, place / PLAN) if path.exists()]
    return tuple((str(path), status.st_size, status.st_mtime_ns) for path in files for status in [path.stat()])
