from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    default_data_collator,
)

import tiny
from finetricks import InputError
from finetricks_plugins.loss.label_smoothing import LabelSmoothing, smooth_binary_cross_entropy, smooth_cross_entropy

STEP = SimpleNamespace(model=torch.nn.Identity())


def test_numbers_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), label 0, s = 0.3: 0.7 ln 2 + 0.1 (ln 2 + ln 4 + ln 4)
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])
    expected = 0.7 * math.log(2) + 0.1 * (math.log(2) + 2 * math.log(4))
    assert smooth_cross_entropy(logits, torch.tensor([0]), 0.3).item() == pytest.approx(expected, rel=1e-6)


def test_several_labels_move_toward_one_half() -> None:
    # logit 0: p = 1/2 whatever the target: ln 2; logit ln 3 (p = 3/4), target 1 -> 0.9: -0.9 ln(3/4) - 0.1 ln(1/4)
    logits, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 1.0]])
    expected = (math.log(2) - 0.9 * math.log(0.75) - 0.1 * math.log(0.25)) / 2
    assert smooth_binary_cross_entropy(logits, labels, 0.2).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_the_definition_also_with_class_weights_and_ignored_labels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, -100])
    weights = [1.0, 2.0, 0.5]
    outputs, batch = {"logits": logits, "loss": torch.tensor(9.0)}, {"labels": labels}
    loss = LabelSmoothing(smoothing=0.2, class_weights=weights).loss(outputs, batch, STEP)
    w, kept = torch.tensor(weights), labels != -100
    log_p = logits.log_softmax(-1)[kept]
    label_term = -(w[labels[kept]] * log_p.gather(1, labels[kept, None])[:, 0])
    uniform = -(w * log_p).sum(1) / 3
    expected = (0.8 * label_term + 0.2 * uniform).sum() / w[labels[kept]].sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_smoothing_it_is_the_models_own_loss() -> None:
    own = torch.tensor(1.5)
    assert LabelSmoothing(smoothing=0).loss({"logits": torch.zeros(1, 2), "loss": own}, {"labels": None}, STEP) is own


def test_values_of_a_regression_are_refused() -> None:
    outputs = {"logits": torch.zeros(2, 1), "loss": torch.tensor(1.0)}
    with pytest.raises(InputError, match="values of a regression"):
        LabelSmoothing().loss(outputs, {"labels": torch.tensor([0.5, 1.5])}, STEP)
    with pytest.raises(InputError, match="values of a regression"):  # whole numbers are values too
        LabelSmoothing().loss(outputs, {"labels": torch.tensor([0, 0])}, STEP)
    several = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(problem_type="regression")))
    with pytest.raises(InputError, match="values of a regression"):
        LabelSmoothing().loss({"logits": torch.zeros(2, 3)}, {"labels": torch.zeros(2, 3)}, several)


def test_class_weights_must_fit_the_classes() -> None:
    outputs = {"logits": torch.zeros(2, 3), "loss": None}
    with pytest.raises(InputError, match="2 weights for 3 classes"):
        LabelSmoothing(class_weights=[1, 2]).loss(outputs, {"labels": torch.tensor([0, 1])}, STEP)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_a_causal_language_model_is_scored_against_the_next_token(smoothing: float) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    ids = torch.randint(1, 50, (2, 8))
    labels = ids.masked_fill(torch.arange(8) < 3, -100)  # a prompt
    outputs = model(input_ids=ids, labels=labels)
    step = SimpleNamespace(model=model)
    uniform = -outputs.logits[:, 2:-1].log_softmax(-1).mean()
    expected = (1 - smoothing) * outputs.loss + smoothing * uniform
    loss = LabelSmoothing(smoothing=smoothing).loss(outputs, {"labels": labels}, step)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_masked_language_model_is_scored_where_the_label_stands() -> None:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertForMaskedLM(config).eval()
    ids = torch.randint(1, 50, (2, 8))
    outputs = model(input_ids=ids, labels=ids)
    loss = LabelSmoothing(smoothing=1e-6).loss(outputs, {"labels": ids}, SimpleNamespace(model=model))
    assert loss.item() == pytest.approx(outputs.loss.item(), rel=1e-5)


def test_it_owns_the_loss_of_a_session() -> None:
    session = tiny.recipe(LabelSmoothing(smoothing=0.3)).bind(tiny.bert(dropout=0.0), tiny.loader())
    batch = next(session.batches())
    logits = session.model(**batch).logits
    assert session.loss(batch).item() == pytest.approx(
        F.cross_entropy(logits, batch["labels"], label_smoothing=0.3).item(), rel=1e-6
    )


@pytest.mark.parametrize("labels", [1, 3])
def test_several_labels_are_smoothed_in_a_session_with_class_weights(labels: int) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=labels,
        problem_type="multi_label_classification",
    )
    weights = [1.0, 2.0, 0.5][:labels]
    rows = [{**row, "labels": [float(row["labels"] == label) for label in range(labels)]} for row in tiny.rows()]
    loader = DataLoader(rows, batch_size=4, collate_fn=default_data_collator)
    trick = LabelSmoothing(smoothing=0.2, class_weights=weights)
    session = tiny.recipe(trick).bind(BertForSequenceClassification(config), loader)
    batch = next(session.batches())
    p = session.model(**batch).logits.sigmoid()
    target = batch["labels"] * 0.8 + 0.1
    expected = -(torch.tensor(weights) * (target * p.log() + (1 - target) * (1 - p).log())).mean()
    assert session.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
