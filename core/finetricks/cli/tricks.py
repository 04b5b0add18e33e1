"""The commands about tricks: which there are, what one of them does, and a schema of recipes that use them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from finetricks.cli.console import new_table, output, print_json, warn, working
from finetricks.cli.options import AsJson, Plugins, catalog_with


def list_tricks(plugins: Plugins = None, as_json: AsJson = False) -> None:
    """List the tricks that are installed."""
    from finetricks.cli.card import headline, hooks_in_words, not_for_this_version, origin_in_words

    catalog = catalog_with(plugins)
    with working("reading the tricks"):
        broken = catalog.broken()
        tricks = [headline(name, catalog) for name in catalog.names() if name not in broken]
    for reason in [*broken.values(), *not_for_this_version(tricks)]:
        warn(reason)
    if as_json:
        print_json(tricks)
        return
    table = new_table("trick", "hooks", "", "from")
    names, hooks = table.columns[:2]
    names.no_wrap = True  # a plugin file's long path would break what people look for
    hooks.max_width = 20
    for trick in tricks:
        table.add_row(*map(escape, (trick["name"], hooks_in_words(trick), trick["summary"], origin_in_words(trick))))
    output().print(table)


def show(
    trick: Annotated[str, typer.Argument(metavar="TRICK", help="A trick's name.", show_default=False)],
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Show a trick: what it does, its fields, where it comes from."""
    from finetricks.cli.card import card, print_card

    found = card(trick, catalog_with(plugins))
    if as_json:
        print_json(found)
    else:
        print_card(found, output())


def schema(plugins: Plugins = None) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from finetricks.schema import recipe_schema

    catalog = catalog_with(plugins)
    with working("reading the tricks"):
        broken = catalog.broken()
        found = recipe_schema(catalog)
    for reason in broken.values():
        warn(reason)
    print_json(found)
