from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import default_data_collator

import tiny
from finetricks import Context, Diverged, InputError, Layers, find_layers
from finetricks_plugins.init.denoising import corrupt, decoder_for, in_unit_interval, reconstruction_loss, train
from finetricks_plugins.init.greedy_pretraining import GreedyPretraining
from finetricks_plugins.init.stack import Call, StackLayer, stack_of

QUICK = {"epochs": 2, "learning_rate": 1e-2}


def mlp(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), activation(), nn.Dropout(0.5), nn.Linear(5, 4), activation(), nn.Linear(4, 3))


def vectors(rows: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator) @ torch.randn(3, 6, generator=generator)


def pretrained(model: nn.Module, batches: list[Any], seed: int = 1, **values: Any) -> nn.Module:
    layers = find_layers(model, batches[0])
    GreedyPretraining(**QUICK | values).init(model, layers, Context(seed=seed, batches=lambda: iter(batches)))
    return model


def moved(model: nn.Module, start: nn.Module) -> set[str]:
    before = start.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# ----------------------------------------------------------------------------------------------------
# Corruption and loss
# ----------------------------------------------------------------------------------------------------


def test_masking_sets_a_share_of_the_values_to_zero() -> None:
    states = torch.ones(100, 200)
    spoilt = corrupt(states, "masking", 0.25, torch.Generator().manual_seed(0))
    assert set(spoilt.unique().tolist()) == {0.0, 1.0}  # what is left is not scaled
    assert (spoilt == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_gaussian_noise_has_the_standard_deviation_asked_for() -> None:
    states = torch.ones(100, 200)
    noise = corrupt(states, "gaussian", 0.3, torch.Generator().manual_seed(0)) - states
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)


def test_no_strength_is_no_corruption() -> None:
    states = torch.randn(2, 3)
    assert corrupt(states, "masking", 0.0, torch.Generator()) is states
    assert corrupt(states, "gaussian", 0.0, torch.Generator()) is states


def test_the_squared_error_is_the_sum_over_the_width_and_the_mean_over_positions() -> None:
    decoded, states = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert reconstruction_loss(decoded, states, None, "squared_error").item() == (5 + 9) / 2
    counted = torch.tensor([True, False])
    assert reconstruction_loss(decoded, states, counted, "squared_error").item() == 5
    assert reconstruction_loss(decoded, states, torch.tensor([False, False]), "squared_error").item() == 0


def test_the_cross_entropy_is_of_the_sigmoid() -> None:
    decoded, states = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.5]])
    # sigmoid gives 1/2 and 3/4: -ln(1/2), and -(ln(3/4) + ln(1/4)) / 2
    expected = math.log(2) - (math.log(3 / 4) + math.log(1 / 4)) / 2
    assert reconstruction_loss(decoded, states, None, "cross_entropy").item() == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------
# One layer
# ----------------------------------------------------------------------------------------------------


def learnt(layer: nn.Module, *batches: Tensor, **values: Any) -> list[float]:
    """Train a layer as an auto-encoder, by default without corruption; each epoch's loss."""
    settings = {
        "epochs": 1,
        "learning_rate": 1e-2,
        "corruption": "masking",
        "strength": 0.0,
        "reconstruction": "squared_error",
        "seed": 0,
    }

    def calls() -> Iterator[Call]:
        return (Call((batch,), {}, 0, None) for batch in batches)

    stack_layer = StackLayer("block.0", "0", (layer,))
    return list(train(stack_layer, calls, list(layer.parameters()), **settings | values))


def test_the_loss_and_the_step_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    # x = (1, -1), so h = Wx = (1, -2), and with the decoder D the error is e = Dh - x, the loss |e|^2
    decoder, _ = decoder_for(2, 2, torch.Generator().manual_seed(0))
    states, hidden = torch.tensor([1.0, -1.0]), torch.tensor([1.0, -2.0])
    error = decoder @ hidden - states
    gradient = torch.outer(2 * decoder.T @ error, states)  # d|e|^2 / dW = 2 D^T e x^T
    assert learnt(layer, states[None]) == [pytest.approx(error.square().sum().item())]
    # Adam's first step goes by the learning rate against the gradient's sign.
    step = torch.tensor([[1.0, 0.0], [0.0, 2.0]]) - layer.weight
    assert torch.allclose(step, 1e-2 * gradient.sign(), atol=1e-6)


def test_a_linear_auto_encoder_falls_to_what_principal_components_leave() -> None:
    """Baldi & Hornik 1989: with k hidden units the least squared error is the sum of the other eigenvalues."""
    torch.manual_seed(0)
    data = torch.randn(200, 4) @ torch.diag(torch.tensor([3.0, 2.0, 0.7, 0.3]))
    data = data - data.mean(dim=0)
    eigenvalues = np.linalg.eigvalsh(np.cov(data.numpy().T, bias=True))
    losses = learnt(nn.Linear(4, 2), data, epochs=1500, learning_rate=2e-2)
    assert losses[0] > 2 * losses[-1]
    assert losses[-1] == pytest.approx(eigenvalues[:2].sum(), rel=1e-3)


def test_corruption_is_only_of_the_input_and_the_clean_one_is_restored() -> None:
    """All is masked: nothing but the decoder's bias can restore, and the best that it can be is the clean mean."""
    data = torch.full((50, 3), 2.0)
    masked = learnt(nn.Linear(3, 3, bias=False), data, epochs=600, strength=1.0)
    assert masked[0] == pytest.approx(3 * 2.0**2)
    assert masked[-1] == pytest.approx(0, abs=1e-3)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    with pytest.raises(Diverged, match="reconstruction loss of block.0"):
        learnt(nn.Linear(3, 3), torch.full((2, 3), 1e30))


def test_inputs_in_the_unit_interval_are_seen() -> None:
    def calls(*values: float) -> Iterator[Call]:
        return (Call((torch.tensor([[value]]),), {}, 0, None) for value in values)

    assert in_unit_interval(lambda: calls(0.0, 0.5, 1.0))
    assert not in_unit_interval(lambda: calls(0.5, 1.1))
    assert not in_unit_interval(lambda: calls(-0.1, 0.5))


# ----------------------------------------------------------------------------------------------------
# A stack of linear layers
# ----------------------------------------------------------------------------------------------------


def losses_in(caplog: pytest.LogCaptureFixture) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for record in caplog.records:
        if match := re.match(r"greedy_pretraining: (\S+), epoch .*, loss (\S+)", record.getMessage()):
            found.setdefault(match[1], []).append(float(match[2]))
    return found


def test_the_blocks_learn_and_the_head_stays(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = pretrained(mlp(), [vectors()], epochs=40)
    assert moved(model, mlp()) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    losses = losses_in(caplog)
    assert list(losses) == ["block.0", "block.1"]
    assert all(len(each) == 40 and each[-1] < 0.7 * each[0] for each in losses.values())


def test_a_layer_is_taken_with_its_activation_and_norm() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    layers = find_layers(model, vectors())
    parts = [[type(module).__name__ for module in layer.modules] for layer in stack_of(model, layers, layers.blocks)]
    assert parts == [["Linear", "BatchNorm1d", "ReLU"], ["Linear", "Tanh"]]
    statistics = model[1].running_mean.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrained(model, [vectors()])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    assert torch.equal(model[1].running_mean, statistics)


def test_blocks_may_be_sequences_themselves() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Sequential(nn.Linear(6, 5), nn.ReLU()), nn.Dropout(0.1), nn.Sequential(nn.Linear(5, 4), nn.ReLU())
            )
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    torch.manual_seed(0)
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrained(model, [vectors()])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("body.")}


def test_it_goes_from_the_bottom_up_on_clean_input_from_below() -> None:
    """The upper layer alone, on a lower one that is trained already, comes out as when both are trained in a row."""
    both = pretrained(mlp(), [vectors()])
    lower = pretrained(mlp(), [vectors()], layers=["block.0"])
    assert moved(lower, mlp()) == {"0.weight", "0.bias"}
    upper = pretrained(lower, [vectors()], layers=["block.1"])
    assert tiny.equal(upper, both)


def test_what_the_upper_layer_is_given_is_clean_and_without_dropout() -> None:
    model, seen = mlp(), []
    model[3].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    pretrained(model, [vectors()], layers=["block.1"], strength=0.5, epochs=1)
    clean = torch.tanh(nn.functional.linear(vectors(), model[0].weight, model[0].bias)).detach()
    assert moved(model, mlp()) == {"3.weight", "3.bias"}  # what is below stays as it is
    whole = [states for states in seen if len(states) == 32]  # the layers were found with two rows
    corrupted = [states for states in whole if not torch.allclose(states, clean)]
    assert len(corrupted) == 1  # one batch, one epoch; in all other calls what is given is clean
    kept = corrupted[0] != 0
    assert torch.allclose(corrupted[0][kept], clean[kept])


def test_auto_takes_the_cross_entropy_above_a_sigmoid(caplog: pytest.LogCaptureFixture) -> None:
    def first_losses(**values: Any) -> dict[str, float]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            pretrained(mlp(nn.Sigmoid), [vectors()], epochs=1, **values)
        return {name: each[0] for name, each in losses_in(caplog).items()}

    auto, squared = first_losses(), first_losses(reconstruction="squared_error")
    assert auto["block.0"] == squared["block.0"]  # real values go in
    assert auto["block.1"] != squared["block.1"]
    # Five sigmoids' values near 1/2 cost about ln 2 each.
    assert 2 < auto["block.1"] < 5
    with pytest.raises(InputError, match="cross_entropy restores values in .0, 1., and block.0 is given others"):
        first_losses(reconstruction="cross_entropy")


def test_inputs_may_be_mappings_tuples_or_tensors_and_labels_are_unused() -> None:
    class Named(nn.Sequential):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels)

    torch.manual_seed(0)
    named = Named(*mlp())
    named.load_state_dict(mlp().state_dict())
    layers = find_layers(mlp(), vectors())
    results = []
    for model, batch in (
        (mlp(), vectors()),
        (mlp(), (vectors(), torch.zeros(32))),
        (mlp(), [vectors()]),
        (named, {"pixels": vectors(), "labels": torch.ones(32), "weights": torch.ones(32)}),
    ):
        context = Context(seed=1, batches=lambda batch=batch: iter([batch]))
        GreedyPretraining(**QUICK).init(model, layers, context)
        results.append(model)
    assert all(tiny.equal(results[0], other) for other in results[1:])


def test_it_leaves_modes_gradients_and_the_global_state_as_they_were() -> None:
    model, batch = mlp().train(), vectors()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    layers, state = find_layers(model, batch), torch.get_rng_state()
    GreedyPretraining(**QUICK).init(model, layers, Context(seed=1, batches=lambda: iter([batch])))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"3.weight"}
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert moved(model, mlp()) == {"0.weight", "3.weight", "3.bias"}  # what the user froze stays
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in mlp().named_modules()]


def test_it_draws_from_its_own_stream() -> None:
    one, same, other = (pretrained(mlp(), [vectors()], seed=seed) for seed in (1, 1, 2))
    assert tiny.equal(one, same)
    assert not tiny.equal(one, other)


# ----------------------------------------------------------------------------------------------------
# An encoder
# ----------------------------------------------------------------------------------------------------


def test_of_bert_only_the_blocks_change(caplog: pytest.LogCaptureFixture) -> None:
    start = tiny.bert()
    with caplog.at_level(logging.INFO):
        session = tiny.recipe(GreedyPretraining(epochs=5, learning_rate=1e-2)).bind(tiny.bert(), tiny.loader())
    blocks = {name for name in start.state_dict() if name.startswith("bert.encoder.layer.")}
    assert moved(session.model, start) == blocks
    losses = losses_in(caplog)
    assert list(losses) == ["block.0", "block.1", "block.2"]
    assert all(each[-1] < 0.8 * each[0] for each in losses.values())


def test_padding_counts_for_nothing() -> None:
    def batch(pad: int) -> dict[str, Tensor]:
        rows = default_data_collator(tiny.rows(6))
        rows["attention_mask"][:, 5:] = 0
        rows["input_ids"][:, 5:] = pad
        return rows

    one, other = (pretrained(tiny.bert(), [batch(pad)]) for pad in (7, 8))
    assert all(torch.allclose(value, other.state_dict()[name], atol=1e-5) for name, value in one.state_dict().items())
    unmasked = {name: value for name, value in batch(7).items() if name != "attention_mask"}
    assert not tiny.equal(pretrained(tiny.bert(), [unmasked]), one)


def test_blocks_of_torchs_own_encoder() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
            self.embed, self.encoder = nn.Embedding(20, 8), nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(input_ids)).mean(1))

    torch.manual_seed(0)
    model = Encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrained(model, [torch.arange(20).reshape(4, 5)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("encoder.")}


# ----------------------------------------------------------------------------------------------------
# In a run
# ----------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------
# What it cannot do
# ----------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.lstm = nn.LSTM(8, 8, num_layers=layers, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(input_ids))[0].mean(1))


class Functional(nn.Module):
    """Its activations are functions, which stand in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x).relu()).relu())


def test_models_without_a_stack_are_refused_with_what_was_found() -> None:
    conv = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    needs = r"needs a stack of layers.*In {}, "
    with pytest.raises(InputError, match=needs.format("Sequential") + r"block.0 \(0, Conv1d\) is convolutional"):
        pretrained(conv, [torch.randn(4, 1, 6)])
    ids = torch.zeros(4, 5, dtype=torch.long)
    with pytest.raises(InputError, match=needs.format("Recurrent") + r"block.0 \(lstm.* has no module of its own"):
        pretrained(Recurrent(layers=2), [ids])
    with pytest.raises(InputError, match=needs.format("Recurrent") + r"block.0 \(lstm, LSTM\) is recurrent"):
        pretrained(Recurrent(layers=1), [ids])
    with pytest.raises(InputError, match=needs.format("Linear") + "there is none: its layers are head"):
        GreedyPretraining().init(nn.Linear(2, 2), Layers(("head",), {"head": ("weight",)}, {}), Context(seed=1))
    model = Functional()
    layers = find_layers(model, explicit={"block.0": ["one"], "block.1": ["two"], "head": ["three"]})
    with pytest.raises(InputError, match=r"block.0 \(one, Linear\) stands outside an nn.Sequential"):
        GreedyPretraining().init(model, layers, Context(seed=1, batches=lambda: iter([vectors()])))


def test_layers_that_change_the_shape_of_positions_are_refused() -> None:
    class Merge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(12, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x.reshape(len(x), -1, 12)).relu())

    model = nn.Sequential(Merge(), Merge(), nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"block.0 \(0\) makes \[4, 2, 6\] of \[4, 4, 6\]"):
        pretrained(model, [torch.randn(4, 4, 6)])


def test_layers_that_are_no_blocks_or_do_not_exist_or_are_frozen_are_refused() -> None:
    for layers, said in ((["block.9"], "the model has no layer 'block.9'"), (["block.0", "head"], "head is no block")):
        with pytest.raises(InputError, match=f"greedy_pretraining.layers: {said}"):
            pretrained(mlp(), [vectors()], layers=layers)
    model = mlp()
    model[0].requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train: all of block.0 is frozen"):
        pretrained(model, [vectors()], layers=["block.0"])


def test_batches_that_can_be_read_only_once_are_refused() -> None:
    with pytest.raises(InputError, match="give a loader with a length instead of an iterator"):
        GreedyPretraining().init(mlp(), find_layers(mlp(), vectors()), Context(seed=1))


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": -1},
        {"epochs": 0.5},
        {"learning_rate": 0},
        {"strength": -0.1},
        {"strength": 1.0},
        {"corruption": "salt"},
        {"reconstruction": "l1"},
        {"layers": []},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GreedyPretraining(**values)
    assert GreedyPretraining(corruption="gaussian", strength=1.5).strength == 1.5
