"""A range test as a picture: the loss over the rate, and where the recipe's rate lies."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from finetricks.doctor.rates import GROWN, RangeTest
from finetricks.picture import FORMATS, INK, STYLE, WIDTH

BLUE, RED = "#33658a", "#b23a48"


def save_picture(test: RangeTest, path: Path) -> None:
    """Draw a range test to a file, whose suffix says in which format. Equal tests give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        draw(test).savefig(path, dpi=200, metadata=dict(FORMATS[path.suffix.lower()]))


def draw(test: RangeTest) -> Figure:
    """The picture, as a figure of its own (no pyplot state)."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    finite = [index for index, loss in enumerate(test.losses) if math.isfinite(loss)]
    rates, losses = np.array(test.rates)[finite], np.array(test.losses)[finite]
    axes.plot(rates, losses, ".", color="0.7", markersize=3, label="loss of a batch")
    axes.plot(rates, np.array(test.smooth)[finite], color=INK, linewidth=1.4, label="smoothed")
    axes.set_xscale("log")
    low, high = float(losses.min()), GROWN * float(losses[0])
    axes.set_ylim(low - 0.08 * (high - low), high)
    axes.axvline(test.recipe, color=BLUE, linewidth=1.2, label=f"the recipe's highest rate, {test.recipe:.2g}")
    axes.axvline(test.lowest, color=INK, linewidth=0.8, linestyle=":", label=f"lowest loss, {test.lowest:.1g}")
    right = max(test.rates[-1], test.recipe) * 2
    if test.explodes is not None:
        axes.axvspan(
            test.explodes, right, color=RED, alpha=0.15, linewidth=0, label=f"explodes, from {test.explodes:.1g}"
        )
    axes.set_xlim(test.rates[0] / 2, right)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(loc="lower left", frameon=False, fontsize=7)
    return figure
