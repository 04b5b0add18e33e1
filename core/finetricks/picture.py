"""A plan as a picture: the learning rate of each layer over the run, and when each layer is trained.

Two panels over one axis of optimizer steps. Above, a line for each layer's learning rate while the layer is trained;
below, a row for each layer in the colour of its line, hatched where it is frozen: the rows are the legend too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from finetricks.errors import InputError
from finetricks.explain import trained
from finetricks.plan import Group, Plan

FORMATS: Mapping[str, Mapping[str, Any]] = {  # with the metadata that leave out the date: equal plans, equal files
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
WIDTH, RATES_HEIGHT = 6.8, 2.4  # inches: the text of a two-column paper is 6.8 wide
ROW_HEIGHT, LEAST_ROW_HEIGHT, MOST_ROWS_HEIGHT = 0.17, 0.115, 6.0
MOST_POINTS = 2000  # of a line: more cannot be seen, and make an SVG of megabytes
LOG_FROM = 30  # the ratio of two layers' rates from which a linear axis hides the lower one
STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "finetricks",
}
INK, GRID = "0.15", "0.88"
FROZEN: Mapping[str, Any] = {"facecolor": "none", "edgecolor": "0.72", "hatch": "//////", "linewidth": 0}


def check_format(path: Path) -> None:
    """Raise `InputError` for a file name whose suffix is no picture format."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the suffix says which kind of picture; use one of {', '.join(FORMATS)}")


def save_picture(plan: Plan, path: str | Path) -> None:
    """Draw `plan` to a file: PNG, SVG or PDF by its suffix. Equal plans give equal files.

    Raises:
        InputError: another suffix.
    """
    path = Path(path)
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        draw(plan).savefig(path, dpi=200, metadata=dict(FORMATS[path.suffix.lower()]))


def png(plan: Plan) -> bytes:
    """The picture of `plan` as a notebook shows it: a PNG at screen resolution."""
    written = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw(plan).savefig(written, format="png", dpi=110)
    return written.getvalue()


def draw(plan: Plan) -> Figure:
    """The picture of `plan`, as a figure of its own (no pyplot state)."""
    rows_height = max(min(ROW_HEIGHT * len(plan.layers), MOST_ROWS_HEIGHT), 3 * ROW_HEIGHT)
    # Dark for the input, light for the output; the palest end of the map cannot be seen on white.
    colours = mpl.colormaps["plasma"](np.linspace(0.0, 0.82, len(plan.layers))).tolist()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, RATES_HEIGHT + rows_height + 0.9), layout="constrained")
        rates, rows = figure.subplots(2, 1, sharex=True, height_ratios=[RATES_HEIGHT, rows_height])
        _draw_rates(rates, plan, colours)
        _draw_rows(rows, plan, colours)
        _label_rows(rows, plan, every=math.ceil(LEAST_ROW_HEIGHT * len(plan.layers) / rows_height))
        _draw_steps(rates, rows, plan)
    return figure


# -- the upper panel -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """The learning rate of one layer over one stretch of steps: the rate `rates[i]` holds from `steps[i]` on."""

    layer: int
    steps: Sequence[float]
    rates: Sequence[float]


def _lines(plan: Plan) -> list[_Line]:
    """A line for each stretch over which a layer is trained, and for each of its learning rates.

    Groups of a layer that differ only in weight decay have one rate, and so one line.
    """
    groups = {(group.layer, group.lr_factor): group for group in plan.groups}.values()
    steps = _sampled(plan)
    return [_line(plan, group, start, end, steps) for group in groups for start, end in trained(plan, group.layer)]


def _line(plan: Plan, group: Group, start: int, end: int, sampled: Sequence[int]) -> _Line:
    steps = [step for step in sampled if start <= step < end]
    rates = [plan.rate(group, step) for step in steps]
    # A rate holds until the next step: the last one's end is drawn too.
    return _Line(plan.layers.index(group.layer), [*steps, end], [*rates, rates[-1]])


def _sampled(plan: Plan) -> list[int]:
    """The steps that are drawn: all, or evenly chosen ones with each stage's first and last."""
    steps = np.linspace(0, plan.total_steps - 1, min(plan.total_steps, MOST_POINTS)).astype(int)
    edges = {edge for stage in plan.stages for edge in (stage.start, stage.end - 1)}
    return sorted({*steps.tolist(), *edges})


def _draw_rates(axes: Axes, plan: Plan, colours: Sequence[Any]) -> None:
    shared = len({group.lr_factor for group in plan.groups}) == 1
    # Where all layers share one rate, their lines would hide one another.
    lines = [_line(plan, plan.groups[0], 0, plan.total_steps, _sampled(plan))] if shared else _lines(plan)
    for line in lines:
        colour = INK if shared else colours[line.layer]
        axes.step(line.steps, line.rates, where="post", color=colour, linewidth=1.2, solid_capstyle="butt")
    label = "learning rate of all layers" if shared else "learning rate"
    peaks = [max(line.rates) for line in lines if max(line.rates) > 0]
    if peaks and max(peaks) / min(peaks) >= LOG_FROM:
        # What a schedule takes to almost nothing in its last steps is not worth half of the axis.
        lowest = min(max(min(rate for rate in line.rates if rate > 0), max(line.rates) / 50) for line in lines)
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.5, max(peaks) * 1.5)
        axes.set_ylabel(label)
    else:
        exponent = math.floor(math.log10(max(peaks, default=1.0)))
        axes.set_ylim(0, max(peaks, default=1.0) * 1.06)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate / 10**exponent:g}")
        axes.set_ylabel(rf"{label} ($\times 10^{{{exponent}}}$)")


# -- the lower panel -------------------------------------------------------------------------------------


def _draw_rows(axes: Axes, plan: Plan, colours: Sequence[Any]) -> None:
    for row, layer in enumerate(plan.layers):
        span = (row - 0.41, 0.82)
        frozen = [(stage.start, stage.steps) for stage in plan.stages if layer in stage.frozen]
        axes.broken_barh(frozen, span, **FROZEN)
        axes.broken_barh(
            [(start, end - start) for start, end in trained(plan, layer)],
            span,
            facecolor=colours[row],
            linewidth=0,
        )
    if plan.freezes:
        below = axes.transAxes + ScaledTranslation(0, -0.2, axes.figure.dpi_scale_trans)  # beside the axis' label
        axes.legend(
            handles=[Patch(label="frozen", **FROZEN)],
            loc="upper right",
            bbox_to_anchor=(1.0, 0.0),
            bbox_transform=below,
            borderaxespad=0,
            frameon=False,
            fontsize=7,
        )


def _label_rows(axes: Axes, plan: Plan, every: int) -> None:
    """The layers' names on the left, their factors on the right; `every` so many rows, from the top."""
    labelled = range(len(plan.layers) - 1, -1, -every)
    axes.set_ylim(-0.6, len(plan.layers) - 0.4)
    axes.set_yticks(labelled, [plan.layers[row] for row in labelled])
    right = axes.secondary_yaxis("right")
    right.set_yticks(labelled, [_factors(plan, plan.layers[row]) for row in labelled])
    for side in (axes, right):
        side.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    right.spines["right"].set_visible(False)
    axes.annotate("LR factor", (1, 1), (4, 1), xycoords="axes fraction", textcoords="offset points", fontsize=7)


def _factors(plan: Plan, layer: str) -> str:
    factors = dict.fromkeys(group.lr_factor for group in plan.groups if group.layer == layer)
    return ", ".join(f"× {factor:.3g}" for factor in factors)


# -- the axis of steps -----------------------------------------------------------------------------------


def _draw_steps(rates: Axes, rows: Axes, plan: Plan) -> None:
    rows.set_xlim(0, plan.total_steps)
    rows.set_xlabel("optimizer step")
    rows.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    epochs = rates.secondary_xaxis(
        "top",
        functions=(
            lambda step: np.asarray(step) / plan.steps_per_epoch,
            lambda epoch: np.asarray(epoch) * plan.steps_per_epoch,
        ),
    )
    locator = MaxNLocator(10, integer=True, steps=[1, 2, 5, 10])
    epochs.xaxis.set_major_locator(locator)
    epochs.set_xlabel("epoch")
    for epoch in locator.tick_values(0, plan.total_steps / plan.steps_per_epoch):
        for axes in (rates, rows):
            if 0 < epoch * plan.steps_per_epoch < plan.total_steps:
                axes.axvline(epoch * plan.steps_per_epoch, color=GRID, linewidth=0.8, zorder=0)
