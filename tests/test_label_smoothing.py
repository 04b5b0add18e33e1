from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from finetricks import InputError
from finetricks_plugins.loss.label_smoothing import LabelSmoothing, smooth_binary_cross_entropy, smooth_cross_entropy


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
    loss = LabelSmoothing(smoothing=0.2, class_weights=weights).loss(outputs, batch)
    w, kept = torch.tensor(weights), labels != -100
    log_p = logits.log_softmax(-1)[kept]
    label_term = -(w[labels[kept]] * log_p.gather(1, labels[kept, None])[:, 0])
    uniform = -(w * log_p).sum(1) / 3
    expected = (0.8 * label_term + 0.2 * uniform).sum() / w[labels[kept]].sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_smoothing_it_is_the_models_own_loss() -> None:
    own = torch.tensor(1.5)
    assert LabelSmoothing(smoothing=0).loss({"logits": torch.zeros(1, 2), "loss": own}, {"labels": None}) is own


def test_values_of_a_regression_are_refused() -> None:
    outputs = {"logits": torch.zeros(2, 1), "loss": torch.tensor(1.0)}
    with pytest.raises(InputError, match="values of a regression"):
        LabelSmoothing().loss(outputs, {"labels": torch.tensor([0.5, 1.5])})


def test_class_weights_must_fit_the_classes() -> None:
    outputs = {"logits": torch.zeros(2, 3), "loss": None}
    with pytest.raises(InputError, match="2 weights for 3 classes"):
        LabelSmoothing(class_weights=[1, 2]).loss(outputs, {"labels": torch.tensor([0, 1])})
    assert F.cross_entropy(torch.zeros(1, 3), torch.tensor([0])).item() == pytest.approx(math.log(3))
