from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader
from transformers import default_data_collator

import tiny
from finetricks_plugins.build.concat_pooling import BatchNorm, ConcatPooling, LinearBlocks
from finetricks_plugins.build.pooling import last_max_mean
from finetricks_plugins.freeze.two_stage import TwoStage

# Three tokens of two dimensions, and a fourth place that holds padding.
TOKENS = torch.tensor([[1.0, -4.0], [5.0, -2.0], [3.0, -9.0]])
PADDING = torch.tensor([[100.0, 100.0]])
# [last; max; mean] of the tokens: the mean of 1, 5, 3 is 3, and of -4, -2, -9 it is -5.
EXPECTED = torch.tensor([[3.0, -9.0, 5.0, -2.0, 3.0, -5.0]])


@pytest.mark.parametrize(
    ("states", "mask"),
    [
        (torch.cat([TOKENS, PADDING]), [1, 1, 1, 0]),
        (torch.cat([PADDING, TOKENS]), [0, 1, 1, 1]),
        (TOKENS, [1, 1, 1]),
    ],
    ids=["right", "left", "none"],
)
def test_last_max_and_mean_of_the_real_tokens(states: torch.Tensor, mask: list[int]) -> None:
    assert torch.equal(last_max_mean(states[None], torch.tensor([mask]).bool()), EXPECTED)


def test_a_row_without_tokens_is_zero_in_max_and_mean_and_gives_no_nan_gradient() -> None:
    states = TOKENS[None].clone().requires_grad_()
    pooled = last_max_mean(states, torch.zeros(1, 3).bool())
    assert torch.equal(pooled[:, 2:], torch.zeros(1, 4))
    pooled.sum().backward()
    assert torch.isfinite(states.grad).all()


def test_the_head_is_norm_dropout_linear_relu_norm() -> None:
    head = LinearBlocks(2, hidden=1, dropout=0.0, batch_norm=True).train()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0]]))
        head.linear.bias.zero_()
    # Normalised over the rows both columns are -1 and 1 (eps aside); 1 * x + 2 * y is -3 and 3; ReLU gives 0 and 3;
    # normalised again they are -1 and 1.
    assert torch.allclose(head(torch.tensor([[0.0, 10.0], [2.0, 30.0]])), torch.tensor([[-1.0], [1.0]]), atol=1e-3)


def test_its_first_block_drops_its_input() -> None:
    torch.manual_seed(0)
    head = LinearBlocks(1000, hidden=1, dropout=0.4, batch_norm=False).train()
    nn.init.ones_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    # The kept 60 % of 1000 ones are scaled by 1 / 0.6.
    assert head(torch.ones(1, 1000)).item() == pytest.approx(1000, rel=0.1)
    assert head(torch.ones(1, 1000)).item() != head(torch.ones(1, 1000)).item()
    assert head.eval()(torch.ones(1, 1000)).item() == pytest.approx(1000)


def test_one_row_is_normalised_by_the_running_statistics_which_it_leaves() -> None:
    norm = BatchNorm(2).train()
    norm(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    row = torch.tensor([[1.0, 3.0]])
    expected = (row - mean) / (variance + norm.eps).sqrt()
    assert torch.allclose(norm(row), expected)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


def test_an_epoch_that_ends_in_one_row_trains() -> None:
    rows = DataLoader(tiny.rows(count=5), batch_size=4, collate_fn=default_data_collator)
    losses = tiny.train(tiny.recipe(ConcatPooling()).bind(tiny.bert(), rows))
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))


def test_what_the_classifier_reads() -> None:
    model = tiny.recipe(ConcatPooling(hidden=7)).bind(tiny.bert(), tiny.loader()).model
    assert model.pooling.width == 48
    assert (model.head.linear.in_features, model.head.linear.out_features) == (48, 7)
    assert model.output.in_features == 7
    assert {"head.norm.running_mean", "head.output_norm.running_var"} < set(model.state_dict())
    plain = tiny.recipe(ConcatPooling(hidden=None)).bind(tiny.bert(), tiny.loader()).model
    assert plain.output.in_features == 48
    assert not [name for name, _ in plain.head.named_parameters()]
    bare = tiny.recipe(ConcatPooling(batch_norm=False)).bind(tiny.bert(), tiny.loader()).model
    assert not list(bare.buffers(recurse=False))
    assert [name for name, _ in bare.head.named_parameters()] == ["linear.weight", "linear.bias"]


def test_it_belongs_to_the_head_and_changes_the_result() -> None:
    session = tiny.recipe(ConcatPooling()).bind(tiny.bert(), tiny.loader())
    assert set(session.layers.parameters["head"]) == {
        name for name, _ in session.model.named_parameters() if not name.startswith("encoder.")
    }
    assert tiny.train(session) != tiny.trained(tiny.recipe())[0]


def test_a_frozen_head_leaves_its_running_statistics() -> None:
    session = tiny.recipe(ConcatPooling(), TwoStage(epochs=1)).bind(tiny.bert(), tiny.loader())
    assert session.plan.stages[0].frozen == frozenset({"embeddings", "block.0", "block.1", "block.2"})
    session._freezing.apply(frozenset(session.layers.names))
    session.model.train()
    assert not session.model.head.norm.training


def test_values_out_of_range_are_refused() -> None:
    for values in ({"hidden": 0}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(ValidationError):
            ConcatPooling(**values)
