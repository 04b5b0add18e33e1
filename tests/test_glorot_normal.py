from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from finetricks import Context, InputError, Layers, find_layers
from finetricks_plugins.init.glorot_normal import GlorotNormal

NO_LAYERS = Layers(names=(), parameters={}, modules={})


def drawn(model: nn.Module, seed: int = 1, **values: object) -> nn.Module:
    values = {"modules": "all", "activation": "linear"} | values
    GlorotNormal(**values).init(model, NO_LAYERS, Context(seed=seed))
    return model


def test_the_standard_deviation_is_glorots() -> None:
    linear = drawn(nn.Linear(300, 200))
    # sqrt(2 / (300 + 200)); 60,000 draws
    assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert abs(linear.weight.mean().item()) < 0.001
    assert linear.bias.abs().max() == 0
    for values, gain in (({"activation": "tanh"}, 5 / 3), ({"activation": "relu"}, math.sqrt(2)), ({"gain": 3.0}, 3)):
        drawn(linear, **values)
        assert linear.weight.std().item() == pytest.approx(gain * math.sqrt(2 / 500), rel=0.02)


def test_a_convolutions_fans_count_its_kernel() -> None:
    conv = drawn(nn.Conv2d(20, 40, 3))
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 20 + 9 * 40)), rel=0.03)


def test_it_equals_torchs() -> None:
    linear, expected = drawn(nn.Linear(5, 4), seed=7), torch.empty(4, 5)
    nn.init.xavier_normal_(expected, generator=torch.Generator().manual_seed(7))
    assert torch.equal(linear.weight, expected)


def test_the_gain_is_that_of_the_activation_that_follows() -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 100), nn.Sigmoid(), nn.Linear(100, 100))
    GlorotNormal(modules="all").init(model, NO_LAYERS, Context(seed=1, batches=lambda: iter([torch.randn(4, 300)])))
    expected = [5 / 3 * math.sqrt(2 / 500), math.sqrt(2 / 300), math.sqrt(2 / 200)]
    assert [model[i].weight.std().item() for i in (0, 2, 4)] == pytest.approx(expected, rel=0.03)


def test_only_what_no_checkpoint_supplied_unless_told_otherwise() -> None:
    start = tiny.bert().state_dict()

    def changed(which: str) -> set[str]:
        model = tiny.recipe(GlorotNormal(modules=which)).bind(tiny.bert(), tiny.loader()).model
        return {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}

    assert changed("fresh") == {"classifier.weight"}  # its bias was zero already
    assert changed("head") == {"classifier.weight", "bert.pooler.dense.weight"}
    assert "bert.encoder.layer.0.output.dense.weight" in changed("all")
    assert "bert.embeddings.word_embeddings.weight" not in changed("all")


def test_berts_pooler_has_the_gain_of_its_tanh() -> None:
    session = tiny.recipe(GlorotNormal(modules="head")).bind(tiny.bert(), tiny.loader())
    weight = session.model.bert.pooler.dense.weight
    assert weight.std().item() == pytest.approx(5 / 3 * math.sqrt(2 / 32), rel=0.1)  # 256 draws


def test_gpt2s_own_linear_layers_are_drawn_and_its_tied_output_is_not() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=64, n_layer=1, n_head=2, n_positions=32))
    table = model.transformer.wte.weight.detach().clone()
    drawn(model)
    # sqrt(2 / (64 + 256)) of 16,384 draws; GPT-2's own is 0.02
    assert model.transformer.h[0].mlp.c_fc.weight.std().item() == pytest.approx(math.sqrt(2 / 320), rel=0.03)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.equal(model.transformer.wte.weight, table)


def test_it_draws_from_its_own_stream() -> None:
    models = [tiny.bert() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        state = torch.get_rng_state()
        GlorotNormal(modules="head", activation="linear").init(model, find_layers(model), Context(seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert tiny.equal(models[0], models[1])
    assert not tiny.equal(models[0], models[2])


def test_a_model_with_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="glorot_normal: no linear or convolutional layer of Linear is new: .*all"):
        drawn(nn.Linear(2, 2), modules="fresh")
    with pytest.raises(InputError, match="glorot_normal: the head of Linear has no linear or convolutional layer"):
        drawn(nn.Linear(2, 2), modules="head")


@pytest.mark.parametrize("values", [{"gain": 0}, {"gain": float("inf")}, {"activation": "relus"}, {"modules": "new"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GlorotNormal(**values)
