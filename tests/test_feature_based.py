from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tiny
from finetricks import InputError, RecipeError, Session
from finetricks_plugins.build.feature_based import FeatureBased, ScalarMix, scalar_mix
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing
from finetricks_plugins.freeze.last_layer import LastLayer
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM
from test_classifier import model_of


def test_the_mix_by_hand() -> None:
    # softmax(0, ln 3) = (1/4, 3/4); 2 * (1/4 * 4 + 3/4 * 8) = 14
    states = [torch.full((1, 1, 1), 4.0), torch.full((1, 1, 1), 8.0)]
    mixed = scalar_mix(states, torch.tensor([0.0, math.log(3)]), torch.tensor(2.0))
    assert mixed.item() == pytest.approx(14.0)


def test_it_begins_as_the_mean_of_all_layers() -> None:
    mix = ScalarMix((4, 4, 4), layer_norm=False)
    states = tuple(torch.randn(2, 3, 4) for _ in range(3))
    assert torch.allclose(mix(states, torch.ones(2, 3).bool()), torch.stack(states).mean(dim=0), atol=1e-6)


def test_layers_can_be_normalised_before_the_mix() -> None:
    mix = ScalarMix((4, 4), layer_norm=True)
    states = (torch.randn(2, 3, 4), 50 * torch.randn(2, 3, 4))
    expected = sum(F.layer_norm(state, (4,)) for state in states) / 2
    assert torch.allclose(mix(states, torch.ones(2, 3).bool()), expected, atol=1e-6)


def test_embeddings_of_half_the_width_count_once_for_each_direction() -> None:
    mix = ScalarMix((2, 4), layer_norm=False)
    states = (torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0, 6.0]]]))
    assert torch.equal(mix(states, torch.ones(1, 1).bool()), torch.tensor([[[2.0, 3.0, 3.0, 4.0]]]))


@pytest.mark.parametrize("widths", [(4, 6, 6, 4), (4, 12, 12), (4, 2, 4)])
def test_layers_of_other_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"a mix of layers is a sum .* have {', '.join(map(str, widths))} dimensions"):
        ScalarMix(widths, layer_norm=False)


def bound(kind: str, *more: Any) -> Session:
    return tiny.recipe(FeatureBased(), *more, learning_rate=0.05).bind(model_of(kind), tiny.loader())


# GPT-2, Llama and T5 end in a norm, which belongs to the layer `head`; T5 calls one dropout at both ends.
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_nothing_of_the_encoder_trains_and_all_else_does(kind: str) -> None:
    session = bound(kind)
    before = {name: value.detach().clone() for name, value in session.model.named_parameters()}
    tiny.train(session)
    for name, value in session.model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_the_features_are_the_same_each_time(kind: str) -> None:
    session = bound(kind)
    seen: list[torch.Tensor] = []
    session.model.reading.register_forward_hook(lambda module, given, gave: seen.append(given[0][-1]))
    batch = next(iter(tiny.loader()))
    session.model.train()
    for _ in range(2):
        session.loss(batch)
    assert torch.equal(*seen)
    assert not session.model.encoder.training


def test_the_plan_shows_what_is_frozen() -> None:
    plan = bound("gpt2").plan
    assert [(stage.start, stage.end, sorted(stage.frozen)) for stage in plan.stages] == [
        (0, 12, ["block.0", "block.1", "embeddings"])
    ]
    rates = {name: group.lr_factor for group in plan.groups for name in group.parameters if group.layer == "head"}
    assert rates == {
        "encoder.ln_f.weight": 0.0,
        "encoder.ln_f.bias": 0.0,
        "reading.weights": 1.0,
        "reading.gamma": 1.0,
        "output.weight": 1.0,
        "output.bias": 1.0,
    }


def test_a_language_model_beside_it_trains_no_more_of_the_encoder() -> None:
    session = bound("gpt2", AuxiliaryLM())
    before = {name: value.detach().clone() for name, value in session.model.encoder.named_parameters()}
    tiny.train(session)
    assert all(torch.equal(value, before[name]) for name, value in session.model.encoder.named_parameters())


def test_it_differs_from_training_the_head_on_the_top_layer() -> None:
    assert tiny.trained(tiny.recipe(FeatureBased()))[0] != tiny.trained(tiny.recipe(LastLayer()))[0]
    assert tiny.trained(tiny.recipe(FeatureBased()))[0] != tiny.trained(tiny.recipe(FeatureBased(layer_norm=True)))[0]


def test_what_would_thaw_the_encoder_is_refused() -> None:
    with pytest.raises(RecipeError, match="their union is feature_based alone"):
        tiny.recipe(FeatureBased(), GradualUnfreezing())
