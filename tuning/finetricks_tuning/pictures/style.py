"""What the pictures share: their style, their colours, and how a figure becomes a part of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetricks_tuning.effects import EQUIVALENT, HELPS, HURTS

# matplotlib wants a colour for everything; these stand for the page's own.
INK, FAINT, GOOD, BAD, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
PAGE = {INK: "currentColor", FAINT: "var(--faint)", GOOD: "var(--good)", BAD: "var(--bad)", PAPER: "var(--paper)"}
MARKS = {HELPS: ("^", GOOD), HURTS: ("v", BAD), EQUIVALENT: ("s", INK)}  # the shape says it too
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "finetricks",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
WIDTH = 4.4  # inches: readable on a phone without scaling
LONGEST = 44  # characters of a name beside which a picture still has room


@contextmanager
def rows(count: int) -> Iterator[tuple[Figure, Axes]]:
    """A picture of so many rows, one under the other, over an axis of values."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.56 * max(count, 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_ylim(count - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.4)
        axes.locator_params(axis="x", nbins=5)
        yield figure, axes


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names above their rows, where a long one does not squeeze the picture."""
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # lines that pass behind a name do not strike it out
    for y, name in enumerate(names):
        text = axes.text(
            0,
            y - 0.32,
            name,
            transform=axes.get_yaxis_transform(),
            fontsize=10,
            va="center",
            bbox=box,
            zorder=5,
            parse_math=False,
        )
        text.set_in_layout(False)


def numbered(names: Sequence[str]) -> dict[str, str]:
    """How pictures call configurations: by name, or by number where a name is too long to stand in one."""
    if all(len(name) <= LONGEST for name in names):
        return {name: name for name in names}
    return {name: name if index == 0 else f"#{index}" for index, name in enumerate(names)}


def svg(figure: Figure, name: str, text: str) -> str:
    """The figure for the page; `name` keeps its ids apart from those of others, `text` is its alternative."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :]
    for colour, stand_in in PAGE.items():
        picture = picture.replace(colour, stand_in)
    # Several pictures stand in one page, where an id may stand once.
    picture = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", picture)
    return picture.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1)
