from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import tiny
from finetricks import Context, InputError, Layers
from finetricks_plugins.build.task_layers import TaskLayers
from finetricks_plugins.init.lstm_orthogonal import LSTMOrthogonal

NO_LAYERS = Layers(names=(), parameters={}, modules={})


def drawn(model: nn.Module, seed: int = 1, **values: object) -> nn.Module:
    LSTMOrthogonal(**{"modules": "all"} | values).init(model, NO_LAYERS, Context(seed=seed))
    return model


def is_orthogonal(block: Tensor, gain: float = 1.0) -> bool:
    identity = torch.eye(block.shape[1])
    return torch.allclose(block.T @ block, gain**2 * identity, atol=1e-5)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_each_gates_block_is_orthogonal_in_each_layer_and_direction(kind: type[nn.RNNBase], gates: int) -> None:
    network = drawn(kind(3, 5, num_layers=2, bidirectional=True))
    seen = []
    for name in ("weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse"):
        blocks = getattr(network, name).detach().split(5)
        assert len(blocks) == gates
        assert all(is_orthogonal(block) for block in blocks)
        seen += blocks
    assert not any(torch.equal(one, other) for i, one in enumerate(seen) for other in seen[:i])


def test_of_the_stacked_matrix_each_gates_block_is_far_from_orthogonal() -> None:
    # The trap: W^T W = I holds for the four blocks together, so that each has half of the size.
    stacked = nn.init.orthogonal_(torch.empty(400, 100), generator=torch.Generator().manual_seed(0))
    lengths = [block.norm() / 100**0.5 for block in stacked.split(100)]
    assert all(0.45 < length < 0.55 for length in lengths)


def test_the_gain_and_a_cell_by_itself() -> None:
    cell = drawn(nn.LSTMCell(3, 4), gain=0.9)
    assert all(is_orthogonal(block, gain=0.9) for block in cell.weight_hh.detach().split(4))


def test_a_projection_leaves_orthonormal_columns() -> None:
    network = nn.LSTM(3, 6, proj_size=2)
    projection = network.weight_hr_l0.detach().clone()
    drawn(network)
    blocks = network.weight_hh_l0.detach().split(6)
    assert [tuple(block.shape) for block in blocks] == [(6, 2)] * 4
    assert all(is_orthogonal(block) for block in blocks)
    assert torch.equal(network.weight_hr_l0, projection)


def test_the_rest_is_left_unless_input_weights_are_asked_for() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(300, 100, num_layers=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn(network)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"weight_hh_l0", "weight_hh_l1"}
    drawn(network, input_weights="glorot_uniform")
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"weight_hh_l0", "weight_hh_l1", "weight_ih_l0", "weight_ih_l1"}
    # Glorot's bound of one gate's 100 x 300 block: sqrt(6 / 400), and a standard deviation of sqrt(2 / 400)
    assert network.weight_ih_l0.abs().max().item() == pytest.approx((6 / 400) ** 0.5, rel=1e-3)
    assert network.weight_ih_l0.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)


def test_a_weight_that_is_dropped_out_at_each_use_is_drawn_and_one_that_is_computed_from_parts_is_refused() -> None:
    class WeightDrop(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return nn.functional.dropout(weight, 0.5, self.training)

    network = parametrize.register_parametrization(nn.LSTM(3, 5), "weight_hh_l0", WeightDrop())
    drawn(network)
    assert all(is_orthogonal(block) for block in network.parametrizations.weight_hh_l0.original.detach().split(5))
    with pytest.raises(
        InputError, match="has no recurrent weights of its own: they are computed from other parameters"
    ):
        drawn(weight_norm(nn.LSTM(3, 5), "weight_hh_l0"))


def test_by_default_only_networks_that_no_checkpoint_supplied() -> None:
    model = nn.ModuleDict({"old": nn.LSTM(3, 4), "new": nn.LSTM(3, 4)})
    old = model["old"].weight_hh_l0.detach().clone()
    fresh = frozenset(name for name, _ in model.named_parameters() if name.startswith("new."))
    LSTMOrthogonal().init(model, NO_LAYERS, Context(seed=1, fresh=fresh))
    assert torch.equal(model["old"].weight_hh_l0, old)
    assert all(is_orthogonal(block) for block in model["new"].weight_hh_l0.detach().split(4))
    with pytest.raises(InputError, match=r"no recurrent network \(nn.LSTM, nn.GRU, nn.RNN\) of ModuleDict is new.*all"):
        LSTMOrthogonal().init(model, NO_LAYERS, Context(seed=1))


def test_it_draws_from_its_own_stream() -> None:
    networks = [nn.LSTM(3, 4) for _ in range(3)]
    state = torch.get_rng_state()
    one, same, other = (drawn(network, seed).weight_hh_l0 for network, seed in zip(networks, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_model_without_a_recurrent_network_is_refused_before_training() -> None:
    with pytest.raises(InputError, match="lstm_orthogonal: BertForSequenceClassification has no recurrent network"):
        tiny.recipe(LSTMOrthogonal()).bind(tiny.bert(), tiny.loader())


def test_the_lstm_that_another_trick_builds_is_drawn_and_the_result_changes() -> None:
    plain, orthogonal = (tiny.recipe(TaskLayers(), *t) for t in ([], [LSTMOrthogonal()]))
    session = orthogonal.bind(tiny.bert(), tiny.loader())
    weight = session.model.task_layers.layers[0].lstm.weight_hh_l0_reverse.detach()
    assert all(is_orthogonal(block) for block in weight.split(8))
    tiny.train(session)
    assert not tiny.equal(session.model, tiny.trained(plain)[1])


@pytest.mark.parametrize("values", [{"gain": 0}, {"gain": float("inf")}, {"input_weights": "he"}, {"modules": "head"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LSTMOrthogonal(**values)
