"""Every finished cell, by configuration and seed."""

from __future__ import annotations

from collections.abc import Sequence

from finetricks_tuning.pictures.style import FAINT, INK, label_rows, numbered, rows, svg
from finetricks_tuning.summary import ConfigurationSummary, Summary


def strips(summary: Summary, shown: Sequence[ConfigurationSummary]) -> str:
    """A strip for each configuration of `shown`, its mean, and a line through each seed."""
    known = [(c, c.mean) for c in shown if c.mean is not None]
    names = numbered([c.name for c in summary.configurations])
    with rows(len(known)) as (figure, axes):
        for seed in dict.fromkeys(seed for c, _ in known for seed in c.values):
            points = [(c.values[seed], y) for y, (c, _) in enumerate(known) if seed in c.values]
            axes.plot(*zip(*points, strict=True), "-", color=FAINT, linewidth=0.7)
        for y, (configuration, mean) in enumerate(known):
            values = list(configuration.values.values())
            axes.plot(values, [y] * len(values), "o", color=INK, markersize=4)
            axes.plot(mean, y, "|", color=INK, markersize=16, markeredgewidth=2)
        label_rows(axes, [names[c.name] for c, _ in known])
        axes.set_xlabel(f"{summary.metric} (valid)")
        text = f"{summary.metric} of every finished cell by configuration; thin lines join the cells of one seed."
        return svg(figure, "strips", text)
