"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from finetricks.cli.literal import LiteralConsole
from finetricks.errors import printable

WIDTH_OF_A_FILE = 120  # columns of a table that goes into a file or a pipe


def output() -> Console:
    """The console of results."""
    fits_terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return LiteralConsole(highlight=False, width=None if fits_terminal else WIDTH_OF_A_FILE)


def messages() -> Console:
    """The console of warnings, errors and progress."""
    return LiteralConsole(stderr=True, highlight=False)


def complain(message: str) -> None:
    _say("error: ", "bold red", message)


def warn(message: str) -> None:
    _say("warning: ", "yellow", message)


def _say(label: str, style: str, message: str) -> None:
    messages().print(Text.assemble((label, style), printable(message)), soft_wrap=True)


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Names of files may hold bytes that are no text; in JSON they have escapes.
    typer.echo("".join(c if not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in text))


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and what belongs to them, aligned."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(escape(printable(name)), escape(printable(value)))
    output().print(table)


def new_table(*headers: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for header in headers:
        table.add_column(header)
    return table


def quiet_libraries() -> None:
    """Leave the showing of progress to this command line; the libraries' own bars would tear its lines apart."""
    from datasets.utils.logging import disable_progress_bar as quiet_datasets
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_datasets()
    quiet_transformers()


@contextmanager
def logged(console: Console) -> Iterator[None]:
    """Show what the core and the built-in tricks report while they work: further pretraining takes its time."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    loggers = [logging.getLogger(name) for name in ("finetricks", "finetricks_plugins")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show in a terminal that something takes its time."""
    console = messages()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
