from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import Layers, Progress, TrickConflict
from finetricks.stack import conflicts
from finetricks_plugins.freeze.chain_thaw import ChainThaw, chain
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.freeze.sequential_unfreezing import SequentialUnfreezing
from finetricks_plugins.freeze.two_stage import TwoStage

NAMES = ("embeddings", "block.0", "block.1", "head")
LAYERS = Layers(names=NAMES, parameters={}, modules={})
EACH = [{"head"}, {"embeddings"}, {"block.0"}, {"block.1"}, set(NAMES)]


def trained(trick: ChainThaw, steps: int, per_epoch: int) -> list[set[str]]:
    """What trains at each step."""
    return [set(NAMES) - trick.freeze(Progress(step, steps, per_epoch), LAYERS) for step in range(steps)]


def test_head_then_each_layer_alone_from_the_bottom_then_all() -> None:
    assert chain(NAMES) == EACH  # Felbo et al. 2017, section 3.3
    assert trained(ChainThaw(), steps=6, per_epoch=1) == [*EACH, set(NAMES)]


def test_a_stage_can_last_several_epochs() -> None:
    assert (
        trained(ChainThaw(epochs=2), steps=22, per_epoch=2) == [each for each in EACH for _ in range(4)] + EACH[-1:] * 2
    )


def test_over_the_run_every_layer_has_its_part() -> None:
    assert trained(ChainThaw(over="run"), steps=10, per_epoch=10) == [each for each in EACH for _ in range(2)]
    assert trained(ChainThaw(over="run"), steps=7, per_epoch=7) == [*EACH[:1] * 2, EACH[1], *EACH[2:3] * 2, *EACH[3:]]


def test_a_run_of_fewer_steps_than_stages_ends_with_everything() -> None:
    assert trained(ChainThaw(over="run"), steps=2, per_epoch=1) == EACH[-2:]
    assert trained(ChainThaw(over="run"), steps=1, per_epoch=1) == EACH[-1:]


def test_only_the_layer_whose_turn_it_is_moves() -> None:
    session = tiny.recipe(ChainThaw(), epochs=2).bind(tiny.bert(), tiny.loader())
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    tiny.train(session)
    moved = {session.layers.layer_of(n) for n, value in session.model.named_parameters() if not value.equal(before[n])}
    assert moved == {"head", "embeddings"}


def test_layers_whose_turn_never_comes_are_warned_of() -> None:
    plan = tiny.recipe(ChainThaw(), epochs=3).bind(tiny.bert(), tiny.loader()).plan
    assert plan.warnings() == ["2 of 5 layers never thaw within the 18 steps: block.1, block.2"]


def test_the_authors_rates_are_those_of_two_stage() -> None:
    plan = tiny.recipe(ChainThaw(), TwoStage(epochs=1, lr_factor=0.1), epochs=7).bind(tiny.bert(), tiny.loader()).plan
    assert plan.schedule == (1.0,) * 6 + (0.1,) * 36
    assert [stage.end for stage in plan.stages] == [6, 12, 18, 24, 30, 42]
    assert plan.stages[1].frozen == {"block.0", "block.1", "block.2", "head"}


def test_two_stage_may_not_keep_the_body_frozen_for_longer_than_the_first_stage() -> None:
    with pytest.raises(TrickConflict, match="chain_thaw and two_stage: every layer is frozen at step 6"):
        tiny.recipe(ChainThaw(), TwoStage(epochs=2)).bind(tiny.bert(), tiny.loader())


@pytest.mark.parametrize(
    ("name", "other"), [("gradual_unfreezing", GradualUnfreezing()), ("sequential_unfreezing", SequentialUnfreezing())]
)
def test_it_excludes_thawing_from_the_top(name: str, other: GradualUnfreezing | SequentialUnfreezing) -> None:
    [problem] = conflicts([(name, other), ("chain_thaw", ChainThaw())])
    assert "trains the lowest layer alone" in str(problem)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="epochs and over: run both set the length of a stage"):
        ChainThaw(over="run", epochs=2)
    with pytest.raises(ValidationError):
        ChainThaw(epochs=0)
    assert ChainThaw(**ChainThaw(over="run").model_dump()) == ChainThaw(over="run")  # as in a resolved recipe
