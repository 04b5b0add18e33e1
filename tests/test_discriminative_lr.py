from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import InputError, Layers
from finetricks_plugins.param_groups.discriminative_lr import DiscriminativeLR, geometric_factors

LAYERS = Layers(names=("embeddings", "block.0", "block.1", "head"), parameters={}, modules={})


def test_each_layer_learns_at_the_rate_of_the_one_above_over_2_6() -> None:
    # 2.6^-3, 2.6^-2, 2.6^-1, 1 (Howard & Ruder 2018, section 3.2)
    assert geometric_factors(4, 2.6) == pytest.approx([0.05689577, 0.14792899, 0.38461538, 1.0], rel=1e-6)


def test_the_top_layer_keeps_the_base_rate() -> None:
    options = DiscriminativeLR(decay=2).param_groups(LAYERS)
    assert {name: option.lr_factor for name, option in options.items()} == {
        "embeddings": 0.125,
        "block.0": 0.25,
        "block.1": 0.5,
        "head": 1.0,
    }


def test_explicit_factors_stand_in_for_the_decay() -> None:
    options = DiscriminativeLR(factors={"block.0": 0.3}).param_groups(LAYERS)
    assert {name: option.lr_factor for name, option in options.items()} == {"block.0": 0.3}


def test_a_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match=r"no layer 'block.7' .*the model has embeddings, block.0, block.1, head"):
        DiscriminativeLR(factors={"block.7": 0.3}).param_groups(LAYERS)


def test_the_plan_says_who_set_what() -> None:
    plan = tiny.recipe(DiscriminativeLR()).bind(tiny.bert(), tiny.loader()).plan
    assert plan.groups[0].set_by["lr_factor"] == ("discriminative_lr",)
    assert plan.rate(plan.groups[0], 0) == pytest.approx(1e-3 * 2.6**-4)


def test_every_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError) as caught:
        DiscriminativeLR(factors={"block.7": 0.3, "heda": 1.0}).param_groups(LAYERS)
    assert [problem.message.split(";")[0] for problem in caught.value.problems] == [
        "no layer 'block.7' (did you mean 'block.1'?)",
        "no layer 'heda' (did you mean 'head'?)",
    ]


def test_a_decay_beside_factors_is_refused_and_the_default_is_not() -> None:
    with pytest.raises(ValidationError, match="decay and factors both set the learning rates"):
        DiscriminativeLR(decay=2.0, factors={"head": 1.0})
    given = DiscriminativeLR(factors={"head": 1.0})
    assert DiscriminativeLR(**given.model_dump()) == given  # as in a resolved recipe


def test_factors_by_name_change_the_result() -> None:
    without = tiny.trained(tiny.recipe())[1]
    assert not tiny.equal(tiny.trained(tiny.recipe(DiscriminativeLR(factors={"block.0": 0.1})))[1], without)


def test_an_unknown_layer_is_an_error_before_training_starts() -> None:
    with pytest.raises(InputError, match=r"discriminative_lr.factors: no layer 'block.9'"):
        tiny.recipe(DiscriminativeLR(factors={"block.9": 0.1})).bind(tiny.bert(), tiny.loader())


@pytest.mark.parametrize(
    "values", [{"decay": 0.5}, {"decay": float("inf")}, {"factors": {}}, {"factors": {"head": -1}}, {"factors": [1]}]
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DiscriminativeLR(**values)
