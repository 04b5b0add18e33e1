from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import InputError, Layers, Progress
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.freeze.sequential_unfreezing import SequentialUnfreezing

LAYERS = Layers(names=("embeddings", "block.0", "block.1", "head"), parameters={}, modules={})
BODY = ("embeddings", "block.0", "block.1")


def frozen(trick: SequentialUnfreezing, epochs: int, per_epoch: int = 1) -> list[tuple[str, ...]]:
    steps = epochs * per_epoch
    return [tuple(trick.freeze(Progress(step, steps, per_epoch), LAYERS)) for step in range(steps)]


def test_head_then_body_then_embeddings_at_absolute_epochs_from_1() -> None:
    # the values that the authors' code ships with: epoch 1 the head, 2 to 4 the body too, from 5 on everything
    only_embeddings = ("embeddings",)
    assert frozen(SequentialUnfreezing(n=2, k=5), epochs=6) == [BODY, *[only_embeddings] * 3, (), ()]
    assert (
        frozen(SequentialUnfreezing(n=2, k=3), epochs=3, per_epoch=2) == [BODY] * 2 + [only_embeddings] * 2 + [()] * 2
    )


def test_with_n_1_the_body_trains_from_the_first_epoch() -> None:
    assert frozen(SequentialUnfreezing(n=1, k=2), epochs=2) == [("embeddings",), ()]


def test_the_plan_has_three_stages() -> None:
    plan = tiny.recipe(SequentialUnfreezing(), epochs=3).bind(tiny.bert(), tiny.loader()).plan
    assert [(stage.start, stage.end, len(stage.frozen)) for stage in plan.stages] == [
        (0, 6, 4),
        (6, 12, 1),
        (12, 18, 0),
    ]


def test_the_body_waits_while_the_head_learns() -> None:
    session = tiny.recipe(SequentialUnfreezing(), epochs=3).bind(tiny.bert(), tiny.loader())
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    tiny.train(session, steps=6)
    moved = {session.layers.layer_of(n) for n, value in session.model.named_parameters() if not value.equal(before[n])}
    assert moved == {"head"}
    assert not tiny.equal(session.model, tiny.trained(tiny.recipe(epochs=1))[1])


def test_embeddings_that_would_thaw_after_the_run_are_an_error_before_it_starts() -> None:
    with pytest.raises(InputError, match=r"sequential_unfreezing.k: .* thaw in epoch 5, but the run ends with epoch 3"):
        tiny.recipe(SequentialUnfreezing(n=2, k=5), epochs=3).bind(tiny.bert(), tiny.loader())
    assert tiny.recipe(SequentialUnfreezing(n=2, k=3), epochs=2.5).bind(tiny.bert(), tiny.loader())  # a part of epoch 3


def test_a_model_without_embeddings_is_an_error_before_training_starts() -> None:
    layers = Layers(names=("block.0", "block.1", "head"), parameters={}, modules={})
    with pytest.raises(InputError, match=r"has none \(its layers: block.0, block.1, head\); use gradual_unfreezing"):
        SequentialUnfreezing().freeze(Progress(0, 9, 3), layers)


def test_beside_gradual_unfreezing_what_either_freezes_is_frozen() -> None:
    plan = (
        tiny.recipe(GradualUnfreezing(), SequentialUnfreezing(n=2, k=6), epochs=7).bind(tiny.bert(), tiny.loader()).plan
    )
    assert [(stage.end, len(stage.frozen)) for stage in plan.stages] == [(6, 4), (12, 3), (18, 2), (30, 1), (42, 0)]


@pytest.mark.parametrize("values", [{"n": 3, "k": 3}, {"n": 4}, {"n": 0}, {"k": 1}])
def test_the_body_thaws_before_the_embeddings(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SequentialUnfreezing(**values)
    with pytest.raises(ValidationError, match="n must be less than k; got n=4, k=3"):
        SequentialUnfreezing(n=4, k=3)
