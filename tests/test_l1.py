from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

import tiny
from finetricks import InputError, Session
from finetricks_plugins.regularize.l1 import L1

BIAS = "bert.encoder.layer.0.output.dense.bias"


def bound(**values: object) -> Session:
    return tiny.recipe(L1(**values)).bind(tiny.bert(), tiny.loader())


def test_the_penalty_is_the_sum_of_absolute_values_apart_from_biases_and_norms() -> None:
    session = bound(strength=0.5)
    weights = [p for name, p in session.model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    assert session.penalty().item() == pytest.approx(0.5 * sum(p.abs().sum() for p in weights).item(), rel=1e-6)


def test_only_the_layers_asked_for_and_all_of_them_if_nothing_is_spared() -> None:
    session = bound(strength=0.5, layers=["head"], exempt="none")
    with torch.no_grad():
        for name in session.layers.parameters["head"]:
            session.model.get_parameter(name).zero_()
        session.model.classifier.bias.copy_(torch.tensor([1.0, -2.0, 4.0]))
    penalty = session.penalty()
    assert penalty.item() == pytest.approx(3.5)
    penalty.backward()
    assert session.model.classifier.bias.grad.tolist() == [0.5, -0.5, 0.5]
    assert not session.model.classifier.weight.grad.any()  # 0 at 0
    assert session.model.get_parameter(BIAS).grad is None


def test_frozen_parameters_are_left_out() -> None:
    session = tiny.recipe(tiny.Unfreeze(), L1(layers=["block.0"])).bind(tiny.bert(), tiny.loader())
    session.enter(0)
    assert session.penalty() is None  # only the head trains


def test_it_changes_training_and_weights_shrink() -> None:
    size = lambda model: sum(p.abs().sum().item() for p in model.parameters())  # noqa: E731
    plain, shrunk = (tiny.trained(tiny.recipe(*tricks))[1] for tricks in ([], [L1(strength=0.1)]))
    assert size(shrunk) < size(plain)


def test_a_layer_that_does_not_exist_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"l1.layers: the model has no layer 'block.7'.*it has embeddings, block.0"):
        bound(layers=["head", "block.7"])


@pytest.mark.parametrize("values", [{"strength": -1}, {"strength": float("inf")}, {"layers": []}, {"exempt": "head"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        L1(**values)
