from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import Progress, Stage
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.schedule.stlr import SlantedTriangular, slanted_triangle


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 19, 25, 105, 1000])
@pytest.mark.parametrize(("cut_frac", "ratio"), [(0.1, 32), (0.3, 8), (0.9, 2)])
def test_it_is_right_at_every_length(steps: int, cut_frac: float, ratio: float) -> None:
    values = [slanted_triangle(step, steps, cut_frac, ratio) for step in range(steps)]
    cut = max(int(steps * cut_frac), 1)
    assert values[0] == pytest.approx(1 / ratio)
    assert min(values) >= 1 / ratio - 1e-12  # as printed, 19 steps end at -0.83 of the peak
    assert max(values) <= 1
    if steps > 1:
        assert values[cut] == 1.0
        assert values[:cut] == sorted(values[:cut])
        assert values[cut:] == sorted(values[cut:], reverse=True)


def test_numbers_by_hand() -> None:
    # T = 20, cut = 2: p = 0, 1/2, 1, 17/18, ..., 1/18; factor = (1 + 31 p) / 32
    values = [slanted_triangle(step, 20, 0.1, 32) for step in range(20)]
    assert values[:4] == pytest.approx([1 / 32, 16.5 / 32, 1, (1 + 31 * 17 / 18) / 32])
    assert values[-1] == pytest.approx((1 + 31 / 18) / 32)


def test_it_equals_the_papers_equation_where_that_is_sound() -> None:
    steps, cut_frac, ratio = 100, 0.1, 32  # steps * cut_frac is an integer
    cut = int(steps * cut_frac)
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert slanted_triangle(t, steps, cut_frac, ratio) == pytest.approx((1 + p * (ratio - 1)) / ratio)


def test_it_starts_again_at_each_unfreezing() -> None:
    trick = SlantedTriangular(restart="per_stage")
    stage = Stage(index=1, start=10, end=30)
    for step in range(10, 30):
        assert trick.schedule(Progress(step, 50, 10, stage)) == slanted_triangle(step - 10, 20, 0.1, 32)
    assert SlantedTriangular().schedule(Progress(10, 50, 10, stage)) == slanted_triangle(10, 50, 0.1, 32)


def test_the_plan_holds_a_triangle_for_each_stage_of_unfreezing() -> None:
    tricks = (SlantedTriangular(restart="per_stage"), GradualUnfreezing(stages=[1, 2]))
    plan = tiny.recipe(*tricks, epochs=4).bind(tiny.bert(), tiny.loader()).plan
    assert [(stage.start, stage.end) for stage in plan.stages] == [(0, 6), (6, 12), (12, 24)]
    triangles = [slanted_triangle(step, steps, 0.1, 32) for steps in (6, 6, 12) for step in range(steps)]
    assert plan.schedule == tuple(triangles)
    assert plan.schedule.count(1.0) == 3


def test_the_shortest_stages_by_hand() -> None:
    assert slanted_triangle(0, 1, 0.1, 32) == 1 / 32
    assert [slanted_triangle(step, 2, 0.1, 32) for step in range(2)] == [1 / 32, 1.0]
    # T = 19, cut = 1, then 18 steps from 1 down: the last has p = 1/18
    assert slanted_triangle(18, 19, 0.1, 32) == pytest.approx((1 + 31 / 18) / 32)
    # T = 9, cut = 0 as printed divides by zero; 1 here, the last has p = 1/8
    assert slanted_triangle(8, 9, 0.1, 32) == pytest.approx((1 + 31 / 8) / 32)


@pytest.mark.parametrize(
    "values", [{"cut_frac": 0}, {"cut_frac": 1}, {"ratio": 1}, {"ratio": float("inf")}, {"restart": "per_epoch"}]
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlantedTriangular(**values)
