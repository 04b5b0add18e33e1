from __future__ import annotations

import pytest
from pydantic import ValidationError

import tiny
from finetricks import Layers
from finetricks_plugins.param_groups.discriminative_lr import DiscriminativeLR
from finetricks_plugins.param_groups.layerwise_lr_decay import LayerwiseLRDecay, layerwise_factors


def layers(blocks: int) -> Layers:
    return Layers(("embeddings", *(f"block.{i}" for i in range(blocks)), "head"), parameters={}, modules={})


def test_the_top_block_and_the_head_keep_the_base_rate() -> None:
    factors = layerwise_factors(layers(3), 0.5, head="beside", embeddings="below")
    assert factors == {"embeddings": 0.125, "block.0": 0.25, "block.1": 0.5, "block.2": 1.0, "head": 1.0}


def test_numbers_of_a_model_of_12_blocks() -> None:
    # Sun et al. 2019: 0.95^11 for the lowest of 12 blocks
    factors = layerwise_factors(layers(12), 0.95, head="beside", embeddings="below")
    assert factors["block.0"] == pytest.approx(0.5688, abs=1e-4)
    assert factors["embeddings"] == pytest.approx(0.5404, abs=1e-4)


def test_the_authors_code_leaves_the_embeddings_at_the_base_rate() -> None:
    factors = layerwise_factors(layers(3), 0.5, head="beside", embeddings="base")
    assert factors == {"embeddings": 1.0, "block.0": 0.25, "block.1": 0.5, "block.2": 1.0, "head": 1.0}


def test_zhang_places_the_head_above_the_top_block() -> None:
    factors = layerwise_factors(layers(24), 0.95, head="above", embeddings="below")
    assert factors["head"] == 1.0
    assert factors["block.23"] == 0.95
    # Zhang et al. 2021: 0.95^(24 + 1)
    assert factors["embeddings"] == pytest.approx(0.277, abs=1e-3)


def test_a_model_without_embeddings_has_blocks_and_a_head() -> None:
    names = Layers(("block.0", "block.1", "head"), parameters={}, modules={})
    assert layerwise_factors(names, 0.5, "beside", "below") == {"block.0": 0.5, "block.1": 1.0, "head": 1.0}


def test_the_plan_holds_the_rates_and_says_who_set_them() -> None:
    plan = tiny.recipe(LayerwiseLRDecay(xi=0.5)).bind(tiny.bert(), tiny.loader()).plan
    rates = {group.layer: plan.rate(group, 0) for group in plan.groups}
    assert rates == {"embeddings": 1.25e-4, "block.0": 2.5e-4, "block.1": 5e-4, "block.2": 1e-3, "head": 1e-3}
    assert plan.groups[0].set_by["lr_factor"] == ("layerwise_lr_decay",)


@pytest.mark.parametrize("swap", [False, True])
def test_beside_discriminative_lr_the_factors_multiply_in_any_order(swap: bool) -> None:
    tricks = [LayerwiseLRDecay(xi=0.5), DiscriminativeLR(decay=2)]
    plan = tiny.recipe(*(reversed(tricks) if swap else tricks)).bind(tiny.bert(), tiny.loader()).plan
    factors = {group.layer: group.lr_factor for group in plan.groups}
    assert factors == {"embeddings": 2**-7, "block.0": 2**-5, "block.1": 2**-3, "block.2": 0.5, "head": 1.0}


def test_xi_1_changes_nothing_whatever_stands_outside() -> None:
    without = tiny.trained(tiny.recipe())[1]
    neutral = LayerwiseLRDecay(xi=1.0, head="above", embeddings="base")
    assert tiny.equal(tiny.trained(tiny.recipe(neutral))[1], without)


@pytest.mark.parametrize("values", [{"xi": 0}, {"xi": 1.05}, {"head": "top"}, {"embeddings": "top"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LayerwiseLRDecay(**values)
