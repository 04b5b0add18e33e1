from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tr
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from finetricks import Context, InputError, Trick
from finetricks_plugins.build.activation import Activation
from finetricks_plugins.build.task_layers import TaskLayers

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3}
TEXT = SIZES | {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {"vocab_size": 50, "d_model": 16, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 1}
BART = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
        {"layers": 2, "attention_heads": 2, "ffn_dim": 24}.items()}  # fmt: skip
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16}

CONFIGS: dict[str, Callable[..., Any]] = {
    "bert": lambda **more: tr.BertConfig(**TEXT, **more),
    "roberta": lambda **more: tr.RobertaConfig(**TEXT, **more),
    "distilbert": lambda **more: tr.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24, num_labels=3, **more
    ),
    "electra": lambda **more: tr.ElectraConfig(**TEXT, embedding_size=8, **more),
    "deberta-v2": lambda **more: tr.DebertaV2Config(**TEXT, **DEBERTA, **more),
    "gpt2": lambda **more: tr.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0, **more
    ),
    "llama": lambda **more: tr.LlamaConfig(**TEXT, **more),
    "t5": lambda **more: tr.T5Config(
        **SEQ2SEQ, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0, **more
    ),
    "vit": lambda **more: tr.ViTConfig(**SIZES, image_size=8, patch_size=4, **more),
    "modernbert": lambda **more: tr.ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2, **more),
    "bart": lambda **more: tr.BartConfig(**SEQ2SEQ, **BART, **more),
}


def small(name: str, **settings: Any) -> nn.Module:
    """A classifier of two blocks (two in the decoder too, where there is one)."""
    torch.manual_seed(0)
    config = CONFIGS[name](**settings)
    kind = tr.AutoModelForImageClassification if name == "vit" else tr.AutoModelForSequenceClassification
    return kind.from_config(config).eval()


def logits(model: nn.Module) -> Tensor:
    """The scores of three examples, without gradients."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if model.config.model_type == "vit":
            return model(torch.randn(3, 3, 8, 8, generator=generator)).logits
        ids = torch.randint(3, 40, (3, 7), generator=generator)
        ids[:, -1] = 1  # the token that ends BART's and T5's input
        return model(ids).logits


def swapped(model: nn.Module, **values: Any) -> nn.Module:
    Activation(**values).build(model, Context(seed=0))
    return model


# Each model, what its configuration calls its activations, and the layers that this is true of.
CONFIGURED = [
    ("bert", ("hidden_act",), None),
    ("roberta", ("hidden_act",), None),
    ("distilbert", ("activation",), None),
    ("electra", ("hidden_act",), ("block.0", "block.1")),  # the head's is always GELU
    ("deberta-v2", ("hidden_act",), None),
    ("gpt2", ("activation_function",), None),
    ("llama", ("hidden_act",), None),
    ("t5", ("feed_forward_proj",), None),
    ("vit", ("hidden_act",), None),
    ("modernbert", ("hidden_activation", "classifier_activation"), None),
    ("bart", ("activation_function",), None),
]


@pytest.mark.parametrize("to", ["silu", "leaky_relu"])
@pytest.mark.parametrize(("name", "keys", "layers"), CONFIGURED, ids=[name for name, _, _ in CONFIGURED])
def test_a_model_is_as_if_it_had_been_configured_so(
    name: str, keys: tuple[str, ...], layers: tuple[str, ...] | None, to: str
) -> None:
    if (name, to) == ("llama", "silu"):
        to = "relu"  # SiLU is what Llama has
    before = small(name)
    configured = small(name, **dict.fromkeys(keys, to))
    configured.load_state_dict(before.state_dict())
    expected = logits(configured)
    assert not torch.equal(logits(before), expected)
    assert torch.equal(logits(swapped(before, to=to, layers=layers)), expected)


# -- what each activation is -----------------------------------------------------------------------------

AT_MINUS_ONE = {
    "relu": 0.0,
    "leaky_relu": -0.01,
    "prelu": -0.25,
    "rrelu": -(1 / 8 + 1 / 3) / 2,
    "elu": math.exp(-1) - 1,
    "selu": 1.0507009873554805 * 1.6732632423543772 * (math.exp(-1) - 1),  # Klambauer et al. 2017, section 2
    "celu": math.exp(-1) - 1,
    "gelu": -(1 + math.erf(-1 / math.sqrt(2))) / 2,
    "silu": -1 / (1 + math.e),
    "softplus": math.log(1 + math.exp(-1)),
    "tanh": math.tanh(-1),
    "sigmoid": 1 / (1 + math.e),
}


@pytest.mark.parametrize("to", AT_MINUS_ONE)
def test_the_new_activation_at_minus_one(to: str) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Hardswish(), nn.Linear(1, 1)).eval()
    for linear in (model[0], model[2]):
        nn.init.ones_(linear.weight)
        nn.init.zeros_(linear.bias)
    assert swapped(model, to=to)(torch.tensor([[-1.0]])).item() == pytest.approx(AT_MINUS_ONE[to], abs=1e-6)


# -- where it is swapped ---------------------------------------------------------------------------------


def acts(model: nn.Module) -> list[nn.Module]:
    return [block.intermediate.intermediate_act_fn for block in model.bert.encoder.layer]


def test_only_the_layers_asked_for() -> None:
    kinds = [type(act) for act in acts(swapped(tiny.bert(), to="relu", layers=["block.1", "head"]))]
    assert kinds[1] is nn.ReLU
    assert nn.ReLU not in (kinds[0], kinds[2])


def test_tanh_of_the_pooler_stays_unless_it_is_the_source() -> None:
    model = swapped(tiny.bert(), to="relu")
    assert isinstance(model.bert.pooler.activation, nn.Tanh)
    model = swapped(tiny.bert(), to="relu", source="tanh")
    assert isinstance(model.bert.pooler.activation, nn.ReLU)
    assert not any(isinstance(act, nn.ReLU) for act in acts(model))


def test_the_source_alone_is_swapped() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ELU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    swapped(model, to="silu", source="elu")
    assert [type(model[1]), type(model[3])] == [nn.SiLU, nn.ReLU]


def test_one_module_in_two_places_becomes_two() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu, nn.Linear(2, 2))
    swapped(model, to="prelu", layers=["head"])  # what comes after the last block belongs to it
    assert [type(model[1]), type(model[3])] == [nn.ReLU, nn.PReLU]
    swapped(model, to="prelu")
    assert model[1].weight is not model[3].weight


def test_one_prelu_in_two_places_is_swapped_in_both() -> None:
    prelu = nn.PReLU()
    model = nn.Sequential(nn.Linear(2, 2), prelu, nn.Linear(2, 2), prelu, nn.Linear(2, 2))
    swapped(model, to="relu")
    assert [type(model[1]), type(model[3])] == [nn.ReLU, nn.ReLU]


@pytest.mark.parametrize("given", ["relu", "gelu"])
def test_a_function_that_a_module_holds_is_swapped_in_evaluation_too(given: str) -> None:
    # In evaluation torch runs a fast path with ReLU or GELU built in.
    made = {}
    for activation in (given, nn.SiLU()):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
        made[activation] = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    had, wanted = made.values()
    states = torch.randn(2, 3, 8)
    with torch.no_grad():
        swapped(had.eval(), to="silu")
        assert torch.equal(had(states), wanted.eval()(states))
    assert had.layers[0].activation is not had.layers[1].activation


def test_the_new_modules_are_in_the_mode_and_of_the_type_of_the_model() -> None:
    model = swapped(tiny.bert().eval().to(torch.bfloat16), to="prelu")
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


# -- what it cannot do -----------------------------------------------------------------------------------


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"activation.layers: the model has no layer 'block.9'"):
        tiny.recipe(Activation(to="relu", layers=["block.9"])).bind(tiny.bert(), tiny.loader())


def test_where_nothing_can_be_swapped_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"activation: nothing to swap for relu found in Sequential; there is tanh"):
        swapped(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), to="relu")
    with pytest.raises(InputError, match=r"nothing to swap for gelu found in GPT2.*; there is gelu"):
        swapped(small("gpt2"), to="gelu")  # its own approximation of it
    with pytest.raises(InputError, match=r"no relu found in BertForSequenceClassification in block.0; there is gelu"):
        swapped(tiny.bert(), to="silu", source="relu", layers=["block.0"])
    with pytest.raises(ValidationError, match="source and to are both relu"):
        Activation(to="relu", source="relu")


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 2)

    def forward(self, states: Tensor) -> Tensor:
        return F.relu(self.dense(states))


def test_what_a_forward_pass_calls_itself_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"itself, out of reach: relu in 1 \(Pooling\)"):
        swapped(nn.Sequential(nn.Linear(2, 2), Pooling()), to="silu")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        swapped(small("deberta-v2"), to="silu")
        swapped(small("distilbert"), to="silu")
    assert [record.getMessage().partition("itself: ")[2] for record in caplog.records] == [
        "ACT2FN in pooler (ContextPooler)",
        "ReLU in the model (DistilBertForSequenceClassification)",
    ]
    caplog.clear()
    swapped(small("distilbert"), to="relu")  # the head's is ReLU already
    swapped(small("bert"), to="silu")
    assert not caplog.records


# -- in training -----------------------------------------------------------------------------------------


def test_each_prelu_learns_a_slope_of_its_own_in_its_block() -> None:
    recipe = tiny.recipe(Activation(to="prelu"))
    session = recipe.bind(tiny.bert(), tiny.loader())
    names = [f"bert.encoder.layer.{i}.intermediate.intermediate_act_fn.weight" for i in range(3)]
    for block, name in enumerate(names):
        assert name in session.layers.parameters[f"block.{block}"]
        assert any(name in group.parameters for group in session.plan.groups)
    assert set(names) <= session._step().fresh
    tiny.train(session)
    slopes = [act.weight.item() for act in acts(session.model)]
    assert len({0.25, *slopes}) == 4


def test_the_slopes_of_frozen_blocks_stay() -> None:
    session = tiny.recipe(tiny.Unfreeze(), Activation(to="prelu"), epochs=2).bind(tiny.bert(), tiny.loader())
    tiny.train(session)  # the head in the first epoch, block.2 too in the second
    assert [act.weight.item() == 0.25 for act in acts(session.model)] == [True, True, False]


def test_rrelu_is_drawn_from_the_dropout_stream_and_is_off_in_frozen_blocks() -> None:
    def losses(*tricks: Trick, **streams: int) -> list[float]:
        recipe = tiny.recipe(*tricks, Activation(to="rrelu"), epochs=1, **streams)
        return tiny.trained(recipe, tiny.bert(dropout=0.0))[0]

    assert losses() == losses()
    assert losses(dropout_seed=1) != losses()
    assert losses(tiny.Unfreeze(), dropout_seed=1) == losses(tiny.Unfreeze())  # all blocks are frozen
    model = swapped(tiny.bert(dropout=0.0), to="rrelu").eval()
    ids = torch.arange(1, 9)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(("to", "at"), [("rrelu", 2)])
def test_resumed_is_uninterrupted_bit_for_bit(to: str, at: int, tmp_path: Path) -> None:
    whole, first, second = (
        tiny.recipe(tiny.Unfreeze(), Activation(to=to)).bind(tiny.bert(seed=seed), tiny.loader()) for seed in (0, 0, 1)
    )
    tiny.train(whole)
    tiny.train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert tiny.equal(second.model, whole.model)
    assert not tiny.equal(whole.model, tiny.trained(tiny.recipe(tiny.Unfreeze()))[1])


def test_a_model_that_has_it_already_keeps_what_it_has_learnt() -> None:
    model = tiny.trained(tiny.recipe(Activation(to="prelu", source="gelu")))[1]
    slopes = [act.weight for act in acts(model)]
    swapped(model, to="prelu", source="gelu")
    assert all(act.weight is slope for act, slope in zip(acts(model), slopes, strict=True))


def test_it_survives_copies_and_weights_fit_a_model_that_is_built_again() -> None:
    model = tiny.trained(tiny.recipe(Activation(to="prelu")))[1].eval()
    again = swapped(tiny.bert(seed=1), to="prelu")
    again.load_state_dict(model.state_dict())
    expected = logits(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again.eval()):
        assert torch.equal(logits(other), expected)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_its_place_in_the_recipe_changes_nothing(kind: str) -> None:
    tricks = [Activation(to="prelu"), TaskLayers(kind=kind, heads=2)]
    one, other = (tiny.trained(tiny.recipe(*listed, epochs=1))[1] for listed in (tricks, tricks[::-1]))
    assert tiny.equal(one, other)
