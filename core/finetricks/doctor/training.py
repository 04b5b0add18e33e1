"""The checks of a recipe's training, in the order in which they are made: what costs least first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from finetricks.doctor.case import Case
from finetricks.doctor.dead_units import check_dead_units
from finetricks.doctor.finding import Finding
from finetricks.doctor.gradients import check_gradients
from finetricks.doctor.labels import check_labels
from finetricks.doctor.overfit import check_overfit
from finetricks.doctor.rates import check_rates
from finetricks.doctor.truncation import check_truncation

TRAINING: Mapping[str, Callable[[Case], Iterable[Finding]]] = {
    "labels": check_labels,
    "truncation": check_truncation,
    "dead units": check_dead_units,
    "gradients": check_gradients,
    "overfit": check_overfit,
    "rates": check_rates,
}
