"""Is there room where models, data and states are kept?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.cache import cache_folder
from finetricks.doctor.finding import Finding, look, ok, wrong

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

LITTLE, LEAST = 5 * 2**30, 2**30
"""Bytes. A model of the size of BERT is half a gigabyte, replay on disk keeps up to two."""


def check_space(catalog: Catalog) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _room("finetricks' cache", cache_folder(), "FINETRICKS_CACHE")
    yield _room("the Hub's cache", Path(HF_HUB_CACHE), "HF_HOME")


def _room(whose: str, folder: Path, variable: str) -> Finding:
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    elsewhere = f"or set {variable} to a folder elsewhere"
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return wrong(f"{whose}, {folder}, cannot be written", f"make it writable, {elsewhere}")
    free = shutil.disk_usage(parent).free
    told = f"{whose}, {folder}, has {free / 2**30:.1f} GiB of room"
    if free >= LITTLE:
        return ok(told)
    return (wrong if free < LEAST else look)(told, f"make room (`finetricks cache` shows what is kept), {elsewhere}")
