"""At which learning rates does the loss fall, and where does the recipe's lie? A range test (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetricks.doctor.case import Case, fullest, peak_rate, trained_in, with_rates
from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.errors import Diverged

LOWEST, HIGHEST = 1e-6, 1.0
PER_DECADE = 8

KEPT = 0.75
"""Of the mean of the losses so far, at each step."""

GROWN = 2.0
"""So many times the first loss is where it has exploded."""

FALLS = 0.05
"""The share of the first loss by which it falls at least, where something is learnt."""

LOW = 1000
"""So many times below the rate of the lowest loss a recipe's rate is low."""


@dataclass(frozen=True)
class RangeTest:
    """Losses of successive batches, each at a higher rate than the one before.

    Attributes:
        rates: base rates, before the factors of the layers.
        losses: of the batch before the step at that rate; the last may be infinite.
        recipe: the recipe's highest rate.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    recipe: float

    @property
    def smooth(self) -> list[float]:
        """The exponentially weighted mean of the losses so far."""
        return smoothed(self.losses)

    @property
    def explodes(self) -> float | None:
        """The rate at which the loss has grown beyond all measure; `None` where it has not."""
        return self.rates[-1] if not self.smooth[-1] < GROWN * self.losses[0] else None

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smooth))]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest, up to where it is lowest."""
        smooth = np.array(self.smooth[: int(np.argmin(self.smooth)) + 1])
        return self.rates[int(np.argmin(np.diff(smooth)))] if len(smooth) > 1 else self.rates[0]

    @property
    def fell(self) -> float:
        """By which share of the first loss."""
        return 1 - min(self.smooth) / self.losses[0]


def smoothed(losses: Sequence[float]) -> list[float]:
    found, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = KEPT * mean + (1 - KEPT) * loss
        found.append(mean / (1 - KEPT**count))
    return found


def check_rates(case: Case) -> Iterator[Finding]:
    test = range_test(case)
    if test is None:
        yield ok("the recipe trains no layer")
        return
    yield judged(test, case.smaller)
    if case.picture is not None:
        from finetricks.doctor.rates_picture import save_picture

        save_picture(test, case.picture)
        yield ok(f"picture: {case.picture}")


def range_test(case: Case) -> RangeTest | None:
    """Train over rising rates, until the loss explodes; `None` for a recipe that trains nothing."""
    session = case.session()
    if not trained_in(session.plan, fullest(session.plan)):
        return None
    recipe = peak_rate(session.plan)
    rates = _rates(min(LOWEST, recipe / 10), max(HIGHEST, recipe * 10))
    session.hold(with_rates(session.plan, rates))
    losses: list[float] = []
    session.model.train()
    for batch in session.batches():
        loss = session.loss(batch)
        losses.append(loss.item())
        if not smoothed(losses)[-1] < GROWN * losses[0]:
            break
        session.backward(loss)
        try:
            session.step()
        except Diverged:
            losses.append(math.inf)
            break
        case.on_step(len(losses), len(rates))
    return RangeTest(tuple(rates[: len(losses)]), tuple(losses), recipe)


def _rates(low: float, high: float) -> list[float]:
    count = math.ceil(PER_DECADE * math.log10(high / low)) + 1
    return [float(rate) for rate in np.geomspace(low, high, count)]


def judged(test: RangeTest, smaller: str = "") -> Finding:
    """Where the recipe's rate lies. `smaller`: what to say of the batches."""
    grows = f", and grows beyond {GROWN:g} times its beginning by {test.explodes:.1g}" if test.explodes else ""
    told = f"the loss is lowest at {test.lowest:.1g}{grows}; the recipe's highest rate is {test.recipe:.2g}{smaller}"
    if test.explodes and test.recipe >= test.explodes:
        return wrong(f"{told}, where training explodes", f"set training.learning_rate to about {test.lowest / 10:.0e}")
    if test.fell < FALLS:
        return look(
            f"the loss falls at no rate by {FALLS:.0%} of {test.losses[0]:.3g}; the recipe's is {test.recipe:.2g}",
            "see what the checks of one batch and of gradients say; labels may have nothing to do with the texts",
        )
    if test.recipe > test.lowest:
        return look(
            f"{told}, beyond where the loss falls", f"try training.learning_rate at about {test.lowest / 10:.0e}"
        )
    if test.recipe < test.lowest / LOW:
        return look(f"{told}, which is low", f"try training.learning_rate at about {test.lowest / 10:.0e}")
    return ok(f"{told}; it falls fastest at {test.steepest:.1g}")
