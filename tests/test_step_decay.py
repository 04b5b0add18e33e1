from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch.optim.lr_scheduler import StepLR

import tiny
from finetricks_plugins.schedule.step_decay import StepDecay, step_factor
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.1), (2, 0.5), (3, 0.97), (50, 0.1)])
def test_it_equals_torch_at_every_step(steps: int, per_epoch: int, by: str, step_size: int, gamma: float) -> None:
    expected = theirs(lambda optimizer: StepLR(optimizer, step_size, gamma), steps, per_epoch, by)
    assert ours(StepDecay(step_size=step_size, gamma=gamma, by=by), steps, per_epoch) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


def test_numbers_by_hand() -> None:
    assert [step_factor(t, 3, 0.5) for t in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_the_plan_falls_between_epochs() -> None:
    plan = tiny.recipe(StepDecay(step_size=1, gamma=0.5), epochs=2).bind(tiny.bert(), tiny.loader()).plan
    assert plan.schedule == (1.0,) * 6 + (0.5,) * 6


@pytest.mark.parametrize("values", [{"step_size": 0}, {"gamma": 0}, {"gamma": 1.1}, {"by": "batch"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StepDecay(**values)
