"""The best evaluation so far: what the tricks that decide from a metric have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from finetricks import InputError
from finetricks.errors import suggest
from finetricks.tasks.metrics import LOWER_IS_BETTER

Mode = Literal["auto", "max", "min"]


def check_metric(trick: str, metric: str | None, known: tuple[str, ...]) -> None:
    """Raise `InputError` where `metric` is not among those that the task is scored by, if these are known."""
    if metric is not None and known and metric not in known:
        raise InputError(
            f"{trick}.metric: the task has no metric {metric!r}{suggest(metric, known)}; it has {', '.join(known)}"
        )


def goodness(trick: str, metrics: Mapping[str, float], metric: str | None, mode: Mode) -> float:
    """The value of `metric` (by default the first), with its sign turned where lower is better.

    What is no number (a loss that diverged) is worse than everything.

    Raises:
        InputError: there is no such metric.
    """
    name = next(iter(metrics), "") if metric is None else metric
    if name not in metrics:
        raise InputError(f"{trick}.metric: no metric {name!r}{suggest(name, metrics)}; there are {', '.join(metrics)}")
    lower = mode == "min" or (mode == "auto" and (name in LOWER_IS_BETTER or name.endswith(("loss", "error"))))
    value = -metrics[name] if lower else metrics[name]
    return -math.inf if math.isnan(value) else value


def improves(value: float, state: dict[str, Any], min_delta: float) -> bool:
    """Whether `value` is better than the best before it; counts in `state` the evaluations since the best."""
    better = "best" not in state or value > state["best"] + min_delta
    state["best"] = value if better else state["best"]
    state["since"] = 0 if better else state["since"] + 1
    return better
