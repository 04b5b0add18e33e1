from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch.optim.lr_scheduler import MultiStepLR

import tiny
from finetricks_plugins.schedule.multistep_decay import MultiStepDecay, multistep_factor
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize(("milestones", "gamma"), [([1], 0.1), ([2, 3, 17], 0.5), ([5, 2, 5], 0.3), ([999], 0.1)])
def test_it_equals_torch_at_every_step(
    steps: int, per_epoch: int, by: str, milestones: list[int], gamma: float
) -> None:
    expected = theirs(lambda optimizer: MultiStepLR(optimizer, milestones, gamma), steps, per_epoch, by)
    assert ours(MultiStepDecay(milestones=milestones, gamma=gamma, by=by), steps, per_epoch) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


def test_numbers_by_hand() -> None:
    assert [multistep_factor(t, [2, 4], 0.5) for t in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_plan_falls_at_the_milestone() -> None:
    plan = tiny.recipe(MultiStepDecay(milestones=[4], gamma=0.5, by="step")).bind(tiny.bert(), tiny.loader()).plan
    assert plan.schedule == (1.0,) * 4 + (0.5,) * 8


@pytest.mark.parametrize("values", [{"milestones": []}, {"milestones": [0]}, {"gamma": 0}, {"gamma": 2}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MultiStepDecay(**values)
