"""The LSTM models: what they compute, what each direction has seen, and what is dropped."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny
from finetricks import Recipe, find_layers
from finetricks.lstm import LSTMConfig, LSTMForCausalLM, LSTMForSequenceClassification, LSTMModel
from finetricks.lstm.dropouts import LockedDropout, WeightDropLSTM, WordEmbedding

DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_drop")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])


def config(bidirectional: bool = False, **more: Any) -> LSTMConfig:
    sizes = {"vocab_size": 50, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 3, "num_labels": 3}
    return LSTMConfig(bidirectional=bidirectional, **(sizes | dict.fromkeys(DROPOUTS, 0.0) | more))


def model_of(kind: Any = LSTMModel, *arguments: Any, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    return kind(config(*arguments, **more))


def test_the_defaults_are_those_of_ulmfit() -> None:
    given = LSTMConfig()  # Howard & Ruder 2018, section 4.1
    assert (given.embedding_size, given.hidden_size, given.num_hidden_layers) == (400, 1150, 3)
    assert [getattr(given, name) for name in DROPOUTS] == [0.05, 0.4, 0.3, 0.4, 0.5]
    assert given.layer_widths == (400, 1150, 1150, 400)  # the last as wide as the embeddings that it is tied to
    assert LSTMConfig(bidirectional=True, tie_word_embeddings=False).layer_widths == (400, 2300, 2300, 2300)


def test_without_dropout_it_is_a_plain_stack_of_lstms() -> None:
    model = model_of().eval()
    plain = [nn.LSTM(6, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True), nn.LSTM(8, 6, batch_first=True)]
    states = [model.embeddings.weight[IDS]]
    for lstm, layer in zip(plain, model.layers, strict=True):
        lstm.load_state_dict(layer.forwards.state_dict())
        states.append(lstm(states[-1])[0])
    given = model(IDS, output_hidden_states=True)
    assert all(torch.equal(one, other) for one, other in zip(given.hidden_states, states, strict=True))
    assert torch.equal(given.last_hidden_state, states[-1])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_do_not_depend_on_padding_on_either_side(bidirectional: bool) -> None:
    model = model_of(LSTMModel, bidirectional).eval()
    alone = model(IDS[:1, :4], output_hidden_states=True).hidden_states
    right = torch.tensor([[5, 6, 7, 8, 0, 0], [11, 12, 13, 14, 15, 16]])
    left = torch.tensor([[0, 0, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16]])
    for ids, real in ((right, slice(0, 4)), (left, slice(2, 6))):
        states = model(ids, (ids != 0).long(), output_hidden_states=True).hidden_states
        for one, other in zip(states, alone, strict=True):
            torch.testing.assert_close(one[0, real], other[0])
            assert not one[0][ids[0] == 0].any()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_do_not_depend_on_padding_between_tokens(bidirectional: bool) -> None:
    model = model_of(LSTMModel, bidirectional).eval()
    ids = torch.tensor([[5, 6, 40, 7, 8], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    states = model(ids, mask).last_hidden_state
    torch.testing.assert_close(states[0, [0, 1, 3, 4]], model(IDS[:1, :4]).last_hidden_state[0])
    assert not states[0, 2].any()
    assert not states[1].any()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_loss_does_not_depend_on_padding_on_either_side(bidirectional: bool) -> None:
    model = model_of(LSTMForCausalLM, bidirectional, initializer_range=2.0).eval()
    alone = model(IDS[:1, :4], labels=IDS[:1, :4]).loss
    for padding in ((0, 2), (2, 0)):
        ids = F.pad(IDS[:1, :4], padding)
        mask = (ids != 0).long()
        given = model(ids, mask, labels=ids.masked_fill(mask == 0, -100))
        torch.testing.assert_close(given.loss, alone)


@pytest.mark.parametrize("kind", [LSTMModel, LSTMForCausalLM])
def test_neither_direction_sees_what_the_other_has(kind: Any) -> None:
    model = model_of(kind, True).eval()
    before = model(IDS, output_hidden_states=True).hidden_states
    changed = IDS.clone()
    changed[0, 3] = 40
    after = model(changed, output_hidden_states=True).hidden_states
    for one, other in zip(before[1:], after[1:], strict=True):
        (forwards, backwards), (forwards_after, backwards_after) = one[0].chunk(2, -1), other[0].chunk(2, -1)
        assert torch.equal(forwards[:3], forwards_after[:3])
        assert not torch.equal(forwards[3:], forwards_after[3:])
        assert torch.equal(backwards[4:], backwards_after[4:])
        assert not torch.equal(backwards[:4], backwards_after[:4])


def test_the_loss_is_the_cross_entropy_of_the_next_word() -> None:
    model = model_of(LSTMForCausalLM).eval()
    labels = IDS.clone()
    labels[1, 4:] = -100
    outputs = model(IDS, labels=labels)
    scores = outputs.logits.log_softmax(-1)
    terms = [-scores[0, t, IDS[0, t + 1]] for t in range(5)] + [-scores[1, t, IDS[1, t + 1]] for t in range(3)]
    assert outputs.loss.item() == pytest.approx(sum(terms).item() / 8, rel=1e-6)


def test_in_two_directions_it_is_the_mean_with_that_of_the_word_before() -> None:
    model = model_of(LSTMForCausalLM, True).eval()
    states = model.lstm(IDS).last_hidden_state
    forwards, backwards = (model.decoder(half).log_softmax(-1) for half in states.chunk(2, -1))
    after = torch.stack([-forwards[r, t, IDS[r, t + 1]] for r in range(2) for t in range(5)]).mean()
    before = torch.stack([-backwards[r, t, IDS[r, t - 1]] for r in range(2) for t in range(1, 6)]).mean()
    assert model(IDS, labels=IDS).loss.item() == pytest.approx(((after + before) / 2).item(), rel=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_decoder_is_tied_to_the_embeddings(bidirectional: bool, tmp_path: Path) -> None:
    model = model_of(LSTMForCausalLM, bidirectional)
    assert model.decoder.weight is model.lstm.embeddings.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.decoder.weight is again.lstm.embeddings.weight
    again.resize_token_embeddings(53, mean_resizing=False)
    assert again.decoder.weight is again.lstm.embeddings.weight
    assert (again.decoder.weight.shape, again.decoder.bias.shape) == ((53, 6), (53,))
    assert model_of(LSTMForCausalLM, tie_word_embeddings=False).decoder.weight.shape == (50, 8)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        (LSTMModel, AutoModel),
        (LSTMForCausalLM, AutoModelForCausalLM),
        (LSTMForSequenceClassification, AutoModelForSequenceClassification),
    ],
)
def test_it_is_saved_and_loaded_as_any_transformers_model(
    kind: Any, auto: Any, bidirectional: bool, tmp_path: Path
) -> None:
    model = model_of(kind, bidirectional).eval()
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path)
    assert type(again) is kind
    assert AutoConfig.from_pretrained(tmp_path).layer_widths == model.config.layer_widths
    for copied in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(IDS)[0], model(IDS)[0])


def test_the_padding_row_is_zero_and_the_others_lie_in_the_range() -> None:
    weight = model_of(initializer_range=0.1).embeddings.weight
    assert not weight[0].any()
    assert 0.09 < weight.abs().max() <= 0.1


def test_weight_drop_takes_recurrent_weights_and_the_raw_one_learns() -> None:
    torch.manual_seed(0)
    lstm = WeightDropLSTM(3, 4, weight_drop=0.5)
    raw = {name: value.clone() for name, value in lstm.named_parameters()}
    inputs = torch.randn(1, 5, 3)
    torch.manual_seed(1)
    states, _ = lstm(inputs)
    torch.manual_seed(1)
    dropped = F.dropout(lstm.weight_hh_l0, 0.5)  # the same draw, by hand
    plain = nn.LSTM(3, 4, batch_first=True)
    plain.load_state_dict(raw | {"weight_hh_l0": dropped})
    torch.testing.assert_close(states, plain(inputs)[0])
    states.sum().backward()
    gone = dropped == 0
    assert 0.2 < gone.float().mean() < 0.8
    assert not lstm.weight_hh_l0.grad[gone].any()
    assert lstm.weight_hh_l0.grad[~gone].any()
    assert all(torch.equal(value, raw[name]) for name, value in lstm.named_parameters())
    plain.load_state_dict(raw)
    assert torch.equal(lstm.eval()(inputs)[0], plain(inputs)[0])


def test_locked_dropout_has_one_mask_for_all_tokens_of_a_text() -> None:
    dropped = LockedDropout(0.5).train()(torch.ones(3, 7, 40))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert not torch.equal(dropped[0], dropped[1])


def test_embedding_dropout_takes_a_word_wherever_it_stands() -> None:
    embedding = WordEmbedding(30, 4)
    embedding.dropout = 0.5
    ids = torch.arange(30).repeat(2, 1)
    embedded = embedding.train()(ids)
    assert torch.equal(embedded[0], embedded[1])
    gone = (embedded[0] == 0).all(-1)
    assert 5 < gone.sum() < 25
    torch.testing.assert_close(embedded[0][~gone], 2 * embedding.weight[~gone])
    assert torch.equal(embedding.eval()(ids[0]), embedding.weight)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [LSTMForCausalLM, LSTMForSequenceClassification])
def test_its_layers_are_found(kind: Any, bidirectional: bool) -> None:
    model = model_of(kind, bidirectional)
    labels = IDS if kind is LSTMForCausalLM else torch.tensor([0, 1])
    for layers in (find_layers(model, {"input_ids": IDS, "labels": labels}), find_layers(model)):
        assert layers.names == ("embeddings", "block.0", "block.1", "block.2", "head")
        assert layers.parameters["embeddings"] == ("lstm.embeddings.weight",)
        assert all(name.startswith("lstm.layers.1.") for name in layers.parameters["block.1"])


def test_a_language_model_learns_what_repeats() -> None:
    model = model_of(LSTMForCausalLM, True, hidden_size=32, embedding_size=32, num_hidden_layers=2)
    text = torch.tensor([[5, 6, 7, 8, 9] * 4])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    first = model(text, labels=text).loss.item()
    assert first == pytest.approx(math.log(50), abs=0.2)  # it knows nothing of 50 words
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(text, labels=text).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        ("single_label_classification", torch.tensor([0, 2]), F.cross_entropy),
        ("multi_label_classification", torch.tensor([[0.0, 1, 1], [1, 0, 0]]), F.binary_cross_entropy_with_logits),
    ],
)
def test_the_classifier_has_the_losses_of_transformers(problem: str, labels: Tensor, expected: Any) -> None:
    model = model_of(LSTMForSequenceClassification, problem_type=problem).eval()
    outputs = model(IDS, labels=labels)
    assert outputs.loss.item() == pytest.approx(expected(outputs.logits, labels).item(), rel=1e-6)


def test_the_classifier_reads_the_states_that_have_read_the_whole_text() -> None:
    model = model_of(LSTMForSequenceClassification, True).eval()
    ids = torch.tensor([[0, 5, 6, 7], [8, 9, 10, 11]])
    forwards, backwards = model.lstm(ids, (ids != 0).long()).last_hidden_state.chunk(2, -1)
    whole = torch.stack([torch.cat([forwards[0, 3], backwards[0, 1]]), torch.cat([forwards[1, 3], backwards[1, 0]])])
    torch.testing.assert_close(model(ids, (ids != 0).long()).logits, model.classifier(whole))


def awd() -> Any:
    return model_of(LSTMForSequenceClassification, True, **dict.fromkeys(DROPOUTS, 0.3))


def test_training_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    def bound(init: bool = True) -> Any:
        recipe = Recipe(tricks=["gradual_unfreezing"], training={"epochs": 2, "batch_size": 4, "learning_rate": 1e-2})
        return recipe.bind(awd(), tiny.loader(), init=init)

    whole, first, second = bound(), bound(), bound(init=False)
    tiny.train(whole)
    tiny.train(first, steps=5)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert tiny.equal(second.model, whole.model)
    assert not tiny.equal(whole.model, awd())
