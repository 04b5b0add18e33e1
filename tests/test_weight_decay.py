from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from finetricks_plugins.param_groups.weight_decay import WeightDecay, biases_and_norms


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 2)
        self.linear = nn.Linear(2, 2)
        self.batch = nn.BatchNorm1d(2)
        self.layer = nn.LayerNorm(2)
        self.rms = nn.RMSNorm(2)
        self.lstm = nn.LSTM(2, 2)
        self.attention = nn.MultiheadAttention(2, 1)


def test_biases_and_norms_are_known_by_name_and_by_class() -> None:
    assert biases_and_norms(Net()) == {
        "linear.bias",
        "batch.weight",
        "batch.bias",
        "layer.weight",
        "layer.bias",
        "rms.weight",
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
    }


def test_groups_split_where_the_decay_differs() -> None:
    plan = tiny.recipe(WeightDecay(value=0.1)).bind(tiny.bert(), tiny.loader()).plan
    decay = {name: group.weight_decay for group in plan.groups for name in group.parameters}
    assert decay["bert.embeddings.word_embeddings.weight"] == 0.1
    assert decay["bert.embeddings.LayerNorm.weight"] == 0.0
    assert decay["classifier.bias"] == 0.0
    everything = tiny.recipe(WeightDecay(value=0.1, exempt="none")).bind(tiny.bert(), tiny.loader()).plan
    assert {group.weight_decay for group in everything.groups} == {0.1}


def test_a_weight_without_a_gradient_shrinks_by_rate_times_value() -> None:
    session = tiny.recipe(WeightDecay(value=0.5), learning_rate=0.1).bind(tiny.bert(), tiny.loader())
    weight = session.model.bert.embeddings.token_type_embeddings.weight
    before = weight[1].detach().clone()  # the second segment does not occur
    tiny.train(session, steps=2)
    assert torch.allclose(weight[1], before * (1 - 0.1 * 0.5) ** 2)
    assert weight[1].norm().item() == pytest.approx(before.norm().item() * 0.9025, rel=1e-5)
