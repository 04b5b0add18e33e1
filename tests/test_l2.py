from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

import tiny
from finetricks import InputError, Session
from finetricks_plugins.param_groups.weight_decay import WeightDecay
from finetricks_plugins.regularize.l2 import L2

BIAS = "bert.encoder.layer.0.output.dense.bias"


def bound(**values: object) -> Session:
    return tiny.recipe(L2(**values)).bind(tiny.bert(), tiny.loader())


def test_the_penalty_is_half_the_sum_of_squares_apart_from_biases_and_norms() -> None:
    session = bound(strength=0.5)
    weights = [p for name, p in session.model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    assert session.penalty().item() == pytest.approx(0.25 * sum(p.square().sum() for p in weights).item(), rel=1e-5)


def test_only_the_layers_asked_for_and_all_of_them_if_nothing_is_spared() -> None:
    session = bound(strength=0.5, layers=["head"], exempt="none")
    with torch.no_grad():
        for name in session.layers.parameters["head"]:
            session.model.get_parameter(name).zero_()
        session.model.classifier.bias.copy_(torch.tensor([1.0, -2.0, 4.0]))
    penalty = session.penalty()
    assert penalty.item() == pytest.approx(0.25 * (1 + 4 + 16))
    penalty.backward()
    assert session.model.classifier.bias.grad.tolist() == [0.5, -1.0, 2.0]
    assert session.model.get_parameter(BIAS).grad is None


def test_with_plain_sgd_it_is_weight_decay() -> None:
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "clip": 0.0, "epochs": 1}
    penalised, decayed, plain = (
        tiny.trained(tiny.recipe(*tricks, **settings), tiny.bert(dropout=0.0))[1].state_dict()
        for tricks in ([L2(strength=0.1)], [WeightDecay(value=0.1)], [])
    )
    for name, value in penalised.items():
        assert torch.allclose(value, decayed[name], atol=1e-6)
    assert not torch.allclose(penalised["classifier.weight"], plain["classifier.weight"], atol=1e-6)


def test_frozen_parameters_are_left_out() -> None:
    session = tiny.recipe(tiny.Unfreeze(), L2(layers=["block.0"])).bind(tiny.bert(), tiny.loader())
    session.enter(0)
    assert session.penalty() is None  # only the head trains


def test_a_layer_that_does_not_exist_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"l2.layers: the model has no layer 'heat' \(did you mean 'head'\?\)"):
        bound(layers=["heat"])


@pytest.mark.parametrize("values", [{"strength": -1}, {"strength": float("nan")}, {"layers": []}, {"exempt": "head"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        L2(**values)
