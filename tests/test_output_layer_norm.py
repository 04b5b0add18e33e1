from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from finetricks import Context, InputError, Trick
from finetricks.layers import find_layers
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.layer_pooling import LayerPooling
from finetricks_plugins.build.output_dropout import OutputDropout
from finetricks_plugins.build.output_layer_norm import OutputLayerNorm
from test_classifier import NAMES, built, model_of, texts

# The first module of each head, and what it is given of the encoder's states.
READERS = {
    "bert": "bert.pooler",
    "roberta": "classifier",
    "distilbert": "pre_classifier",
    "electra": "classifier",
    "albert": "albert.pooler",
    "deberta": "pooler",
    "modernbert": "head",
    "gpt2": "score",
    "llama": "score",
    "t5": "classification_head",
    "bart": "classification_head",
}


def read_by(model: nn.Module, name: str) -> Tensor:
    seen: list[Tensor] = []
    # After the norm's own hook, where that stands on the same module.
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    model.eval()(**texts("right"))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("kind", NAMES)
def test_the_models_own_head_reads_normalised_states(kind: str) -> None:
    states = read_by(model_of(kind), READERS[kind])
    read = read_by(built(model_of(kind), OutputLayerNorm()), READERS[kind])
    assert torch.allclose(read, F.layer_norm(states, (16,)), atol=1e-5)
    assert type(built(model_of(kind), OutputLayerNorm())) is type(model_of(kind))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))


def test_in_any_other_model_it_stands_before_the_heads_first_linear_layer() -> None:
    model = mlp()
    OutputLayerNorm().build(model, Context(seed=0))
    with torch.no_grad():
        model[4].weight.copy_(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
        model[4].bias.zero_()
    # 1, 2, 6 have mean 3 and variance (4 + 1 + 9) / 3.
    expected = torch.tensor([[3.0, -2.0]]) / (14 / 3) ** 0.5
    assert torch.allclose(model[4](torch.tensor([[1.0, 2.0, 6.0]])), expected, atol=1e-4)
    assert find_layers(model, torch.randn(4, 3)).parameters["head"] == (
        "4.weight",
        "4.bias",
        "4.output_layer_norm.weight",
        "4.output_layer_norm.bias",
    )


@pytest.mark.parametrize("kind", [name for name in NAMES if name not in ("t5", "bart")])  # which ask for an end token
def test_it_belongs_to_the_head_and_trains(kind: str) -> None:
    session = tiny.recipe(OutputLayerNorm(), learning_rate=0.05).bind(model_of(kind), tiny.loader())
    names = {"output_layer_norm.weight", "output_layer_norm.bias"}
    assert names < set(session.layers.parameters["head"])
    tiny.train(session)
    assert not torch.equal(session.model.output_layer_norm.weight, torch.ones(16))
    assert session.stack.changes_structure


@pytest.mark.parametrize("other", [ConcatPooling(), LayerPooling(layers="all", combine="concat")])
def test_the_order_beside_tricks_that_replace_the_head_changes_nothing(other: Trick) -> None:
    orders = itertools.permutations((OutputLayerNorm(), other))
    (one, first), (another, second) = (tiny.trained(tiny.recipe(*order)) for order in orders)
    assert one == another
    assert tiny.equal(first, second)
    assert {"norm.weight", "norm.bias"} < set(first.state_dict())


def test_the_classifier_normalises_what_it_reads_once() -> None:
    for order in itertools.permutations((OutputLayerNorm(), LayerPooling(layers=-1))):
        model = built(model_of("bert"), *order)
        seen: list[Any] = []
        model.pooling.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        raw = model.encoder(**texts("right")).last_hidden_state
        plain = model_of("bert").bert(**texts("right")).last_hidden_state
        model(**texts("right"))
        assert torch.allclose(raw, plain, atol=1e-6)
        assert torch.allclose(seen[0], F.layer_norm(raw, (16,)), atol=1e-5)


def test_before_one_linear_layer_the_norm_comes_after_the_dropout_whichever_is_listed_first() -> None:
    results = []
    for order in itertools.permutations((OutputLayerNorm(), OutputDropout(p=0.5))):
        model = tiny.recipe(*order).stack().build(mlp(), seed=1)
        torch.manual_seed(1)
        results.append(model.train()(torch.ones(2, 3)))
    assert torch.equal(*results)


def test_building_again_leaves_one() -> None:
    model = built(model_of("roberta"), OutputLayerNorm())
    model.output_layer_norm.weight.data.fill_(2.0)
    again = built(model, OutputLayerNorm())
    assert again is model
    assert len(model.roberta._forward_hooks) == 1
    assert torch.equal(model.output_layer_norm.weight, torch.full((16,), 2.0))


def test_a_head_without_a_linear_layer_is_refused() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
            self.scale = nn.Parameter(torch.ones(2))

    with pytest.raises(InputError, match="output_layer_norm: the head of Head has no linear layer"):
        tiny.recipe(OutputLayerNorm()).bind(Head(), tiny.loader())
