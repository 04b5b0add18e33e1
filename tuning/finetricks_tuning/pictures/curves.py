"""How configurations came to their results: learning curves, and what the best of several runs gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetricks_tuning.pictures.style import FAINT, INK, STYLE, WIDTH, numbered, svg
from finetricks_tuning.summary import ConfigurationSummary, Summary

Curve = Mapping[float, Sequence[float]]
"""By epoch, the metric of each seed."""


def learning_curves(summary: Summary, curves: Mapping[str, Curve]) -> str:
    """A panel for each configuration: the mean over seeds, the range as a band; the baseline's mean beside it."""
    names = numbered([c.name for c in summary.configurations])
    baseline = curves.get(summary.baseline.name)
    columns = 2 if len(curves) > 1 else 1
    lines = math.ceil(len(curves) / columns)
    with rc_context(STYLE | {"font.size": 9}):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.25 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, (name, curve) in zip(panels, curves.items(), strict=False):
            if baseline is not None and curve is not baseline:
                panel.plot(list(baseline), [np.mean(v) for v in baseline.values()], "--", color=FAINT, linewidth=1)
            epochs = list(curve)
            low, high = [min(v) for v in curve.values()], [max(v) for v in curve.values()]
            panel.fill_between(epochs, low, high, color=FAINT, alpha=0.3, linewidth=0)
            panel.plot(epochs, [np.mean(v) for v in curve.values()], "o-", color=INK, linewidth=1.5, markersize=2.5)
            panel.set_title(names[name], fontsize=8, loc="left", parse_math=False).set_in_layout(False)
        for panel in panels:
            panel.spines[["right", "top"]].set_visible(False)
        for panel in panels[len(curves) :]:
            panel.set_visible(False)
        figure.supxlabel("epoch", fontsize=9)
        figure.supylabel(f"{summary.metric} (valid)", fontsize=9)
        text = f"{summary.metric} over the epochs by configuration: mean and range over seeds."
        return svg(figure, "curves", text)


def best_of(summary: Summary, shown: Sequence[ConfigurationSummary]) -> str:
    """The expected best of 1, 2, ... runs, of the configurations of `shown`."""
    names = numbered([c.name for c in summary.configurations])
    marks = cycle(["o", "s", "^", "v", "D", "x", "P"])
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for configuration in shown:
            runs = range(1, len(configuration.best_of) + 1)
            first = configuration is summary.baseline
            label = names[configuration.name]
            axes.plot(
                runs,
                configuration.best_of,
                marker=next(marks),
                linestyle="--" if first else "-",
                color=INK,
                linewidth=1,
                markersize=4,
                label=label.replace("$", r"\$"),
            )
        axes.spines[["right", "top"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.4)
        axes.set_xlabel("runs, of which the best is kept")
        axes.set_ylabel(f"expected {summary.metric}")
        figure.legend(loc="outside lower left", fontsize=8)
        return svg(figure, "best-of", f"Expected best {summary.metric} of several runs, by configuration.")
