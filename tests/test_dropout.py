from __future__ import annotations

import copy
import pickle
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
from finetricks.stack import Stack
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.dropout import Dropout
from finetricks_plugins.build.dropouts import dropout_places
from finetricks_plugins.build.output_dropout import OutputDropout
from finetricks_plugins.build.task_layers import TaskLayers
from test_activation import CONFIGS, logits, small


def dropping(model: nn.Module, **values: Any) -> nn.Module:
    Dropout(**values).build(model, Context(seed=0))
    return model


def drops(model: nn.Module) -> bool:
    """Whether a pass in training differs from one in evaluation."""
    torch.manual_seed(0)
    return not torch.equal(logits(model.train()), logits(model.eval()))


def at_half(name: str) -> nn.Module:
    """A model whose configuration asks for dropout wherever it can."""
    rates = [key for key in CONFIGS[name]().to_dict() if "drop" in key and "layerdrop" not in key]
    return small(name, **dict.fromkeys(rates, 0.5))


# -- throughout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_zero_makes_training_evaluation_bit_for_bit(name: str, attention: str) -> None:
    model = at_half(name)
    if name != "deberta-v2":  # which has only its own
        model.set_attn_implementation(attention)
    assert drops(model)
    assert not drops(dropping(model, p=0))


@pytest.mark.parametrize("name", CONFIGS)
def test_each_place_acts_by_itself(name: str) -> None:
    model = dropping(small(name), p=0.5)
    places = dropout_places(model)
    for place in places:
        place.put(0.0)
    for place in places:
        place.put(0.5)
        assert drops(model), f"{place.module}.{place.attribute}"
        place.put(0.0)


def test_half_of_the_values_are_dropped_and_the_others_doubled() -> None:
    model = dropping(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 4)), p=0.5)
    torch.manual_seed(0)
    dropped = model[1](torch.ones(100, 100))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_every_kind_of_dropout_module(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), kind(0.5), nn.Linear(2, 2))
    assert dropping(model, p=0.2)[1].p == 0.2


class Recurrent(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 4, num_layers=depth, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.lstm(self.embed(ids))[0][:, -1]))


def test_between_the_layers_of_a_recurrent_network() -> None:
    model = dropping(Recurrent(depth=2), layers={"block.0": 0.5})
    assert (model.lstm.dropout, model.dropout.p) == (0.5, 0.1)
    assert dropping(Recurrent(depth=1), p=0.5).lstm.dropout == 0  # there is nothing between one


def test_a_torch_transformer_layer_drops_in_its_attention_too() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    for layer in dropping(model, p=0.0).layers:
        assert (layer.self_attn.dropout, layer.dropout.p, layer.dropout1.p, layer.dropout2.p) == (0, 0, 0, 0)


def test_stochastic_depth_is_another_thing() -> None:
    config = tr.SwinConfig(
        image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2, drop_path_rate=0.3
    )
    model = tr.SwinForImageClassification(config)
    rates = {name: module.drop_prob for name, module in model.named_modules() if hasattr(module, "drop_prob")}
    assert rates
    dropping(model, p=0.2)
    assert {name: model.get_submodule(name).drop_prob for name in rates} == rates
    bart = dropping(small("bart", encoder_layerdrop=0.3), p=0.2)
    assert bart.base_model.encoder.layerdrop == 0.3


# -- by layer --------------------------------------------------------------------------------------------


def rates(model: nn.Module) -> dict[str, set[float]]:
    """The probabilities of a BERT by layer."""
    bert = model.bert
    layers = {"embeddings": bert.embeddings, "block.0": bert.encoder.layer[0], "block.1": bert.encoder.layer[1]}
    found = {name: {m.p for m in layer.modules() if isinstance(m, nn.Dropout)} for name, layer in layers.items()}
    return found | {"head": {model.dropout.p}}


def test_some_layers_and_the_others_are_left() -> None:
    model = dropping(tiny.bert(blocks=2), layers={"head": 0.3, "block.0": 0})
    assert rates(model) == {"embeddings": {0.1}, "block.0": {0}, "block.1": {0.1}, "head": {0.3}}


def test_some_layers_and_the_others_at_p() -> None:
    model = dropping(tiny.bert(blocks=2), p=0.2, layers={"head": 0.3})
    assert rates(model) == {"embeddings": {0.2}, "block.0": {0.2}, "block.1": {0.2}, "head": {0.3}}


@pytest.mark.parametrize("name", CONFIGS)
def test_one_block_alone(name: str) -> None:
    model = dropping(at_half(name), p=0, layers={"block.1": 0.5})
    assert drops(model)
    assert not drops(dropping(model, layers={"block.1": 0}))


# -- what it cannot do -----------------------------------------------------------------------------------


def test_values_out_of_range_are_refused() -> None:
    for values in ({"p": -0.1}, {"p": 1.0}, {"layers": {"head": 2}}):
        with pytest.raises(ValidationError):
            Dropout(**values)


def test_all_layers_that_do_not_exist_or_drop_nothing_are_named_before_training() -> None:
    recipe = tiny.recipe(Dropout(layers={"block.7": 0.1, "haed": 0.2}))
    with pytest.raises(InputError) as error:
        recipe.bind(tiny.bert(), tiny.loader())
    assert len(error.value.problems) == 2
    assert "dropout.layers: the model has no layer 'haed' (did you mean 'head'?); it has embeddings," in str(
        error.value
    )
    with pytest.raises(InputError, match=r"head has no dropout of its own; these have: block.0, block.1"):
        dropping(small("llama"), layers={"head": 0.1})


def test_a_model_without_dropout_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no dropout whose probability could be set"):
        dropping(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), p=0.1)


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = tr.BartConfig(dropout=0.2)
        self.dense = nn.Linear(2, 2)

    def forward(self, states: Tensor) -> Tensor:
        return F.dropout(self.dense(states), self.config.dropout, self.training)


def test_what_is_read_from_the_configuration_at_each_step_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), Configured())
    dropping(model, p=0.2)
    assert not caplog.records  # it is what is wanted
    dropping(model, p=0)
    (record,) = caplog.records
    assert "dropout: 2 (Configured) reads dropout from the model's configuration" in record.getMessage()
    assert model[2].config.dropout == 0.2


# -- in training -----------------------------------------------------------------------------------------


def test_it_changes_training_and_without_values_it_is_absent(caplog: pytest.LogCaptureFixture) -> None:
    plain, neutral, other, off = (
        tiny.trained(tiny.recipe(*tricks)) for tricks in ([], [Dropout()], [Dropout(p=0.4)], [Dropout(p=0)])
    )
    assert tiny.equal(neutral[1], plain[1])
    assert not tiny.equal(other[1], plain[1])
    never = tiny.trained(tiny.recipe(), tiny.bert(dropout=0.0))
    assert off[0] == never[0]
    assert tiny.equal(off[1], never[1])
    assert "dropout: sets nothing; give p, or layers" in caplog.text


def test_a_resolved_recipe_is_read_again() -> None:
    trick = Dropout(layers={"head": 0.3})
    assert Dropout(**trick.model_dump()) == trick


def test_the_model_is_saved_as_a_plain_one(tmp_path: Path) -> None:
    assert not Stack([("dropout", Dropout(p=0.3))]).changes_structure
    model = dropping(small("modernbert"), p=0.3)  # where it puts dropouts in the place of identities
    model.save_pretrained(tmp_path)
    again = tr.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.attention_dropout == 0
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), small("modernbert")):
        assert torch.equal(logits(other), logits(model))


# -- beside other tricks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [OutputDropout(p=0.2), TaskLayers(kind="transformer", heads=2), ConcatPooling()])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_its_place_in_the_recipe_changes_nothing(other: Trick, name: str) -> None:
    tricks = [Dropout(p=0.4), other]
    one, two = (tiny.trained(tiny.recipe(*listed, epochs=1), small(name))[1] for listed in (tricks, tricks[::-1]))
    assert tiny.equal(one, two)
