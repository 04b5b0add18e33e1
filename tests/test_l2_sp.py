from __future__ import annotations

import pytest
import torch

import tiny
from finetricks import InputError, Session
from finetricks_plugins.regularize.l2_sp import L2SP

NEW = ("classifier.weight", "classifier.bias")


def bound(**values: object) -> Session:
    return tiny.recipe(L2SP(**values)).bind(tiny.bert(), tiny.loader())


def test_the_penalty_is_of_the_way_from_the_start_and_of_the_new_heads_length() -> None:
    session = bound(alpha=0.2, beta=0.4)
    at_start = session.penalty()
    expected = 0.2 * sum(session.model.get_parameter(name).square().sum() for name in NEW)
    assert at_start.item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.no_grad():
        session.model.bert.encoder.layer[0].output.dense.bias += 0.5  # 16 values moved by 1/2: |moved|^2 = 4
    assert (session.penalty() - at_start).item() == pytest.approx(0.1 * 4, rel=1e-4)


def test_the_gradient_pulls_back_to_the_start_and_the_new_head_to_zero() -> None:
    session = bound(alpha=0.2, beta=0.4)
    session.penalty()
    bias = session.model.bert.encoder.layer[0].output.dense.bias
    with torch.no_grad():
        bias += 0.5
    session.penalty().backward()
    assert torch.allclose(bias.grad, torch.full((16,), 0.2 * 0.5))
    assert torch.allclose(session.model.classifier.weight.grad, 0.4 * session.model.classifier.weight)


def test_a_pretrained_pooler_is_pulled_to_its_start_though_it_lies_in_the_head() -> None:
    session = bound(alpha=0.2, beta=0.4)
    pooler = session.model.bert.pooler.dense.bias
    assert "bert.pooler.dense.bias" in session.layers.parameters["head"]
    session.penalty()
    with torch.no_grad():
        pooler += 0.5
    session.penalty().backward()
    assert torch.allclose(pooler.grad, torch.full((16,), 0.2 * 0.5))


def test_only_the_layers_asked_for() -> None:
    session = bound(alpha=0.2, beta=0.4, layers=["block.1"])
    assert session.penalty().item() == 0
    with torch.no_grad():
        session.model.bert.encoder.layer[1].output.dense.bias += 0.5
        session.model.bert.encoder.layer[0].output.dense.bias += 0.5
    assert session.penalty().item() == pytest.approx(0.1 * 4, rel=1e-4)
    assert set(session.state["l2_sp"]) == set(session.layers.parameters["block.1"])


def test_a_layer_that_does_not_exist_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"l2_sp.layers: the model has no layer 'block.9'"):
        bound(layers=["block.9"])


def test_frozen_parameters_are_left_out() -> None:
    session = tiny.recipe(tiny.Unfreeze(), L2SP(alpha=1.0, beta=0.0, layers=["block.0"])).bind(
        tiny.bert(), tiny.loader()
    )
    session.enter(0)
    assert session.penalty() is None  # only the head trains


def test_the_start_is_kept_in_the_checkpoint() -> None:
    session = bound()
    start = tiny.bert().state_dict()
    tiny.train(session, steps=3)
    kept = session.state_dict()["own"][0]["tricks"]["l2_sp"]
    assert set(kept) == {name for name, _ in session.model.named_parameters()} - set(NEW)
    assert all(torch.equal(value, start[name]) for name, value in kept.items())


def test_one_pull_can_be_off_and_without_both_it_is_absent() -> None:
    session = bound(alpha=0.0, beta=0.4)
    session.penalty().backward()
    assert session.model.bert.encoder.layer[0].output.dense.weight.grad is None
    assert torch.allclose(session.model.classifier.weight.grad, 0.4 * session.model.classifier.weight)
    plain, neutral, pulled = (
        tiny.trained(tiny.recipe(*tricks))[1] for tricks in ([], [L2SP(alpha=0, beta=0)], [L2SP(alpha=0.5)])
    )
    assert tiny.equal(neutral, plain)
    assert not tiny.equal(pulled, plain)
