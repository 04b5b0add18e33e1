"""The command that begins a package with a trick of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetricks.cli.console import output


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The trick's name: gentle_decay.", show_default=False)],
    *,
    hook: Annotated[str, typer.Option("--hook", metavar="HOOK", help="What the trick begins with.")] = "schedule",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder, new; finetricks-NAME by default.")
    ] = None,
) -> None:
    """Write a package with a working trick of your own, its tests, its page and its CI."""
    from finetricks.new_plugin import write_plugin

    folder = write_plugin(name, hook, out)
    lines = (
        f"the trick: {folder / 'src' / f'finetricks_{name}' / '__init__.py'}",
        f"install it: pip install --editable {folder}",
        f"test it: pytest {folder}",
    )
    for line in lines:
        output().print(line, markup=False, soft_wrap=True)
