from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import Layers, Progress
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing

LAYERS = Layers(names=("embeddings", "block.0", "block.1", "block.2", "head"), parameters={}, modules={})


def trainable(trick: GradualUnfreezing, epochs: int, per_epoch: int = 2) -> list[int]:
    steps = epochs * per_epoch
    return [5 - len(trick.freeze(Progress(step, steps, per_epoch), LAYERS)) for step in range(steps)]


def test_one_layer_more_thaws_each_epoch_from_the_top() -> None:
    assert trainable(GradualUnfreezing(), epochs=6) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert GradualUnfreezing().freeze(Progress(2, 12, 2), LAYERS) == ("embeddings", "block.0", "block.1")


def test_layers_can_thaw_in_groups() -> None:
    assert trainable(GradualUnfreezing(layers_per_stage=2), epochs=4, per_epoch=1) == [1, 3, 5, 5]
    assert trainable(GradualUnfreezing(layers_per_stage=3), epochs=4, per_epoch=1) == [1, 4, 5, 5]


def test_the_authors_three_stages() -> None:
    # head alone, then two groups, each for an epoch, then everything
    assert trainable(GradualUnfreezing(stages=[1, 2]), epochs=4, per_epoch=1) == [1, 2, 5, 5]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_over_the_run_everything_thaws_however_short_it_is(epochs: int) -> None:
    counts = trainable(GradualUnfreezing(over="run"), epochs=epochs, per_epoch=10)
    assert counts[0] == 1
    assert counts[-1] == 5
    assert [counts.count(count) for count in range(1, 6)] == [2 * epochs] * 5


@pytest.mark.parametrize("steps", range(1, 24))
def test_over_the_run_the_last_step_always_trains_everything(steps: int) -> None:
    for trick in (GradualUnfreezing(over="run"), GradualUnfreezing(over="run", stages=[1, 2])):
        counts = trainable(trick, epochs=1, per_epoch=steps)
        assert counts[-1] == 5
        assert counts == sorted(counts)
        if steps >= 5:
            assert counts[0] == 1


def test_a_stage_may_name_more_layers_than_the_model_has() -> None:
    assert trainable(GradualUnfreezing(stages=[1, 9]), epochs=3, per_epoch=1) == [1, 5, 5]


def test_a_run_that_is_too_short_is_warned_of() -> None:
    plan = tiny.recipe(GradualUnfreezing(), epochs=3).bind(tiny.bert(), tiny.loader()).plan
    assert plan.warnings() == ["2 of 5 layers never thaw within the 18 steps: embeddings, block.0"]
    assert not tiny.recipe(GradualUnfreezing(over="run")).bind(tiny.bert(), tiny.loader()).plan.warnings()


def test_a_thawed_layer_begins_to_move() -> None:
    session = tiny.recipe(GradualUnfreezing(), epochs=2).bind(tiny.bert(), tiny.loader())
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    tiny.train(session)
    moved = {session.layers.layer_of(n) for n, value in session.model.named_parameters() if not value.equal(before[n])}
    assert moved == {"head", "block.2"}


def test_stages_never_freeze_again_and_stand_alone() -> None:
    assert trainable(GradualUnfreezing(stages=[2, 2, 3]), epochs=4, per_epoch=1) == [2, 2, 3, 5]
    with pytest.raises(ValidationError, match=r"stages must not fall.*got \[3, 1\]"):
        GradualUnfreezing(stages=[3, 1])
    with pytest.raises(ValidationError, match="layers_per_stage and stages both say what thaws when"):
        GradualUnfreezing(stages=[1, 2], layers_per_stage=2)
    for values in ({"stages": []}, {"stages": [0]}, {"layers_per_stage": 0}, {"over": "steps"}):
        with pytest.raises(ValidationError):
            GradualUnfreezing(**values)
