from __future__ import annotations

import pytest

import tiny
from finetricks import Trick
from finetricks.stack import conflicts
from finetricks_plugins.freeze.chain_thaw import ChainThaw
from finetricks_plugins.freeze.full import Full
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.freeze.last_layer import LastLayer
from finetricks_plugins.freeze.sequential_unfreezing import SequentialUnfreezing
from finetricks_plugins.freeze.two_stage import TwoStage

THAWING = {
    "full": Full(),
    "chain_thaw": ChainThaw(),
    "gradual_unfreezing": GradualUnfreezing(),
    "sequential_unfreezing": SequentialUnfreezing(),
    "two_stage": TwoStage(),
}


def test_only_the_head_moves() -> None:
    session = tiny.recipe(LastLayer()).bind(tiny.bert(), tiny.loader())
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    tiny.train(session)
    moved = {name for name, value in session.model.named_parameters() if not value.equal(before[name])}
    assert moved == set(session.layers.parameters["head"])
    assert "classifier.weight" in moved


def test_the_body_stays_in_evaluation_mode() -> None:
    session = tiny.recipe(LastLayer()).bind(tiny.bert(), tiny.loader())
    tiny.train(session, steps=1)
    session.model.train()
    assert not session.model.bert.encoder.training
    assert session.model.classifier.training


def test_what_the_user_froze_in_the_head_stays_frozen() -> None:
    model = tiny.bert()
    model.bert.pooler.requires_grad_(False)
    before = model.bert.pooler.dense.weight.clone()
    _, after = tiny.trained(tiny.recipe(LastLayer()), model)
    assert before.equal(after.bert.pooler.dense.weight)


def test_the_plan_has_one_stage() -> None:
    plan = tiny.recipe(LastLayer()).bind(tiny.bert(), tiny.loader()).plan
    assert [(stage.start, stage.end) for stage in plan.stages] == [(0, 12)]
    assert plan.stages[0].frozen == {"embeddings", "block.0", "block.1", "block.2"}


@pytest.mark.parametrize("name", THAWING)
def test_it_excludes_what_thaws_the_body(name: str) -> None:
    other: Trick = THAWING[name]
    [problem] = conflicts([("last_layer", LastLayer()), (name, other)])
    assert f"last_layer and {name} exclude one another" in str(problem)
