"""The plan: plain data, known before training, computed in one place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import Field
from torch import nn

import tiny
from finetricks import ParamOptions, Plan, Stack, Trick, TrickConflict, compile_plan, find_layers, hookimpl


class Rates(Trick):
    """A factor and a weight decay for what it is told."""

    rates: dict[str, float] = Field(default_factory=dict)
    decays: dict[str, float] = Field(default_factory=dict)

    @hookimpl
    def param_groups(self) -> dict[str, ParamOptions]:
        return {
            key: ParamOptions(lr_factor=self.rates.get(key), weight_decay=self.decays.get(key))
            for key in (*self.rates, *self.decays)
        }


class Rates2(Rates):
    """Another, so that two can stand in one recipe."""


def plan_of(*tricks: Trick, steps: int = 6, per_epoch: int = 2, **options: Any) -> Plan:
    model = tiny.bert()
    named = [(type(trick).__name__.lower(), trick) for trick in tricks]
    return compile_plan(
        Stack(named),
        model,
        find_layers(model),
        total_steps=steps,
        steps_per_epoch=per_epoch,
        learning_rate=0.1,
        **options,
    )


def by_name(plan: Plan) -> dict[str, Any]:
    return {group.name: group for group in plan.groups}


def test_without_tricks_one_group_a_layer_at_the_base_rate() -> None:
    plan = plan_of()
    assert [group.name for group in plan.groups] == ["embeddings", "block.0", "block.1", "block.2", "head"]
    assert {(group.lr_factor, group.weight_decay) for group in plan.groups} == {(1.0, 0.0)}
    assert plan.schedule == (1.0,) * 6
    assert not plan.freezes
    assert plan.warnings() == []


def test_factors_multiply_and_the_schedule_with_them() -> None:
    plan = plan_of(Rates(rates={"block.0": 0.5}), Rates2(rates={"block.0": 0.1, "head": 3}), tiny.Decay())
    groups = by_name(plan)
    assert groups["block.0"].lr_factor == 0.05
    assert groups["block.0"].set_by["lr_factor"] == ("rates", "rates2")
    assert groups["head"].set_by["lr_factor"] == ("rates2",)
    # base 0.1 x 0.05 x (1 - 3/6)
    assert plan.rate(groups["block.0"], 3) == pytest.approx(0.1 * 0.05 * 0.5)
    assert plan.rate(groups["block.1"], 5) == pytest.approx(0.1 / 6)


def test_a_parameters_options_stand_in_for_its_layers_field_by_field() -> None:
    plan = plan_of(Rates(rates={"head": 0.5}, decays={"head": 0.1, "classifier.bias": 0.0}))
    groups = by_name(plan)
    assert set(groups) >= {"head/wd=0.1", "head/wd=0"}
    assert groups["head/wd=0"].parameters == ("classifier.bias",)
    assert groups["head/wd=0"].lr_factor == groups["head/wd=0.1"].lr_factor == 0.5


@pytest.mark.parametrize(
    "tricks",
    [
        (Rates(decays={"classifier.bias": 0.0}),),  # as it was, but by a trick
        (Rates(rates={"classifier.bias": 2.0}), Rates2(rates={"classifier.bias": 0.5})),
        (Rates(rates={"classifier.bias": 1 / 3, "classifier.weight": 0.3333333}),),  # alike in the digits shown
    ],
)
def test_every_group_has_a_name_of_its_own(tricks: tuple[Trick, ...]) -> None:
    session = tiny.recipe(*tricks).bind(tiny.bert(), tiny.loader())
    names = [group.name for group in session.plan.groups]
    assert len(set(names)) == len(names) > 5
    assert sum(map(len, session.identity()["groups"].values())) == len(list(session.model.parameters()))
    rates = [session.plan.rate(group, 0) for group in session.plan.groups]
    assert [group["lr"] for group in session.optimizer.param_groups] == rates


def test_two_weight_decays_for_one_parameter_conflict() -> None:
    with pytest.raises(TrickConflict, match="rates and rates2 both set the weight decay of 'classifier"):
        plan_of(Rates(decays={"classifier.weight": 0.1}), Rates2(decays={"head": 0.2}))
    with pytest.raises(TrickConflict, match="training settings and rates both set"):
        plan_of(Rates(decays={"classifier.weight": 0.1}), weight_decay={"classifier.weight": 0.3})


def test_stages_cover_the_run_and_name_what_is_frozen() -> None:
    plan = plan_of(tiny.Unfreeze())
    assert plan.to_dict()["stages"] == [
        {"from": 0, "to": 2, "frozen": ["embeddings", "block.0", "block.1", "block.2"]},
        {"from": 2, "to": 4, "frozen": ["embeddings", "block.0", "block.1"]},
        {"from": 4, "to": 6, "frozen": ["embeddings", "block.0"]},
    ]
    assert plan.progress(3).stage == plan.stages[1]
    assert plan.stage_at(99) == plan.stages[2]
    for step in range(plan.total_steps):
        stage = plan.stage_at(step)
        assert stage.start <= step < stage.end


def test_layers_that_never_thaw_are_warned_of() -> None:
    assert plan_of(tiny.Unfreeze()).warnings() == ["2 of 5 layers never thaw within the 6 steps: embeddings, block.0"]


def test_everything_frozen_is_a_conflict() -> None:
    class All(Trick):
        """Freezes every layer in the second epoch."""

        @hookimpl
        def freeze(self, progress: Any, layers: Any) -> tuple[str, ...]:
            return layers.names if progress.epoch == 1 else ()

    with pytest.raises(TrickConflict, match="all: every layer is frozen at step 2 of 6"):
        plan_of(All())


def test_the_schedule_sees_its_stage() -> None:
    class Restart(Trick):
        """Starts again with each stage."""

        @hookimpl
        def schedule(self, progress: Any) -> float:
            return 1 - (progress.step - progress.stage.start) / progress.stage.steps

    assert plan_of(tiny.Unfreeze(), Restart()).schedule == (1.0, 0.5) * 3


def test_json_has_the_designed_shape() -> None:
    data = json.loads(json.dumps(plan_of(tiny.Decay()).to_dict()))
    assert set(data) == {
        "groups",
        "total_steps",
        "steps_per_epoch",
        "learning_rate",
        "stages",
        "decided_while_training",
        "replay",
    }
    assert set(data["groups"][0]) == {"name", "layer", "parameters", "lr_factor", "weight_decay", "set_by"}
    assert data["learning_rate"]["head"] == pytest.approx([0.1 * (6 - step) / 6 for step in range(6)])


def test_fingerprints_are_of_the_work_up_to_a_step() -> None:
    class Late(Trick):
        """As nothing until step 4."""

        after: float

        @hookimpl
        def schedule(self, progress: Any) -> float:
            return 1.0 if progress.step < 4 else self.after

    one, other = plan_of(Late(after=0.1)), plan_of(Late(after=0.2))
    assert one.fingerprint(4) == other.fingerprint(4)
    assert one.fingerprint(5) != other.fingerprint(5)
    assert one.fingerprint() != plan_of(Late(after=0.1), Rates(rates={"head": 2})).fingerprint()
    assert plan_of(tiny.Unfreeze()).fingerprint(2) == plan_of(tiny.Unfreeze(), steps=8).fingerprint(2)


def test_a_run_has_at_least_one_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        plan_of(steps=0)


def test_groups_are_found_on_any_model_with_explicit_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers = find_layers(model, explicit={"block.0": ["0"], "head": ["1"]})
    plan = compile_plan(Stack(), model, layers, total_steps=1, steps_per_epoch=1, learning_rate=1.0)
    assert [group.parameters for group in plan.groups] == [("0.weight", "0.bias"), ("1.weight", "1.bias")]
