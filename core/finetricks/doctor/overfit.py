"""Does the loss of one batch fall at every step, when nothing is random? Else nothing else will be learnt either."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from finetricks.doctor.case import Case, first_batches, fullest, peak_rate, still, trained_in, with_rates
from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.errors import Diverged, FinetricksError

STEPS = 10

SLOWER, SLOW = (1, 0.1, 0.01), 1e-5
"""The rates that are tried: the recipe's, parts of it, and one that is low for any model."""

LEARNT = 0.01
"""The share of the first loss below which it need not fall any more."""

SAME = 1e-5
"""By which share two losses of one batch may differ: some kernels of GPUs add up in any order."""


@dataclass(frozen=True)
class Course:
    """The losses of one batch, before each step and after the last; `math.inf` where it was not finite any more."""

    rate: float
    losses: tuple[float, ...]

    @property
    def rises(self) -> list[int]:
        """The steps, from 1, that did not make the loss smaller."""
        pairs = zip(self.losses, self.losses[1:], strict=False)
        return [step for step, (a, b) in enumerate(pairs, 1) if not b < a and not b < LEARNT * self.losses[0]]

    @property
    def diverged(self) -> bool:
        return not self.losses[-1] < self.losses[0]

    def __str__(self) -> str:
        return " ".join(f"{loss:.4g}" for loss in self.losses)


def check_overfit(case: Case) -> Iterator[Finding]:
    session = case.session()
    if not trained_in(session.plan, fullest(session.plan)):
        yield ok("the recipe trains no layer")
        return
    peak = peak_rate(session.plan)
    rates = [*(peak * share for share in SLOWER), min(peak * SLOWER[-1] / 10, SLOW)]
    courses: list[Course] = []
    for rate in rates:
        try:
            course, repeats = _course(case, rate)
        except FinetricksError as error:
            yield wrong(
                str(error), "let the output depend on what is trained: look for detach() and no_grad() in the model"
            )
            return
        courses.append(course)
        if not repeats:
            yield look(
                "the loss of one batch is another when computed again, though nothing is dropped: something draws",
                "let what draws stop in evaluation mode, or draw from step.generator(self)",
            )
        if not course.rises:
            break
    yield _judged(courses)


def _judged(courses: list[Course]) -> Finding:
    first, last = courses[0], courses[-1]
    if not first.rises:
        return ok(
            f"the loss of one batch fell at each of {STEPS} steps, from {first.losses[0]:.4g} to {first.losses[-1]:.4g}"
        )
    steps = f"step{'s' * (len(first.rises) > 1)} {', '.join(map(str, first.rises))}"
    if last.rises:
        return wrong(
            f"the loss of one batch falls at no rate: at {first.rate:.2g} not at {steps} ({first}), at {last.rate:.2g} "
            f"not at {', '.join(map(str, last.rises))} ({last})",
            "its gradient is not that of the loss: look for detach(), no_grad(), rounding, or a loss that does not "
            "read the output; the check of gradients says which layers get none",
        )
    finding = wrong if first.diverged else look
    return finding(
        f"at the highest rate of the recipe, {first.rate:.2g}, the loss of one batch did not fall at {steps}: {first}; "
        f"at {last.rate:.2g} it fell at each",
        "lower training.learning_rate, or begin slowly (warmup)",
    )


def _course(case: Case, rate: float) -> tuple[Course, bool]:
    """What becomes of one batch's loss at a rate; and whether it is the same when it is computed twice.

    Raises:
        FinetricksError: the loss depends on nothing that is trained.
    """
    session = case.session()
    session.hold(with_rates(session.plan, [rate] * (STEPS + 1)), still=True)
    with still(session.model):
        (batch,) = first_batches(session, 1)
        losses = [session.loss(batch).item()]
        loss = session.loss(batch)
        repeats = math.isclose(loss.item(), losses[0], rel_tol=SAME) or not math.isfinite(losses[0])
        for step in range(1, STEPS + 1):
            session.backward(loss)
            try:
                session.step()
            except Diverged:
                losses.append(math.inf)
                break
            loss = session.loss(batch)
            losses.append(loss.item() if math.isfinite(loss.item()) else math.inf)
            case.on_step(step, STEPS)
    return Course(rate, tuple(losses)), repeats
