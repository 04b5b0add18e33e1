from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import tiny
from finetricks import Context, InputError, Layers
from finetricks_plugins.build.task_layers import TaskLayers
from finetricks_plugins.init.lstm_forget_bias import LSTMForgetBias
from finetricks_plugins.init.lstm_orthogonal import LSTMOrthogonal

NO_LAYERS = Layers(names=(), parameters={}, modules={})


def changed(model: nn.Module, **values: object) -> nn.Module:
    LSTMForgetBias(**{"modules": "all"} | values).init(model, NO_LAYERS, Context(seed=1))
    return model


def test_the_effective_bias_is_one_and_torchs_two_are_one_and_zero() -> None:
    network = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changed(network)
    for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
        bias_ih, bias_hh = getattr(network, f"bias_ih_{place}"), getattr(network, f"bias_hh_{place}")
        # the gates' order is input, forget, cell, output: entries 4 to 7 of 16 are the forget gate's
        assert bias_ih[4:8].tolist() == [1.0] * 4
        assert bias_hh[4:8].tolist() == [0.0] * 4
        for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
            old = before[f"{name}_{place}"]
            assert torch.equal(bias[:4], old[:4])
            assert torch.equal(bias[8:], old[8:])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items() if "weight" in name)


def test_a_cell_keeps_the_share_that_the_bias_says() -> None:
    """With all weights zero and no other bias, c_1 = sigmoid(b_f) * c_0 + sigmoid(0) * tanh(0)."""
    network = nn.LSTM(2, 3)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    changed(network)
    _, (_, cell) = network(torch.randn(1, 1, 2), (torch.zeros(1, 1, 3), torch.full((1, 1, 3), 2.0)))
    assert cell.flatten().tolist() == pytest.approx([2 * 0.7310586] * 3, abs=1e-6)  # sigmoid(1)


def test_another_value_and_a_cell_by_itself() -> None:
    cell = changed(nn.LSTMCell(3, 2), value=2.5)
    assert (cell.bias_ih + cell.bias_hh)[2:4].tolist() == [2.5, 2.5]


def test_by_default_only_lstms_that_no_checkpoint_supplied() -> None:
    model = nn.ModuleDict({"old": nn.LSTM(3, 4), "new": nn.LSTM(3, 4)})
    old = model["old"].bias_ih_l0.detach().clone()
    fresh = frozenset(name for name, _ in model.named_parameters() if name.startswith("new."))
    LSTMForgetBias().init(model, NO_LAYERS, Context(seed=1, fresh=fresh))
    assert torch.equal(model["old"].bias_ih_l0, old)
    assert model["new"].bias_ih_l0[4:8].tolist() == [1.0] * 4
    with pytest.raises(InputError, match="no LSTM .* of ModuleDict is new: .* `modules: all`"):
        LSTMForgetBias().init(model, NO_LAYERS, Context(seed=1))


def test_an_lstm_without_biases_is_refused() -> None:
    model = nn.ModuleDict({"encoder": nn.LSTM(3, 4, bias=False)})
    with pytest.raises(InputError, match="encoder in ModuleDict has no biases.*bias=True"):
        changed(model)
    with pytest.raises(InputError, match="lstm_forget_bias: LSTM has no biases.*bias=True"):
        changed(nn.LSTM(3, 4, bias=False))


def test_a_model_without_an_lstm_is_refused() -> None:
    with pytest.raises(InputError, match=r"GRU has no LSTM \(a GRU has no forget gate\)"):
        changed(nn.GRU(3, 4))
    with pytest.raises(InputError, match="lstm_forget_bias: BertForSequenceClassification has no LSTM"):
        tiny.recipe(LSTMForgetBias()).bind(tiny.bert(), tiny.loader())


def test_the_lstm_that_another_trick_builds_is_changed_and_the_result_with_it() -> None:
    plain, biased = (tiny.recipe(TaskLayers(), *t) for t in ([], [LSTMForgetBias()]))
    session = biased.bind(tiny.bert(), tiny.loader())
    assert session.model.task_layers.layers[0].lstm.bias_ih_l0_reverse[8:16].tolist() == [1.0] * 8
    tiny.train(session)
    assert not tiny.equal(session.model, tiny.trained(plain)[1])


def test_it_stands_beside_orthogonal_weights_in_either_order() -> None:
    models = [
        tiny.recipe(TaskLayers(), *tricks).bind(tiny.bert(), tiny.loader()).model
        for tricks in ([LSTMForgetBias(), LSTMOrthogonal()], [LSTMOrthogonal(), LSTMForgetBias()])
    ]
    assert tiny.equal(*models)


@pytest.mark.parametrize("values", [{"value": float("nan")}, {"modules": "head"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LSTMForgetBias(**values)
