from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

import tiny
from finetricks import InputError, RecipeError, TrickConflict
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.feature_based import FeatureBased
from finetricks_plugins.build.layer_pooling import ChosenLayers, LayerPooling, chosen, combined


def test_layers_are_numbered_from_the_bottom_or_from_the_top() -> None:
    assert chosen(0, 12) == [0]
    assert chosen(-1, 12) == chosen(11, 12) == [11]
    assert chosen("first_4", 12) == [0, 1, 2, 3]
    assert chosen("last_4", 12) == [8, 9, 10, 11]
    assert chosen("all", 3) == [0, 1, 2]


@pytest.mark.parametrize("layer", [12, -13])
def test_a_layer_that_does_not_exist_is_an_error(layer: int) -> None:
    with pytest.raises(InputError, match=f"no layer {layer}; the encoder's 12 layers are 0 to 11 .*-1 to -12 from"):
        chosen(layer, 12)


def test_too_few_layers_are_an_error_before_training() -> None:
    with pytest.raises(InputError, match="last_4 needs 4 layers, and the encoder has 3"):
        tiny.recipe(LayerPooling(layers="last_4")).bind(tiny.bert(blocks=3), tiny.loader())


def test_combinations_by_hand() -> None:
    low, high = torch.tensor([[[1.0, 6.0]]]), torch.tensor([[[3.0, 2.0]]])
    assert torch.equal(combined([low, high], "concat"), torch.tensor([[[1.0, 6.0, 3.0, 2.0]]]))
    assert torch.equal(combined([low, high], "mean"), torch.tensor([[[2.0, 4.0]]]))
    assert torch.equal(combined([low, high], "max"), torch.tensor([[[3.0, 6.0]]]))


def test_layers_come_before_tokens() -> None:
    """Two layers of two tokens of one dimension: the mean over tokens of the layers' maxima."""
    states = (torch.zeros(1, 2, 1), torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[3.0], [0.0]]]))
    reading = ChosenLayers((1, 1, 1), layers="all", combine="max")
    read = reading(states, torch.ones(1, 2).bool())
    assert read.mean(dim=1).item() == 3.5  # (max(1, 3) + max(4, 0)) / 2; the max of the means is 2.5


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_the_head_reads_the_raw_state_of_a_layer(layer: int) -> None:
    model = tiny.recipe(LayerPooling(layers=layer)).bind(tiny.bert(), tiny.loader()).model.eval()
    ids = tiny.rows()[0]["input_ids"][None]
    states = model.encoder(ids, output_hidden_states=True).hidden_states
    assert torch.allclose(model(ids).logits, model.output(states[1:][layer][:, 0]), atol=1e-6)


def test_by_token_mean() -> None:
    model = tiny.recipe(LayerPooling(layers=-1, tokens="mean")).bind(tiny.bert(), tiny.loader()).model.eval()
    ids = tiny.rows()[0]["input_ids"][None]
    states = model.encoder(ids).last_hidden_state
    assert torch.allclose(model(ids).logits, model.output(states.mean(dim=1)), atol=1e-6)


def test_widths() -> None:
    assert ChosenLayers((8, 8, 8), layers="all", combine="concat").width == 16
    assert ChosenLayers((8, 8, 8), layers="all", combine="mean").width == 8
    # An LSTM whose layers differ: embeddings 4, layers 6, 6 and 4.
    assert ChosenLayers((4, 6, 6, 4), layers="all", combine="concat").width == 16
    assert ChosenLayers((4, 6, 6, 4), layers=1, combine="max").width == 6
    with pytest.raises(InputError, match="a mean over layers .* have 6, 6, 4 dimensions; `combine: concat` takes any"):
        ChosenLayers((4, 6, 6, 4), layers="all", combine="mean")


@pytest.mark.parametrize("combine", ["concat", "mean", "max"])
@pytest.mark.parametrize("layers", ["first_4", "last_4", "all", 2])
def test_it_changes_the_result(layers: int | str, combine: str) -> None:
    trick = LayerPooling(layers=layers, combine=combine)
    plain, model = (tiny.trained(tiny.recipe(*tricks, epochs=1), tiny.bert(blocks=4)) for tricks in ((), (trick,)))
    assert model[0] != plain[0]


def test_it_stands_beside_another_pooling_of_tokens_but_not_with_its_own() -> None:
    _, model = tiny.trained(tiny.recipe(ConcatPooling(), LayerPooling(layers="all"), epochs=1))
    assert model.reading.places == [1, 2, 3]
    assert model.pooling.width == 48
    with pytest.raises(TrickConflict, match="concat_pooling and layer_pooling both say what the pooling is"):
        tiny.recipe(ConcatPooling(), LayerPooling(layers="all", tokens="mean")).bind(tiny.bert(), tiny.loader())


def test_it_excludes_the_mix_of_all_layers() -> None:
    with pytest.raises(RecipeError, match="both say which layers are read"):
        tiny.recipe(LayerPooling(), FeatureBased())


def test_other_values_are_refused() -> None:
    for values in ({"layers": "top"}, {"combine": "sum"}, {"tokens": "max"}):
        with pytest.raises(ValidationError):
            LayerPooling(**values)
