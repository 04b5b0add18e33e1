from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import tiny
from finetricks import Session
from finetricks_plugins.freeze.two_stage import THAW, TwoStage
from finetricks_plugins.schedule.linear_decay import LinearDecay
from finetricks_plugins.schedule.stlr import SlantedTriangular


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


def held_out_rises_until(session: Session, epoch: int) -> list[int]:
    """Train, with a metric that rises up to `epoch` (from 1) and then falls; how many layers each step trains."""
    trained = []
    for batch in session.batches():
        trained.append(5 - len(session.plan.stage_at(session.global_step).frozen))
        session.backward(session.loss(batch))
        if session.step() and session.global_step % 6 == 0:
            done = session.global_step // 6
            session.evaluated({"accuracy": done if done <= epoch else -done})
    return trained


def test_stage_one_lasts_until_the_metric_stops_rising() -> None:
    session = tiny.recipe(TwoStage(until="accuracy", lr_factor=0.5), epochs=5).bind(tiny.bert(), tiny.loader())
    assert [stage.end for stage in session.plan.stages] == [30]  # as long as it can last
    trained = held_out_rises_until(session, epoch=2)
    assert trained == [1] * 18 + [5] * 12  # no better at the third evaluation: the fourth epoch trains everything
    assert session.plan.decisions == {THAW: 18}
    assert session.plan.schedule == (1.0,) * 18 + (0.5,) * 12
    assert {group["lr"] for group in session.optimizer.param_groups} == {0.5e-3}


def test_stage_one_until_a_metric_can_have_a_longest() -> None:
    session = tiny.recipe(TwoStage(until="accuracy", fraction=0.4), epochs=5).bind(tiny.bert(), tiny.loader())
    assert held_out_rises_until(session, epoch=5) == [1] * 12 + [5] * 18
    assert session.plan.decisions == {}


@pytest.mark.parametrize("at", [12, 18, 24])
def test_a_decision_survives_resume(at: int, tmp_path: Path) -> None:
    def bound() -> Session:
        return tiny.recipe(TwoStage(until="accuracy"), epochs=5).bind(tiny.bert(), tiny.loader())

    whole, first, second = bound(), bound(), bound()
    held_out_rises_until(whole, epoch=2)
    for batch in first.batches():
        first.backward(first.loss(batch))
        if first.step() and first.global_step % 6 == 0:
            first.evaluated({"accuracy": [1.0, 2.0, -3.0, -4.0, -5.0][first.global_step // 6 - 1]})
            if first.global_step == at:
                break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    held_out_rises_until(second, epoch=2)
    assert tiny.equal(second.model, whole.model)
    assert second.plan == whole.plan


def test_a_decision_leaves_a_schedule_of_stages_as_it_was_before() -> None:
    tricks = TwoStage(until="accuracy", lr_factor=1), SlantedTriangular(restart="per_stage")
    session = tiny.recipe(*tricks, epochs=5).bind(tiny.bert(), tiny.loader())
    before = session.plan
    held_out_rises_until(session, epoch=2)
    assert [stage.end for stage in session.plan.stages] == [18, 30]
    assert session.plan.schedule[:18] == before.schedule[:18]  # the triangle of a stage of 30 steps, cut off
    assert session.plan.schedule[18:] == tiny.recipe(tricks[1]).bind(tiny.bert(), tiny.loader()).plan.schedule  # of 12


def test_epochs_and_until_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="epochs and until both set the length"):
        TwoStage(epochs=2, until="accuracy")
