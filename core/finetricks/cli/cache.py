"""The command that shows and clears the cache."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from finetricks.atomic import refuse_links
from finetricks.cache import cache_folder
from finetricks.cli.console import new_table, output, print_json
from finetricks.cli.options import AsJson
from finetricks.errors import InputError, shortened


def cache(
    clear: Annotated[
        str | None,
        typer.Option("--clear", metavar="KIND", help="Remove what is kept of this kind. Not while runs use it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is kept to spare later runs the work; everything there may be deleted."""
    root = cache_folder()
    kinds = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    if clear is not None:
        if clear not in kinds:
            there = ", ".join(kinds) or "nothing"
            raise InputError(f"nothing of the kind {shortened(clear)!r} is kept in {root}; there is: {there}")
        refuse_links(kinds[clear])
        shutil.rmtree(kinds.pop(clear))
    found = {kind: _summary(path) for kind, path in kinds.items()}
    if as_json:
        print_json({"folder": str(root), "kinds": [{"kind": kind, **about} for kind, about in found.items()]})
        return
    table = new_table("kind", "files", "MiB", "last used or written")
    for kind, about in found.items():
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(about["used"]))
        table.add_row(escape(kind), f"{about['files']}", f"{about['bytes'] / 2**20:.1f}", day)
    output().print(table)
    output().print(f"the cache: {root}", markup=False, soft_wrap=True)


def _summary(folder: Path) -> dict[str, float]:
    """Files, bytes on the disk, and when one was last changed (s)."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found.append(os.lstat(Path(place) / name))
            except FileNotFoundError:  # removed by a run meanwhile
                continue
    on_disk = sum(status.st_blocks * 512 for status in found)
    used = max((status.st_mtime for status in found), default=folder.stat().st_mtime)
    return {"files": len(found), "bytes": on_disk, "used": used}
