from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch.optim.lr_scheduler import ConstantLR

import tiny
from finetricks import RecipeError
from finetricks_plugins.schedule.constant import Constant
from finetricks_plugins.schedule.stlr import SlantedTriangular
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize(("factor", "total_iters"), [(1.0, 5), (0.5, 1), (1 / 3, 4), (0.1, 999)])
def test_it_equals_torch_at_every_step(steps: int, per_epoch: int, by: str, factor: float, total_iters: int) -> None:
    expected = theirs(lambda optimizer: ConstantLR(optimizer, factor, total_iters), steps, per_epoch, by)
    assert ours(Constant(factor=factor, total_iters=total_iters, by=by), steps, per_epoch) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


def test_by_default_it_is_the_base_rate_throughout() -> None:
    assert ours(Constant(), 50, 5) == [1.0] * 50
    without = tiny.trained(tiny.recipe())[1]
    assert tiny.equal(tiny.trained(tiny.recipe(Constant()))[1], without)


def test_the_rate_is_smaller_for_the_first_epochs() -> None:
    recipe = tiny.recipe(Constant(factor=0.5, total_iters=1))
    assert recipe.bind(tiny.bert(), tiny.loader()).plan.schedule == (0.5,) * 6 + (1.0,) * 6


def test_it_owns_the_schedule() -> None:
    with pytest.raises(RecipeError, match="both own the 'schedule' hook; pick one"):
        tiny.recipe(Constant(), SlantedTriangular())


@pytest.mark.parametrize("values", [{"factor": 0}, {"factor": 1.5}, {"total_iters": 0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Constant(**values)
