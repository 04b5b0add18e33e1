"""Interactions of two levels."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from finetricks_tuning.contrasts import level_names
from finetricks_tuning.pictures.style import BAD, FAINT, GOOD, INK, MARKS, STYLE, svg
from finetricks_tuning.summary import Summary

INCHES = 0.075  # of a character of a name, at its size
SIGNS = {"^": "▲", "v": "▼", "s": "≈"}


def heat_map(summary: Summary) -> str:
    """A square for each pair of levels: the estimate, larger where it is; framed and signed where it is decided."""
    names = [label for _, label in level_names(summary.manifest.configurations)]
    found = {row.name: row for row in summary.interactions if row.estimate is not None}
    largest = max((abs(row.estimate or 0.0) for row in found.values()), default=0.0) or 1.0
    side, longest = 0.62 * len(names), INCHES * max(map(len, names), default=0)
    with rc_context(STYLE):
        # The names stand beside the squares and, slanted, under them: long ones must not take the squares' own room.
        width, height = side + max(1.9, 0.5 + 1.6 * longest), side + max(1.7, 0.5 + 0.7 * longest)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for i, one in enumerate(names):
            for j in range(i + 1, len(names)):
                row = found.get(f"{one} x {names[j]}")
                if row is None or row.estimate is None:
                    continue
                better = (row.estimate > 0) == summary.manifest.greater_is_better
                mark, _ = MARKS.get(row.verdict, ("", INK))
                edge = {"edgecolor": INK, "linewidth": 1.5} if mark else {"linewidth": 0}
                size = 0.92 * np.sqrt(abs(row.estimate) / largest)
                axes.bar(i, size, size, j - size / 2, color=GOOD if better else BAD, alpha=0.35, **edge)
                axes.text(i, j, f"{SIGNS.get(mark, '')}{row.estimate:+.3f}", ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 1.5)
        axes.set_ylim(len(names) - 0.5, 0.5)
        axes.spines[["left", "right", "top", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelsize=9)
        axes.grid(color=FAINT, linewidth=0.4, alpha=0.3)
        axes.set_axisbelow(True)
        text = f"Interactions of each two levels in {summary.metric}, as squares whose area is the size."
        return svg(figure, "interactions", text)
