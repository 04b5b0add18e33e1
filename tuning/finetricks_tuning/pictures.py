"""The report's pictures, as SVG that takes its colours from the page: it is light or dark as the page is."""

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

from finetricks_tuning.effects import HELPS, HURTS, Effect
from finetricks_tuning.summary import Summary

# matplotlib wants a colour for everything; these stand for the page's own.
INK, FAINT, GOOD, BAD, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
PAGE = {INK: "currentColor", FAINT: "var(--faint)", GOOD: "var(--good)", BAD: "var(--bad)", PAPER: "var(--paper)"}
MARKS = {HELPS: ("^", GOOD), HURTS: ("v", BAD)}  # the shape says it too
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
}
WIDTH = 4.4  # inches: readable on a phone without scaling


def forest(summary: Summary) -> str:
    """Effects with their intervals, one under the other."""
    rows = [(row, row.estimate) for row in summary.rows if row.estimate is not None]
    with _axes(len(rows)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1)
        for y, (row, estimate) in enumerate(rows):
            _effect(axes, y, row, estimate)
        _labels(axes, [row.name for row, _ in rows])
        axes.set_xlabel(f"difference in {summary.metric} (valid)")
        return _svg(figure, "forest", f"Effect of each level on {summary.metric}, with intervals; see the table above.")


def _effect(axes: Axes, y: int, row: Effect, estimate: float) -> None:
    marker, colour = MARKS.get(row.verdict, ("o", INK))
    if row.ci is not None:
        axes.plot(row.ci, (y, y), color=colour, linewidth=2, solid_capstyle="butt")
    for difference in (row.differences or {}).values():
        axes.plot(difference, y + 0.18, "|", color=FAINT, markersize=5)
    filled = colour if row.verdict in MARKS else "none"
    axes.plot(estimate, y, marker, color=colour, markerfacecolor=filled, markersize=8)


def strips(summary: Summary) -> str:
    """Every finished cell: a strip for each configuration, its mean, and a line through each seed."""
    shown = [(c, c.mean) for c in summary.configurations if c.mean is not None]
    with _axes(len(shown)) as (figure, axes):
        for seed in summary.manifest.study["seeds"]:
            points = [(c.values[seed], y) for y, (c, _) in enumerate(shown) if seed in c.values]
            if points:
                axes.plot(*zip(*points, strict=True), "-", color=FAINT, linewidth=0.7)
        for y, (configuration, mean) in enumerate(shown):
            axes.plot(
                list(configuration.values.values()), [y] * len(configuration.values), "o", color=INK, markersize=4
            )
            axes.plot(mean, y, "|", color=INK, markersize=16, markeredgewidth=2)
        _labels(axes, [c.name for c, _ in shown])
        axes.set_xlabel(f"{summary.metric} (valid)")
        text = f"{summary.metric} of every finished cell by configuration; thin lines join the cells of one seed."
        return _svg(figure, "strips", text)


@contextmanager
def _axes(rows: int) -> Iterator[tuple[Figure, Axes]]:
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.56 * max(rows, 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_ylim(rows - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.4)
        axes.locator_params(axis="x", nbins=5)
        yield figure, axes


def _labels(axes: Axes, names: Sequence[str]) -> None:
    """Names above their rows, where a long one does not squeeze the picture."""
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # lines that pass behind a name do not strike it out
    for y, name in enumerate(names):
        place = axes.get_yaxis_transform()
        axes.text(0, y - 0.32, name, transform=place, fontsize=10, va="center", bbox=box, zorder=5, parse_math=False)


def _svg(figure: Figure, name: str, text: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, stand_in in PAGE.items():
        svg = svg.replace(colour, stand_in)
    # Several pictures stand in one page, where an id may stand once.
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1)
