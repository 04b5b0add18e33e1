"""The folder of what is computed once and found again by what it was made of. It can be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`FINETRICKS_CACHE`, else `$XDG_CACHE_HOME/finetricks`, else `~/.cache/finetricks`."""
    if own := os.environ.get("FINETRICKS_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "finetricks"
