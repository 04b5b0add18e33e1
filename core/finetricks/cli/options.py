"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a setting: training.epochs=1, tricks.stlr.ratio=10."),
]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file with tricks of your own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]

Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Execute code that comes with the model. No recipe can ask for it."),
]


def catalog_with(plugins: Iterable[Path] | None) -> Catalog:
    """The installed tricks, and those of plugin files. Raises `InputError` for a file that cannot be used."""
    from finetricks.catalog import installed

    catalog = installed()
    for plugin in plugins or ():
        catalog = catalog.with_file(plugin)
    return catalog
