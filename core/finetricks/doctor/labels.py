"""Are there enough examples of each label?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.tasks.metrics import METRICS
from finetricks.tasks.table import listed

if TYPE_CHECKING:
    from finetricks.doctor.case import Case

RATIO = 10
"""The most frequent label may be so many times as frequent as another."""

FEW = 5
"""Examples of a label from which hardly anything is learnt."""

FAR = 10
"""Of a regression: labels may lie so far from 0, and be so far apart."""


def check_labels(case: Case) -> Iterator[Finding]:
    labels = np.asarray(case.task.splits["train"]["labels"][:])
    if case.task.kind == "regression":
        yield _values(labels)
        return
    names = case.task.labels
    several = case.task.kind == "multi_label"
    counts = labels.sum(0).astype(int) if several else np.bincount(labels, minlength=len(names))
    shares = counts / len(labels)
    most, least = int(counts.argmax()), int(counts.argmin())
    told = f"{len(labels)} examples of {len(names)} labels: {_told(case, least, most, counts, shares)}"
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    if absent:
        yield wrong(
            f"train has no example of {listed(absent)}",
            "no model can learn it: add examples, or leave the label out of the other splits",
        )
    if several:
        everywhere = [name for name, share in zip(names, shares, strict=True) if share == 1]
        if everywhere:
            yield wrong(
                f"every example of train has {listed(everywhere)}", "leave the column out: it tells nothing apart"
            )
        rare = [name for name, share in zip(names, shares, strict=True) if 0 < share < 1 / (RATIO + 1)]
    else:
        rare = [name for name, count in zip(names, counts, strict=True) if 0 < count < counts.max() / RATIO]
    few = [name for name, count in zip(names, counts, strict=True) if 0 < count < FEW]
    if few:
        yield look(f"fewer than {FEW} examples of {listed(few)}", "add examples, or merge labels")
    if rare:
        by = " or ".join(metric for metric in METRICS[case.task.kind] if metric in ("macro_f1", "mcc"))
        yield look(
            f"{told}; rare are {listed(rare)}",
            f"judge by {by}, not by {METRICS[case.task.kind][0]}, which the frequent decide; add examples of the rare",
        )
    if not (absent or few or rare):
        yield ok(told)


def _told(case: Case, least: int, most: int, counts: NDArray[Any], shares: NDArray[Any]) -> str:
    names = case.task.labels
    return (
        f"the most frequent, {names[most]}, has {counts[most]} ({shares[most]:.0%}), "
        f"the rarest, {names[least]}, {counts[least]} ({shares[least]:.0%})"
    )


def _values(labels: NDArray[Any]) -> Finding:
    mean, spread = float(labels.mean()), float(labels.std())
    told = f"{len(labels)} values with mean {mean:.3g} and standard deviation {spread:.3g}"
    if abs(mean) <= FAR and 1 / FAR <= spread <= FAR:
        return ok(told)
    return look(
        f"{told}: a fresh head begins at about 0, and errors of about 1 are what learning rates are made for",
        "subtract the mean from the labels and divide by the deviation, and undo it in what is predicted",
    )
