from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import tiny
from finetricks_plugins.loss.mse import MSE

STEP: Any = SimpleNamespace(model=torch.nn.Identity())


def loss_of(logits: Any, labels: Any, model: Any = None, **values: Any) -> float:
    step: Any = SimpleNamespace(model=model) if model is not None else STEP
    return MSE(**values).loss({"logits": torch.tensor(logits)}, {"labels": torch.tensor(labels)}, step).item()


def test_raw_logits_against_the_one_hot_label() -> None:
    # (2 - 1)^2, (1/2)^2, 0 and 1, (3 - 1)^2, 0: their mean over 2 examples and 3 classes
    assert loss_of([[2.0, 0.5, 0.0], [1.0, 3.0, 0.0]], [0, 1]) == pytest.approx((1 + 0.25 + 1 + 4) / 6)


def test_probabilities_against_the_one_hot_label() -> None:
    # p = (1/2, 1/4, 1/4), label 0: 1/4 + 1/16 + 1/16
    logits = [[math.log(2), 0.0, 0.0]]
    assert loss_of(logits, [0], compare="probabilities") == pytest.approx(0.375 / 3)
    # a sigmoid each: p = (3/4, 1/2) against (1, 0)
    several = [[math.log(3), 0.0]]
    assert loss_of(several, [[1.0, 0.0]], compare="probabilities") == pytest.approx((1 / 16 + 1 / 4) / 2)
    assert loss_of([[3.0, 0.5]], [[1.0, 0.0]]) == pytest.approx((4 + 0.25) / 2)


def test_ignored_labels_do_not_count() -> None:
    assert loss_of([[2.0, 0.0], [9.0, 9.0]], [0, -100]) == pytest.approx(1 / 2)


def test_values_are_compared_as_they_are_bit_for_bit_as_the_model_does() -> None:
    assert loss_of([[1.0], [2.0]], [0.5, 4.0]) == pytest.approx((0.25 + 4) / 2)
    assert loss_of([[1.0]], [-100.0]) == pytest.approx(101**2)  # a value, not a class
    torch.manual_seed(0)
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids, labels = torch.randint(1, 50, (5, 8)), torch.randn(5)
    model = BertForSequenceClassification(BertConfig(**small, intermediate_size=16, num_labels=1)).eval()
    outputs = model(input_ids=ids, labels=labels)
    for compare in ("logits", "probabilities"):
        step: Any = SimpleNamespace(model=model)
        assert torch.equal(MSE(compare=compare).loss(outputs, {"labels": labels}, step), outputs.loss)


def test_a_causal_language_model_is_scored_against_the_next_token() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    logits = [[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [7.0, 7.0, 7.0, 7.0]]]
    # the first position is right about the label 1, the second is off by 1 about the label 2, the last has none
    assert loss_of(logits, [[3, 1, 2]], model=model) == pytest.approx(1 / 8)


def test_it_changes_training_and_so_does_what_is_compared() -> None:
    plain, raw, soft = (
        tiny.trained(tiny.recipe(*tricks))[1] for tricks in ([], [MSE()], [MSE(compare="probabilities")])
    )
    assert not tiny.equal(raw, plain)
    assert not tiny.equal(soft, plain)
    assert not tiny.equal(soft, raw)


def test_its_gradient_is_that_of_the_definition() -> None:
    session = tiny.recipe(MSE()).bind(tiny.bert(dropout=0.0), tiny.loader())
    batch = next(session.batches())
    logits = session.model(**batch).logits
    expected = (logits - torch.eye(3)[batch["labels"]]).square().mean()
    assert session.loss(batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_something_else_cannot_be_compared() -> None:
    with pytest.raises(ValidationError, match="'logits' or 'probabilities'"):
        MSE(compare="ranks")
