from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

import tiny
from finetricks import InputError
from finetricks_plugins.loss.cross_entropy import CrossEntropy
from finetricks_plugins.loss.label_smoothing import LabelSmoothing

STEP: Any = SimpleNamespace(model=torch.nn.Identity())
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IDS = torch.randint(1, 50, (4, 8), generator=torch.Generator().manual_seed(0))


def loss_of(logits: torch.Tensor, labels: torch.Tensor, **values: Any) -> float:
    return CrossEntropy(**values).loss({"logits": logits}, {"labels": labels}, STEP).item()


def test_numbers_by_hand() -> None:
    # p = (1/2, 1/4, 1/4): -ln 1/2 for the label 0, -ln 1/4 for the label 1
    logits = torch.tensor([[math.log(2), 0.0, 0.0]] * 2)
    labels = torch.tensor([0, 1])
    assert loss_of(logits, labels) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)
    weighted = (1 * math.log(2) + 3 * math.log(4)) / (1 + 3)
    assert loss_of(logits, labels, class_weights=[1, 3, 5]) == pytest.approx(weighted, rel=1e-6)
    ignored = torch.tensor([0, -100])
    assert loss_of(logits, ignored) == pytest.approx(math.log(2), rel=1e-6)


def test_several_labels_by_hand() -> None:
    # logit ln 3 is p = 3/4: -ln 3/4 where it is there, -ln 1/4 where it is not
    logits, labels = torch.tensor([[math.log(3), math.log(3)]]), torch.tensor([[1.0, 0.0]])
    assert loss_of(logits, labels) == pytest.approx((-math.log(0.75) - math.log(0.25)) / 2, rel=1e-6)
    weighted = (-2 * math.log(0.75) - 6 * math.log(0.25)) / 2
    assert loss_of(logits, labels, class_weights=[2, 6]) == pytest.approx(weighted, rel=1e-6)


def models() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    several = BertConfig(**SMALL, num_labels=3, problem_type="multi_label_classification")
    one = BertConfig(**SMALL, num_labels=1, problem_type="multi_label_classification")
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    tokens = torch.tensor([[0, 1, 2, -100, -100, 1, 0, 2]] * 4)
    return {
        "classes": (BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)), torch.tensor([0, 1, 2, 2])),
        "several labels": (BertForSequenceClassification(several), torch.eye(4)[:, :3]),
        "one of several labels": (BertForSequenceClassification(one), torch.tensor([[1.0], [0.0], [0.0], [1.0]])),
        "tokens": (BertForTokenClassification(BertConfig(**SMALL, num_labels=3)), tokens),
        "masked": (BertForMaskedLM(BertConfig(**SMALL)), IDS),
        "causal": (gpt, IDS.masked_fill(torch.arange(8) < 3, -100)),
    }


@pytest.mark.parametrize("kind", list(models()))
def test_it_is_the_models_own_loss_bit_for_bit(kind: str) -> None:
    model, labels = models()[kind]
    outputs = model.eval()(input_ids=IDS, labels=labels)
    step: Any = SimpleNamespace(model=model)
    assert torch.equal(CrossEntropy().loss(outputs, {"labels": labels}, step), outputs.loss)


def test_training_with_it_is_training_without_and_weights_change_it() -> None:
    plain = tiny.trained(tiny.recipe())
    assert tiny.equal(tiny.trained(tiny.recipe(CrossEntropy()))[1], plain[1])
    assert not tiny.equal(tiny.trained(tiny.recipe(CrossEntropy(class_weights=[1, 2, 4])))[1], plain[1])


@pytest.mark.parametrize("kind", [CrossEntropy, LabelSmoothing])
def test_before_training_it_says_what_it_cannot_score(kind: type) -> None:
    with pytest.raises(InputError, match="class_weights has 2 weights for 3 classes"):
        tiny.recipe(kind(class_weights=[1, 2])).bind(tiny.bert(), tiny.loader())
    values = BertForSequenceClassification(BertConfig(**SMALL, num_labels=1, problem_type="regression"))
    with pytest.raises(InputError, match="needs classes; these labels are values of a regression"):
        tiny.recipe(kind()).bind(values, tiny.loader())


def test_what_only_the_batch_shows_is_said_with_the_first_one() -> None:
    with pytest.raises(InputError, match="values of a regression"):
        loss_of(torch.zeros(2, 1), torch.tensor([0.5, 1.5]))
    with pytest.raises(InputError, match="cross_entropy compares the model's `logits` with the batch's `labels`"):
        CrossEntropy().loss({"start_logits": torch.zeros(2)}, {"labels": torch.zeros(2)}, STEP)
    with pytest.raises(InputError, match="batch: input_ids"):
        CrossEntropy().loss({"logits": torch.zeros(2, 3)}, {"input_ids": IDS}, STEP)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan]])
def test_a_weight_is_above_zero(weights: list[float]) -> None:
    with pytest.raises(ValidationError):
        CrossEntropy(class_weights=weights)
