from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import tiny
from finetricks import InputError, Trick
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.task_layers import BiLSTMLayer, MLPLayer, Stack, TaskLayers, TransformerLayer
from finetricks_plugins.freeze.two_stage import TwoStage

KINDS = ("bilstm", "mlp", "transformer")


def stack(kind: str, given: int = 4, **values: object) -> Stack:
    torch.manual_seed(0)
    settings = {"kind": kind, "number": 2, "wanted": 6, "heads": 2, "dropout": 0.0} | values
    return Stack(given, **settings).eval()


def mask_of(*rows: list[int]) -> Tensor:
    return torch.tensor(rows).bool()


# ----------------------------------------------------------------------------------------------------
# One layer of each kind
# ----------------------------------------------------------------------------------------------------


def test_an_mlp_layer_by_hand() -> None:
    layer = MLPLayer(2, 2, dropout=0.0)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        layer.linear.bias.copy_(torch.tensor([0.5, 0.0]))
    # (1 + 2 + 1/2, max(1 - 2, 0))
    assert torch.equal(layer(torch.tensor([[[1.0, 2.0]]]), mask_of([1])), torch.tensor([[[3.5, 0.0]]]))


def test_a_bilstm_layer_is_torchs_on_each_text_without_its_padding() -> None:
    torch.manual_seed(0)
    layer = BiLSTMLayer(4, 6, dropout=0.0)
    states, mask = torch.randn(3, 5, 4), mask_of([1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1])
    given = layer(states, mask)
    for row in range(3):
        alone, _ = layer.lstm(states[row, mask[row]][None])
        assert torch.allclose(given[row, mask[row]], alone[0], atol=1e-6)


def test_a_transformer_layer_is_torchs() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(8, 8, dropout=0.0, heads=2)
    theirs = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True)
    names = {"attention": "self_attn", "attention_norm": "norm1", "up": "linear1", "down": "linear2", "norm": "norm2"}
    for ours, other in names.items():
        theirs.get_submodule(other).load_state_dict(layer.get_submodule(ours).state_dict())
    states, mask = torch.randn(2, 4, 8), mask_of([1, 1, 1, 1], [1, 1, 0, 0])
    expected = theirs.train()(states, src_key_padding_mask=~mask)
    assert torch.allclose(layer(states, mask)[mask], expected[mask], atol=1e-5)


# ----------------------------------------------------------------------------------------------------
# All kinds
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_width_and_number(kind: str) -> None:
    assert stack(kind).width == 6
    assert stack(kind, wanted=None).width == 4
    assert len(stack(kind, number=3).layers) == 3
    assert stack(kind)(torch.randn(2, 5, 4), torch.ones(2, 5).bool()).shape == (2, 5, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_no_real_token(kind: str) -> None:
    layers = stack(kind)
    states, mask = torch.randn(2, 5, 4), mask_of([1, 1, 1, 0, 0], [0, 0, 0, 1, 1])
    other = states.masked_fill(~mask[..., None], 1e3)
    assert torch.equal(layers(states, mask)[mask], layers(other, mask)[mask])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_either_side_gives_the_same(kind: str) -> None:
    layers = stack(kind)
    text, padding = torch.randn(1, 3, 4), torch.randn(1, 2, 4)
    right = layers(torch.cat([text, padding], dim=1), mask_of([1, 1, 1, 0, 0]))[:, :3]
    left = layers(torch.cat([padding, text], dim=1), mask_of([0, 0, 1, 1, 1]))[:, 2:]
    assert torch.allclose(left, right, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_tokens_spoils_nothing(kind: str) -> None:
    layers = stack(kind)
    states = torch.randn(2, 3, 4, requires_grad=True)
    given = layers(states, mask_of([1, 1, 0], [0, 0, 0]))
    given.sum().backward()
    assert torch.isfinite(given).all()
    assert torch.isfinite(states.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_drops_out_in_training(kind: str) -> None:
    states, mask = torch.randn(2, 5, 4), torch.ones(2, 5).bool()
    layers = stack(kind, dropout=0.5).train()
    assert not torch.equal(layers(states, mask), layers(states, mask))
    layers = stack(kind, dropout=0.0).train()
    assert torch.equal(layers(states, mask), layers(states, mask))


def test_a_bilstms_tokens_are_pooled_by_their_max_unless_a_trick_says_otherwise() -> None:
    def pooling(*tricks: Trick) -> str:
        return str(tiny.recipe(*tricks).bind(tiny.bert(), tiny.loader()).model.pooling)

    assert pooling(TaskLayers(kind="bilstm")) == "Pooling(max_over_tokens)"
    assert pooling(TaskLayers(kind="mlp")) == "Pooling(first_token)"
    assert pooling(ConcatPooling(), TaskLayers(kind="bilstm")) == "Pooling(last_max_mean)"


# ----------------------------------------------------------------------------------------------------
# The trick
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [None, 64])
def test_they_belong_to_the_head(kind: str, number: int, width: int | None) -> None:
    recipe = tiny.recipe(TaskLayers(kind=kind, number=number, width=width))
    layers = recipe.bind(tiny.bert(blocks=2), tiny.loader()).layers
    assert layers.names == ("embeddings", "block.0", "block.1", "head")
    assert all(name.startswith("encoder.") for layer in layers.names[:-1] for name in layers.parameters[layer])
    assert not any(name.startswith("encoder.") for name in layers.parameters["head"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_changes_the_result_and_trains_from_end_to_end(kind: str) -> None:
    session = tiny.recipe(TaskLayers(kind=kind)).bind(tiny.bert(), tiny.loader())
    before = {name: value.detach().clone() for name, value in session.model.named_parameters()}
    losses = tiny.train(session)
    assert losses != tiny.trained(tiny.recipe())[0]
    moved = {name for name, value in session.model.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("task_layers")} <= moved


def test_they_learn_alone_in_stage_one() -> None:
    plan = tiny.recipe(TaskLayers(), TwoStage(epochs=1)).bind(tiny.bert(), tiny.loader()).plan
    assert [sorted(stage.frozen) for stage in plan.stages] == [["block.0", "block.1", "block.2", "embeddings"], []]


def test_widths_that_cannot_be_shared_are_errors_before_training() -> None:
    with pytest.raises(InputError, match="a bilstm of width 7 has no halves"):
        tiny.recipe(TaskLayers(kind="bilstm", width=7)).bind(tiny.bert(), tiny.loader())
    with pytest.raises(InputError, match="3 heads cannot share a width of 16"):
        tiny.recipe(TaskLayers(kind="transformer", heads=3)).bind(tiny.bert(), tiny.loader())


def test_values_out_of_range_are_refused() -> None:
    for values in ({"kind": "gru"}, {"number": 0}, {"width": 0}, {"heads": 0}, {"dropout": 1.0}):
        with pytest.raises(ValidationError):
            TaskLayers(**values)
