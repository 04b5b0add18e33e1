"""What stands in files and labels may carry control characters. A terminal shows them; it does not obey them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.segment import Segment

from finetricks.errors import printable


class LiteralConsole(Console):
    """A console of rich that prints the control characters in what it is given, but its own styles as ever."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def echo(text: str) -> None:
    """Write data on stdout: to the byte into a file or a pipe, literally on a terminal."""
    typer.echo(printable(text) if sys.stdout.isatty() else text, nl=False)
