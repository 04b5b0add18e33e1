from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from finetricks import Context, InputError, Layers, find_layers
from finetricks_plugins.init.glorot_normal import GlorotNormal


def test_the_standard_deviation_is_glorots() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(300, 200))
    layers = find_layers(model, explicit={"block.0": ["0"], "head": ["1"]})
    GlorotNormal().init(model, layers, Context(seed=1))
    # sqrt(2 / (300 + 200)); 60,000 draws
    assert model[1].weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert abs(model[1].weight.mean().item()) < 0.001
    assert model[1].bias.abs().max() == 0
    GlorotNormal(activation="tanh").init(model, layers, Context(seed=1))
    assert model[1].weight.std().item() == pytest.approx(5 / 3 * math.sqrt(2 / 500), rel=0.02)


def test_only_the_head_is_drawn_unless_told_otherwise() -> None:
    fresh, model = tiny.bert(), tiny.bert()
    GlorotNormal().init(model, find_layers(model), Context(seed=1))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, fresh.state_dict()[name])}
    assert changed == {"bert.pooler.dense.weight", "classifier.weight"}  # biases were zero already
    GlorotNormal(modules="all").init(model, find_layers(model), Context(seed=1))
    assert not torch.equal(
        model.bert.encoder.layer[0].output.dense.weight, fresh.bert.encoder.layer[0].output.dense.weight
    )
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, fresh.bert.embeddings.word_embeddings.weight)


def test_it_draws_from_its_own_stream() -> None:
    models = [tiny.bert() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        state = torch.get_rng_state()
        GlorotNormal().init(model, find_layers(model), Context(seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert tiny.equal(models[0], models[1])
    assert not tiny.equal(models[0], models[2])


def test_a_head_without_linear_layers_is_said() -> None:
    layers = Layers(names=("block.0",), parameters={"block.0": ("0.weight",)}, modules={})
    with pytest.raises(InputError, match="the head has no linear layer"):
        GlorotNormal().init(nn.Sequential(nn.Linear(2, 2)), layers, Context(seed=0))


def test_gpt2s_own_linear_layers_are_drawn_and_its_tied_output_is_not() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=64, n_layer=1, n_head=2, n_positions=32))
    table = model.transformer.wte.weight.detach().clone()
    GlorotNormal(modules="all").init(model, find_layers(model), Context(seed=1))
    # sqrt(2 / (64 + 256)) of 16,384 draws; GPT-2's own is 0.02
    assert model.transformer.h[0].mlp.c_fc.weight.std().item() == pytest.approx(math.sqrt(2 / 320), rel=0.03)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.equal(model.transformer.wte.weight, table)
