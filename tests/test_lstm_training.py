"""The LSTM models in training: exchanged and wrapped weights, what a frozen layer drops, the Trainer."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from finetricks import InputError, find_layers
from finetricks.lstm import LSTMConfig, LSTMForCausalLM, LSTMForSequenceClassification, LSTMModel, create_lstm
from finetricks.lstm.dropouts import WeightDropLSTM

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_drop")
LAYERS = ("embeddings", "block.0", "block.1", "block.2", "head")


def model_of(kind: Any, **more: Any) -> Any:
    sizes = {"vocab_size": 50, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 3, "num_labels": 3}
    torch.manual_seed(0)
    return kind(LSTMConfig(**(sizes | dict.fromkeys(DROPOUTS, 0.0) | more)))


def lstm_and_inputs() -> tuple[WeightDropLSTM, Tensor]:
    torch.manual_seed(0)
    return WeightDropLSTM(3, 4, weight_drop=0.5), torch.randn(2, 5, 3)


# -- weight drop ---------------------------------------------------------------------------------------------


def test_all_tokens_of_all_rows_meet_the_same_dropped_weights() -> None:
    lstm, inputs = lstm_and_inputs()
    rows = inputs[:1].expand(2, -1, -1)
    states, (hidden, _) = lstm(rows)
    assert torch.equal(states[0], states[1])
    assert torch.equal(hidden[0], states[:, -1])
    assert not torch.equal(lstm(rows)[0], states)  # another pass, another draw


def test_the_first_token_has_no_past_that_could_be_dropped() -> None:
    lstm, inputs = lstm_and_inputs()
    dropped, whole = lstm(inputs)[0], copy.deepcopy(lstm).eval()(inputs)[0]
    torch.testing.assert_close(dropped[:, 0], whole[:, 0])
    assert not torch.allclose(dropped[:, 1:], whole[:, 1:])


def test_exchanged_weights_are_dropped_too_and_the_own_ones_after_them() -> None:
    lstm, inputs = lstm_and_inputs()
    others = {name: torch.randn_like(value) for name, value in lstm.named_parameters()}

    def drawn(forward: Any) -> Tensor:
        torch.manual_seed(1)
        return forward()[0]

    given = drawn(lambda: torch.func.functional_call(lstm, others, inputs))
    own = drawn(lambda: lstm(inputs))
    expected = copy.deepcopy(lstm)
    assert torch.equal(own, drawn(lambda: expected(inputs)))
    expected.load_state_dict(others)
    assert torch.equal(given, drawn(lambda: expected(inputs)))
    assert not torch.allclose(given, expected.eval()(inputs)[0])


def test_two_passes_of_one_step_add_up_to_the_gradient_of_each() -> None:
    lstm, inputs = lstm_and_inputs()

    def gradient(*seeds: int) -> Tensor:
        lstm.zero_grad()
        passes = []
        for seed in seeds:
            torch.manual_seed(seed)
            passes.append(lstm(inputs)[0].sum())
        torch.stack(passes).sum().backward()
        return lstm.weight_hh_l0.grad.clone()

    torch.testing.assert_close(gradient(1, 2), gradient(1) + gradient(2))


def test_under_ddp_the_raw_weights_get_the_same_gradients(tmp_path: Path) -> None:
    drops = dict.fromkeys(DROPOUTS, 0.3)
    alone = model_of(LSTMForSequenceClassification, bidirectional=True, **drops)
    wrapped = copy.deepcopy(alone)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for model in (alone, DistributedDataParallel(wrapped)):
            for _ in range(2):
                torch.manual_seed(1)
                model(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    gradients = [[parameter.grad for parameter in model.parameters()] for model in (alone, wrapped)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# -- dropouts and layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_each_layer_drops_what_it_reads(traced: bool) -> None:
    model = model_of(LSTMForSequenceClassification, input_dropout=0.4, hidden_dropout=0.3)
    assert [layer.dropout.p for layer in model.lstm.layers] == [0.4, 0.3, 0.3]
    layers = find_layers(model, {"input_ids": IDS} if traced else None)
    for number in range(3):
        assert layers.modules[f"lstm.layers.{number}.dropout"] == {f"block.{number}"}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_frozen_layers_drop_nothing_while_those_above_do(bidirectional: bool) -> None:
    model = model_of(LSTMModel, bidirectional=bidirectional, **dict.fromkeys(DROPOUTS, 0.5)).train()
    whole = copy.deepcopy(model).eval()(IDS, output_hidden_states=True).hidden_states
    for frozen in (model.embeddings, *model.layers[:2]):
        frozen.eval()
    states = model(IDS, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(states[:3], whole[:3], strict=True))
    assert not torch.allclose(states[3], whole[3])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [LSTMModel, LSTMForCausalLM, LSTMForSequenceClassification])
def test_few_layers_are_found_too(kind: Any, layers: int) -> None:
    model = model_of(kind, num_hidden_layers=layers)
    expected = ("embeddings", *LAYERS[1 : layers + 1], *(() if kind is LSTMModel else ("head",)))
    assert find_layers(model, {"input_ids": IDS}).names == expected


@pytest.mark.parametrize("kind", [LSTMForCausalLM, LSTMForSequenceClassification])
def test_the_same_seed_drops_the_same_in_the_whole_model(kind: Any) -> None:
    model = model_of(kind, bidirectional=True, **dict.fromkeys(DROPOUTS, 0.5)).train()

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(IDS).logits

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


# -- as transformers' models ---------------------------------------------------------------------------------


def test_logits_of_a_classifier_do_not_depend_on_padding() -> None:
    model = model_of(LSTMForSequenceClassification, bidirectional=True).eval()
    alone = model(torch.tensor([[5, 6, 7]])).logits
    for ids in ([[5, 6, 7, 0, 0]], [[0, 0, 5, 6, 7]]):
        padded = torch.tensor(ids)
        torch.testing.assert_close(model(padded, (padded != 0).long()).logits, alone)


def test_the_classifier_learns_values_too() -> None:
    model = model_of(LSTMForSequenceClassification, num_labels=1).eval()
    outputs = model(IDS, labels=torch.tensor([0.5, -1.0]))
    expected = ((outputs.logits[:, 0] - torch.tensor([0.5, -1.0])) ** 2).mean()
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("kind", [LSTMModel, LSTMForCausalLM, LSTMForSequenceClassification])
def test_the_configuration_says_what_is_given_unless_the_call_does(kind: Any) -> None:
    model = model_of(kind, output_hidden_states=True).eval()
    assert len(model(IDS).hidden_states) == 4
    assert model(IDS, output_hidden_states=False).hidden_states is None
    assert isinstance(model(IDS, return_dict=False), tuple)
    torch.testing.assert_close(model(IDS, return_dict=False)[0], model(IDS)[0])


def test_the_trainer_averages_the_losses_that_it_accumulates(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    data = [{"input_ids": IDS[row % 2], "labels": row % 3} for row in range(4)]

    def gradient(batch_size: int, accumulated: int) -> Tensor:
        model = model_of(LSTMForSequenceClassification)
        gradients = []
        model.classifier.weight.register_post_accumulate_grad_hook(lambda weight: gradients.append(weight.grad.clone()))
        args = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            max_grad_norm=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, args, train_dataset=data).train()
        return gradients[-1]

    torch.testing.assert_close(gradient(2, 2), gradient(4, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; an LSTM needs at least 1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"weight_drop": 1.5}, "weight_drop is 1.5; a probability lies between 0 and 1"),
        ({"embedding_dropout": -0.1}, "embedding_dropout is -0.1"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 0}, "num_hidden_layers is 0; an LSTM needs at least 1"),
        ({"embedding_size": 0}, "embedding_size is 0"),
        ({"vocabulary": 5}, "vocabulary is 5, and 5 are special tokens; ask for more"),
    ],
)
def test_a_new_one_of_such_a_size_is_refused(given: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        create_lstm(tmp_path / "new", ["a wing"], **given)
    assert not (tmp_path / "new").exists()


def test_an_embedding_and_a_decoder_can_be_put_in_place_of_the_old() -> None:
    model = model_of(LSTMForCausalLM)
    model.set_input_embeddings(nn.Embedding(50, 6, padding_idx=0))
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.lstm.get_input_embeddings() is model.get_input_embeddings()
