from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

import tiny
from finetricks import Context, InputError, Layers, RecipeError
from finetricks.fresh import declare_fresh
from finetricks_plugins.build.task_layers import TaskLayers
from finetricks_plugins.init.activation_after import activations_after
from finetricks_plugins.init.glorot_normal import GlorotNormal
from finetricks_plugins.init.kaiming import Kaiming, fill_kaiming
from finetricks_plugins.init.matrices import gain_of

NO_LAYERS = Layers(names=(), parameters={}, modules={})


def drawn(model: nn.Module, batch: Any = None, seed: int = 1, **values: object) -> nn.Module:
    batches = None if batch is None else lambda: iter([batch])
    Kaiming(**{"modules": "all"} | values).init(model, NO_LAYERS, Context(seed=seed, batches=batches))
    return model


def std(weight: Tensor) -> float:
    return weight.std().item()


# ----------------------------------------------------------------------------------------------------
# Numbers
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan", ["fan_in", "fan_out"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 3, 5)])
def test_it_equals_torchs(fan: str, distribution: str, shape: tuple[int, ...]) -> None:
    ours, theirs = torch.empty(shape), torch.empty(shape)
    fill_kaiming(
        ours, fan=fan, distribution=distribution, gain=math.sqrt(2), generator=torch.Generator().manual_seed(3)
    )
    fill = nn.init.kaiming_normal_ if distribution == "normal" else nn.init.kaiming_uniform_
    fill(theirs, mode=fan, nonlinearity="relu", generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ours, theirs, rtol=1e-6)


def test_the_standard_deviation_is_hes() -> None:
    linear = drawn(nn.Linear(400, 100), activation="relu")
    assert std(linear.weight) == pytest.approx(math.sqrt(2 / 400), rel=0.02)  # He et al., section 2.2
    assert linear.bias.abs().max() == 0
    assert std(drawn(linear, activation="relu", mode="fan_out").weight) == pytest.approx(math.sqrt(2 / 100), rel=0.02)
    assert std(drawn(linear, gain=3.0).weight) == pytest.approx(3 / math.sqrt(400), rel=0.02)
    drawn(linear, activation="relu", distribution="uniform")
    assert std(linear.weight) == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert linear.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 400), rel=1e-3)


def test_gains_are_torchs_and_relus_where_torch_has_none() -> None:
    assert gain_of("linear") == gain_of("sigmoid") == 1
    assert gain_of("tanh") == 5 / 3
    assert gain_of("selu") == 3 / 4
    assert gain_of("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert gain_of("prelu") == math.sqrt(2 / (1 + 0.25**2))
    assert {gain_of(kind) for kind in ("relu", "gelu", "silu", "elu", "celu", "softplus")} == {math.sqrt(2)}


def test_the_variance_stays_alike_through_a_deep_relu_network() -> None:
    width = 256
    deep = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(width, width), nn.ReLU())))
    inputs = torch.randn(64, width)
    drawn(deep, inputs)
    assert 0.3 < (deep(inputs).square().mean() / inputs.square().mean()).item() < 3  # torch's own: below 1e-9


# ----------------------------------------------------------------------------------------------------
# The activation that follows
# ----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Activations as modules, functions and methods, with norms, dropout and shapes in between; sums and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)
        self.function, self.method, self.dropped = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.leaky, self.slope = nn.Linear(4, 4), nn.LeakyReLU(inplace=True)
        self.summed, self.scores = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool1d(self.norm(self.conv(images)), 2)[:, :, 0].relu_()
        x = F.silu(self.function(x))
        x = self.method(x).view(-1, 4).tanh()
        x = torch.sigmoid(F.dropout(self.dropped(x), 0.5, self.training))
        x = self.slope(self.leaky(x))
        return F.softmax(self.scores(torch.relu(x + self.summed(x))), dim=-1)


def test_it_is_seen_in_a_pass_whichever_way_it_is_called() -> None:
    net = Net()
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv1d)]
    found = activations_after(layers, net, lambda: net(torch.randn(2, 3, 8)))
    assert {name: found[module] for name, module in net.named_children() if module in found} == {
        "conv": "relu",
        "function": "silu",
        "method": "tanh",
        "dropped": "sigmoid",
        "leaky": "leaky_relu",
    }
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_each_layer_gets_the_gain_of_what_follows_it() -> None:
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 100))
    drawn(model, (torch.randn(4, 400), torch.zeros(4)))  # inputs and labels
    expected = [math.sqrt(2 / 400), 5 / 3 / math.sqrt(300), 1 / math.sqrt(200)]
    assert [std(model[i].weight) for i in (0, 2, 4)] == pytest.approx(expected, rel=0.03)


def test_the_pass_leaves_the_model_and_the_global_state_as_they_were() -> None:
    net, batch = Net().train(), torch.randn(4, 3, 8)
    statistics, state = net.norm.running_mean.clone(), torch.get_rng_state()
    drawn(net, batch)
    assert net.training
    assert net.norm.training
    assert torch.equal(net.norm.running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_gelu_that_is_made_of_other_functions_is_one() -> None:
    config = GPT2Config(vocab_size=50, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    model = GPT2LMHeadModel(config)
    table = model.transformer.wte.weight.detach().clone()
    drawn(model, {"input_ids": torch.zeros(2, 4, dtype=torch.long), "added": torch.zeros(2)})
    block = model.transformer.h[0]
    # GPT-2's linear layers are [in, out]: 64 inputs, and 256
    assert std(block.mlp.c_fc.weight) == pytest.approx(math.sqrt(2 / 64), rel=0.03)
    assert std(block.mlp.c_proj.weight) == pytest.approx(1 / math.sqrt(256), rel=0.03)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.equal(model.transformer.wte.weight, table)


def test_without_a_batch_the_activation_is_asked_for() -> None:
    with pytest.raises(InputError, match="kaiming: which activation follows .* name the `activation`"):
        drawn(nn.Linear(2, 2))
    with pytest.raises(InputError, match="a pass of Linear on a training batch, before training, failed with"):
        drawn(nn.Linear(2, 2), torch.randn(2, 5))


# ----------------------------------------------------------------------------------------------------
# What is drawn
# ----------------------------------------------------------------------------------------------------


def moved(model: nn.Module, start: nn.Module) -> set[str]:
    before = start.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_only_what_no_checkpoint_supplied_or_the_head_or_all() -> None:
    def drawn_in(which: str) -> set[str]:
        session = tiny.recipe(Kaiming(modules=which)).bind(tiny.bert(), tiny.loader())
        return moved(session.model, tiny.bert())

    assert drawn_in("fresh") == {"classifier.weight"}  # the bias was zero already
    assert drawn_in("head") == {"classifier.weight", "bert.pooler.dense.weight"}
    everything = drawn_in("all")
    assert len(everything) == 2 + 3 * 6  # six linear layers a block; no embeddings, no norms
    assert not any("embeddings" in name or "LayerNorm" in name for name in everything)


def test_each_projection_of_torchs_attention_is_drawn_by_itself() -> None:
    attention = drawn(nn.MultiheadAttention(200, 4), activation="linear", mode="fan_out")
    # of the stacked matrix fan_out would be 600
    assert [std(part) for part in attention.in_proj_weight.chunk(3)] == pytest.approx(
        [1 / math.sqrt(200)] * 3, rel=0.02
    )
    assert attention.in_proj_bias.abs().max() == 0
    other = drawn(nn.MultiheadAttention(200, 4, kdim=50, vdim=100, bias=False), activation="linear")
    widths = [std(other.q_proj_weight), std(other.k_proj_weight), std(other.v_proj_weight)]
    assert widths == pytest.approx([1 / math.sqrt(fan) for fan in (200, 50, 100)], rel=0.03)


def test_layers_that_another_trick_builds_are_drawn() -> None:
    trick = TaskLayers(kind="mlp", width=256)
    session = tiny.recipe(trick, Kaiming()).bind(tiny.bert(), tiny.loader())
    plain = tiny.recipe(trick).bind(tiny.bert(), tiny.loader())
    assert moved(session.model, plain.model) == {
        "task_layers.layers.0.linear.weight",
        "task_layers.layers.0.linear.bias",
        "output.weight",
    }
    # [16, 256], before a ReLU
    assert std(session.model.task_layers.layers[0].linear.weight) == pytest.approx(math.sqrt(2 / 16), rel=0.05)


def test_recurrent_weights_are_left() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "head": nn.Linear(4, 2)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn(model, activation="relu")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_nothing_to_draw_is_an_error_before_training() -> None:
    pretrained = tiny.bert()
    declare_fresh(pretrained, [])
    with pytest.raises(InputError, match="no linear or convolutional layer of .* is new: .* `modules: all`"):
        tiny.recipe(Kaiming()).bind(pretrained, tiny.loader())
    with pytest.raises(InputError, match="the head of Linear has no linear or convolutional layer; `modules: all`"):
        drawn(nn.Linear(2, 2), modules="head")
    with pytest.raises(InputError, match="LSTM has no linear or convolutional layer"):
        drawn(nn.LSTM(2, 2))
    tied = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=32))
    context = Context(seed=1, fresh=frozenset({"transformer.wte.weight"}))
    with pytest.raises(InputError, match="have no weights of their own: they are tied to embedding tables"):
        Kaiming().init(tied, NO_LAYERS, context)


def test_it_cannot_stand_beside_glorot_normal() -> None:
    for tricks in ([Kaiming(), GlorotNormal()], [GlorotNormal(), Kaiming()]):
        with pytest.raises(
            RecipeError, match="kaiming and glorot_normal exclude one another: both draw the same weights"
        ):
            tiny.recipe(*tricks)


def test_it_draws_from_its_own_stream_and_changes_the_result() -> None:
    one, same, other = (drawn(nn.Linear(4, 4), seed=seed, activation="relu").weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not tiny.equal(tiny.trained(tiny.recipe(Kaiming()))[1], tiny.trained(tiny.recipe())[1])


def test_a_head_of_two_layers_gets_both_gains() -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50, num_labels=128, **sizes))
    session = tiny.recipe(Kaiming()).bind(model, tiny.loader())
    assert std(session.model.classifier.dense.weight) == pytest.approx(5 / 3 / math.sqrt(128), rel=0.03)  # tanh
    assert std(session.model.classifier.out_proj.weight) == pytest.approx(1 / math.sqrt(128), rel=0.03)


@pytest.mark.parametrize(
    "values",
    [{"gain": 0}, {"mode": "fan_avg"}, {"distribution": "cauchy"}, {"activation": "relus"}, {"modules": "new"}],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Kaiming(**values)
