"""What stands in files and labels may carry control characters. A terminal shows them; it does not obey them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.segment import Segment

# C0 and DEL as their pictures; C1 (0x9b begins a command, too) and what turns the direction of writing as a mark.
_SHOWN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_SHOWN |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def literal(text: str) -> str:
    """`text` with a visible sign for each character that a terminal would obey, but for line breaks and tabs."""
    return text.translate(_SHOWN)


class LiteralConsole(Console):
    """A console of rich that prints the control characters in what it is given, but its own styles as ever."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(literal(segment.text), segment.style)


def echo(text: str) -> None:
    """Write data on stdout: to the byte into a file or a pipe, literally on a terminal."""
    typer.echo(literal(text) if sys.stdout.isatty() else text, nl=False)
