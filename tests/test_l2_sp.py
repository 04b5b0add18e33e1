from __future__ import annotations

import pytest
import torch

import tiny
from finetricks_plugins.regularize.l2_sp import L2SP


def test_the_penalty_is_of_the_way_from_the_start_and_of_the_heads_length() -> None:
    session = tiny.recipe(L2SP(alpha=0.2, beta=0.4)).bind(tiny.bert(), tiny.loader())
    head = session.layers.parameters["head"]
    at_start = session.penalty()
    expected = 0.2 * sum(session.model.get_parameter(name).square().sum() for name in head)
    assert at_start.item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.no_grad():
        session.model.bert.encoder.layer[0].output.dense.bias += 0.5  # 16 values moved by 1/2: |moved|^2 = 4
    assert (session.penalty() - at_start).item() == pytest.approx(0.1 * 4, rel=1e-4)


def test_the_gradient_pulls_back_to_the_start_and_the_head_to_zero() -> None:
    session = tiny.recipe(L2SP(alpha=0.2, beta=0.4)).bind(tiny.bert(), tiny.loader())
    session.penalty()
    bias = session.model.bert.encoder.layer[0].output.dense.bias
    with torch.no_grad():
        bias += 0.5
    session.penalty().backward()
    assert torch.allclose(bias.grad, torch.full((16,), 0.2 * 0.5))
    assert torch.allclose(session.model.classifier.weight.grad, 0.4 * session.model.classifier.weight)


def test_frozen_parameters_are_left_out() -> None:
    session = tiny.recipe(tiny.Unfreeze(), L2SP(alpha=1.0, beta=0.0)).bind(tiny.bert(), tiny.loader())
    session.enter(0)
    assert session.penalty() is None  # only the head trains


def test_the_start_is_kept_in_the_checkpoint() -> None:
    session = tiny.recipe(L2SP()).bind(tiny.bert(), tiny.loader())
    start = tiny.bert().state_dict()
    tiny.train(session, steps=3)
    kept = session.state_dict()["tricks"]["l2_sp"]
    assert set(kept) == {n for n, _ in session.model.named_parameters()} - set(session.layers.parameters["head"])
    assert all(torch.equal(value, start[name]) for name, value in kept.items())


def test_one_pull_can_be_off() -> None:
    session = tiny.recipe(L2SP(alpha=0.0, beta=0.4)).bind(tiny.bert(), tiny.loader())
    session.penalty().backward()
    assert session.model.bert.encoder.layer[0].output.dense.weight.grad is None
    assert torch.allclose(session.model.classifier.weight.grad, 0.4 * session.model.classifier.weight)
