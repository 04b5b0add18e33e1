from __future__ import annotations

import pytest

import tiny
from finetricks import Trick
from finetricks.stack import conflicts
from finetricks_plugins.freeze.chain_thaw import ChainThaw
from finetricks_plugins.freeze.full import Full
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.freeze.last_layer import LastLayer
from finetricks_plugins.freeze.predict_only import PredictOnly
from finetricks_plugins.freeze.sequential_unfreezing import SequentialUnfreezing
from finetricks_plugins.freeze.two_stage import TwoStage
from finetricks_plugins.init.glorot_normal import GlorotNormal
from finetricks_plugins.schedule.linear_decay import LinearDecay

TRAINING = {
    "full": Full(),
    "last_layer": LastLayer(),
    "chain_thaw": ChainThaw(),
    "gradual_unfreezing": GradualUnfreezing(),
    "sequential_unfreezing": SequentialUnfreezing(),
    "two_stage": TwoStage(),
}


def test_the_plan_freezes_every_layer_at_every_step() -> None:
    plan = tiny.recipe(PredictOnly()).bind(tiny.bert(), tiny.loader()).plan
    assert [(stage.start, stage.end) for stage in plan.stages] == [(0, 12)]
    assert plan.stages[0].frozen == set(plan.layers)


def test_no_weight_moves() -> None:
    losses, model = tiny.trained(tiny.recipe(PredictOnly()))
    assert losses == []
    assert tiny.equal(model, tiny.bert())
    assert not tiny.equal(tiny.trained(tiny.recipe())[1], tiny.bert())


def test_tricks_that_act_before_training_still_act() -> None:
    _, model = tiny.trained(tiny.recipe(PredictOnly(), GlorotNormal()))
    session = tiny.recipe(GlorotNormal()).bind(tiny.bert(), tiny.loader())
    assert tiny.equal(model, session.model)
    assert not tiny.equal(model, tiny.bert())


def test_tricks_that_only_act_while_training_find_nothing_to_do() -> None:
    assert tiny.equal(tiny.trained(tiny.recipe(PredictOnly(), LinearDecay()))[1], tiny.bert())


@pytest.mark.parametrize("name", TRAINING)
def test_it_excludes_what_trains_a_layer(name: str) -> None:
    other: Trick = TRAINING[name]
    [problem] = conflicts([("predict_only", PredictOnly()), (name, other)])
    assert str(problem).count("exclude one another") == 1
