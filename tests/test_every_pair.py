"""Every pair of built-in tricks trains together, or is refused for a reason that is known before a model is loaded."""

from __future__ import annotations

import itertools

import pytest
import torch

from every import CASES, bound, recipe, train, values_of
from finetricks import RecipeError, installed
from finetricks.stack import conflicts


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(sorted(CASES), 2)))
def test_it_trains_or_is_refused_with_a_reason(one: str, other: str) -> None:
    pair = [(name, installed().get(name)(**values_of(name, one, other))) for name in (one, other)]
    if problems := conflicts(pair):
        assert all(len(str(problem)) > 40 for problem in problems)
        with pytest.raises(RecipeError):
            recipe(one, other)
        return
    session = bound(recipe(one, other))
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    train(session, steps=2)
    if not session.plan.trains(0):
        assert all(torch.equal(value, before[name]) for name, value in session.model.named_parameters())
        return
    assert session.global_step == 2
    frozen = session.plan.stage_at(1).frozen
    for group, planned in zip(session.optimizer.param_groups, session.plan.groups, strict=True):
        assert group["lr"] == session.plan.rate(planned, 2)
        for name in planned.parameters:
            value = session.model.get_parameter(name)
            assert torch.isfinite(value).all()
            if planned.layer in frozen and planned.layer in session.plan.stage_at(0).frozen:
                assert torch.equal(value, before[name])
