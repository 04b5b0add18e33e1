from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks_plugins.freeze.two_stage import TwoStage
from finetricks_plugins.schedule.linear_decay import LinearDecay


def test_the_head_alone_then_everything_at_a_smaller_rate() -> None:
    plan = tiny.recipe(TwoStage(epochs=1, lr_factor=0.1), epochs=3).bind(tiny.bert(), tiny.loader()).plan
    assert [(stage.start, stage.end, len(stage.frozen)) for stage in plan.stages] == [(0, 6, 4), (6, 18, 0)]
    assert plan.schedule == (1.0,) * 6 + (0.1,) * 12


def test_the_boundary_can_be_a_share_of_the_run() -> None:
    plan = tiny.recipe(TwoStage(fraction=0.5), epochs=3).bind(tiny.bert(), tiny.loader()).plan
    assert [stage.end for stage in plan.stages] == [9, 18]


def test_it_wraps_any_schedule() -> None:
    plan = tiny.recipe(LinearDecay(), TwoStage(lr_factor=0.5), epochs=2).bind(tiny.bert(), tiny.loader()).plan
    # 1 - t/12, halved from step 6 on
    assert plan.schedule == pytest.approx([1 - t / 12 if t < 6 else (1 - t / 12) / 2 for t in range(12)])


def test_a_run_that_ends_in_stage_one_is_warned_of() -> None:
    plan = tiny.recipe(TwoStage(epochs=5), epochs=2).bind(tiny.bert(), tiny.loader()).plan
    assert plan.warnings() == ["4 of 5 layers never thaw within the 12 steps: embeddings, block.0, block.1, block.2"]


def test_epochs_and_a_fraction_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="epochs and fraction both set the length"):
        TwoStage(epochs=2, fraction=0.2)
    assert TwoStage(**TwoStage(fraction=0.2).model_dump()) == TwoStage(fraction=0.2)  # as in a resolved recipe
