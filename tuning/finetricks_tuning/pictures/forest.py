"""Effects with their intervals."""

from __future__ import annotations

from matplotlib.axes import Axes

from finetricks_tuning.effects import Effect
from finetricks_tuning.pictures.style import FAINT, INK, MARKS, label_rows, rows, svg
from finetricks_tuning.summary import Summary


def forest(summary: Summary) -> str:
    """Each level's effect with its intervals, over seeds and over seeds and examples, one under the other."""
    shown = [(row, row.estimate) for row in summary.rows if row.estimate is not None]
    with rows(len(shown)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1)
        if margin := summary.manifest.study.get("equivalence"):
            axes.axvspan(-margin, margin, color=FAINT, alpha=0.15, linewidth=0)
        for y, (row, estimate) in enumerate(shown):
            _effect(axes, y, row, estimate)
        label_rows(axes, [row.name for row, _ in shown])
        axes.set_xlabel(f"difference in {summary.metric} (valid)")
        return svg(figure, "forest", f"Effect of each level on {summary.metric}, with intervals; see the table above.")


def _effect(axes: Axes, y: int, row: Effect, estimate: float) -> None:
    marker, colour = MARKS.get(row.verdict, ("o", INK))
    if row.ci_data is not None:
        axes.plot(row.ci_data, (y, y), "|-", color=colour, linewidth=0.8, markersize=6)
    if row.ci is not None:
        axes.plot(row.ci, (y, y), color=colour, linewidth=2.5, solid_capstyle="butt")
    for difference in (row.differences or {}).values():
        axes.plot(difference, y + 0.18, "|", color=FAINT, markersize=5)
    filled = colour if row.verdict in MARKS else "none"
    axes.plot(estimate, y, marker, color=colour, markerfacecolor=filled, markersize=8)
