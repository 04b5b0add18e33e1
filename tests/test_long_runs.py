"""Memory, file descriptors and threads stay flat, over the steps of a run and over the runs of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import every
import killing
import tiny
from finetricks import Session, Step, Trick, hookimpl
from usage import Usage, growth, usage

Record = Callable[[str, object], None]
SAMPLES = 6
STEPS_PER_EPOCH = 6
"""Of the tiny task: 22 rows in batches of 4."""
RUNS = [pytest.param(12, id="12"), pytest.param(50, id="50", marks=pytest.mark.nightly)]
ACTIVATIONS = 50_000
"""Bytes of what the model computed for one batch, some of which lives until the next; its length varies."""
RESIDENT = 24 * 2**20
"""Bytes that the allocator may keep beyond what is alive."""


# -- over the steps of a run -----------------------------------------------------------------------------


def over_steps(session: Session, steps: int) -> list[Usage]:
    """Train, and look every so many steps: first when the last layer has thawed, and its optimizer state is there."""
    start = max(stage.start for stage in session.plan.stages) + STEPS_PER_EPOCH
    looks = [start + number * (steps - start) // (SAMPLES - 1) for number in range(SAMPLES)]
    samples = []
    session.model.train()
    for batch in session.batches():
        session.backward(session.loss(batch))
        if session.step() and session.plan.deciders and session.global_step % STEPS_PER_EPOCH == 0:
            session.evaluated({"accuracy": session.global_step})  # it gets better, so that nothing stops
        del batch
        if session.global_step in looks:
            samples.append(usage())
    return samples


def long_recipe(names: tuple[str, ...], steps: int) -> Any:
    # Without replay: what it keeps grows until every example is known, within its bound.
    return every.recipe(*names, epochs=steps / STEPS_PER_EPOCH, replay="off")


TOGETHER = [names for names in every.together() if names != ("predict_only",)]  # which does no step


STEPS = [
    pytest.param(
        names, steps, id=f"{names[0]}-{steps}", marks=[pytest.mark.nightly] if steps > 96 or number > 1 else []
    )
    for number, names in enumerate(TOGETHER)
    for steps in (96, 1998)
]
"""Two recipes over few steps in CI; all of them, and over many steps, at night."""


@pytest.mark.parametrize(("names", "steps"), STEPS)
def test_nothing_grows_over_the_steps_of_a_run(names: tuple[str, ...], steps: int, record_property: Record) -> None:
    session = every.bound(long_recipe(names, steps), *names)
    assert session.plan.total_steps >= steps / 2  # few_shot leaves fewer rows
    samples = over_steps(session, session.plan.total_steps)
    flat(samples)
    record_property("steps looked over", session.global_step)


def flat(samples: list[Usage]) -> None:
    """Nothing that is alive grows; of what Python and the allocator keep, no more than a few objects and pages."""
    assert len(samples) == SAMPLES
    grown = growth(samples[1:])  # what other tests left may still be there at the first
    assert grown["tensors"] <= 0
    assert max(grown["files"], grown["threads"]) < 1  # what other tests left may open one or two
    assert grown["tensor_bytes"] < ACTIVATIONS
    assert grown["objects"] < 10
    assert samples[-1].resident - samples[1].resident < RESIDENT


KEPT: list[Any] = []


class Hoarding(Trick):
    """Keeps something of every step, as a careless trick would."""

    what: str

    @hookimpl
    def regularize(self, step: Step) -> None:
        if self.what == "tensors":
            KEPT.append(torch.zeros(1000))
        elif self.what == "objects":
            KEPT.append([step.progress.step])
        elif self.what == "files":
            KEPT.append(Path("/dev/null").open())  # noqa: SIM115


@pytest.mark.parametrize("what", ["tensors", "objects", "files"])
def test_what_a_trick_hoards_is_found(what: str) -> None:
    session = tiny.recipe(Hoarding(what=what), epochs=12).bind(tiny.bert(blocks=1), tiny.loader())
    try:
        with pytest.raises(AssertionError):
            flat(over_steps(session, session.plan.total_steps))
    finally:
        for kept in KEPT:
            getattr(kept, "close", str)()
        KEPT.clear()


# -- over the runs of a process --------------------------------------------------------------------------


def over_runs(recipes: list[tuple[str, ...]], runs: int, folder: Path, after: Callable[[], None] = str) -> list[Usage]:
    """Train recipes in turn, each in a folder of its own; what the process holds after each round."""
    samples = []
    for number in range(runs):
        names = recipes[number % len(recipes)]
        killing.run(every.recipe(*names), names, folder / str(number))
        after()
        if number % len(recipes) == len(recipes) - 1:
            samples.append(usage())
    return samples


def settled(samples: list[Usage], models: int) -> dict[str, float]:
    """The growth a round, after the first, which imports modules and fills caches: less than a model's."""
    grown = growth(samples[1:])
    assert max(grown["tensors"], grown["tensor_bytes"]) <= 0
    assert max(grown["files"], grown["threads"]) < models  # one a run would be more
    assert grown["objects"] < 100 * models
    assert samples[-1].resident - samples[1].resident < RESIDENT * models
    return grown


@pytest.mark.parametrize("runs", RUNS)
def test_nothing_grows_over_the_runs_of_a_process(runs: int, tmp_path: Path, record_property: Record) -> None:
    recipes = every.together() if runs > 40 else [("stlr",), *every.together()[1:4]]
    settled(over_runs(recipes, runs, tmp_path), len(recipes))
    record_property("runs looked over", runs)


def test_a_run_that_leaves_its_model_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        settled(over_runs([("stlr",)], 4, tmp_path, lambda: KEPT.append(tiny.bert())), 1)
    KEPT.clear()
