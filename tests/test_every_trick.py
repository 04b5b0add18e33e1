"""What must hold for every built-in trick: it acts, neutral it is absent, it resumes, in a loop and in the Trainer."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import pytest
import torch

import tiny
from finetricks import Recipe, Session, installed
from finetricks.stack import conflicts
from test_trainer import losses_of, trainer_of

# Values at which each trick acts on the tiny task. A trick without an entry here fails the suite.
SETTINGS: dict[str, dict[str, Any]] = {
    "auxiliary_lm": {"gamma": 0.5, "mask_token_id": 4},
    "discriminative_lr": {},
    "glorot_normal": {},
    "gradual_unfreezing": {},
    "head_tail": {},
    "l2_sp": {"alpha": 0.5},
    "label_smoothing": {},
    "linear_decay": {},
    "stlr": {},
    "two_stage": {},
    "warmup": {"steps": 3},
    "weight_decay": {"value": 0.5},
}
# These change the examples, which a loader of one's own holds already: test_run.py trains with them.
ON_DATA = {"head_tail"}
IN_A_LOOP = sorted(set(SETTINGS) - ON_DATA)


def recipe(*names: str, **training: Any) -> Recipe:
    tricks = [{name: SETTINGS[name]} for name in names]
    return Recipe(tricks=tricks, training={"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 3} | training)


def bound(recipe: Recipe, init: bool = True) -> Session:
    return recipe.bind(tiny.bert(), tiny.loader(), init=init)


def final(session: Session) -> dict[str, torch.Tensor]:
    tiny.train(session)
    return {name: value.clone() for name, value in session.finish().state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def untouched() -> dict[str, torch.Tensor]:
    """The weights after training without tricks."""
    return final(bound(recipe()))


def test_every_built_in_trick_has_settings() -> None:
    ours = {name for name, entry in installed().entries.items() if entry.distribution == "finetricks"}
    assert ours == set(SETTINGS)


@pytest.mark.parametrize("name", IN_A_LOOP)
def test_it_changes_the_result(name: str, untouched: dict[str, torch.Tensor]) -> None:
    assert not same(final(bound(recipe(name))), untouched)


@pytest.mark.parametrize("name", [n for n in IN_A_LOOP if installed().get(n).neutral is not None])
def test_at_neutral_strength_it_equals_its_absence_bit_for_bit(name: str, untouched: dict[str, torch.Tensor]) -> None:
    neutral = Recipe(tricks=[{name: installed().get(name).neutral}], training=recipe().training)
    assert same(final(bound(neutral)), untouched)


@pytest.mark.parametrize("name", IN_A_LOOP)
@pytest.mark.parametrize("at", [2, 6, 9])
def test_resume_equals_uninterrupted_bit_for_bit(name: str, at: int, tmp_path) -> None:
    whole = final(bound(recipe(name)))
    first = bound(recipe(name))
    tiny.train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = recipe(name).bind(tiny.bert(seed=9), tiny.loader(), init=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(final(second), whole)


@pytest.mark.parametrize("name", IN_A_LOOP)
def test_the_trainer_gives_the_losses_of_the_loop(name: str, tmp_path) -> None:
    in_loop = tiny.train(bound(recipe(name)))
    assert losses_of(trainer_of(recipe(name), tmp_path)) == pytest.approx(in_loop, abs=1e-6)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_it_survives_json_and_pickle(name: str) -> None:
    trick = installed().get(name)(**SETTINGS[name])
    assert type(trick).model_validate(json.loads(trick.model_dump_json())) == trick
    assert pickle.loads(pickle.dumps(trick)) == trick


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_its_card_says_where_it_comes_from(name: str) -> None:
    card = installed().get(name).__doc__ or ""
    assert "Source" in card
    assert len(card.splitlines()[0]) <= 110
    for field, info in installed().get(name).model_fields.items():
        assert info.description, f"{name}.{field} has no description"


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(IN_A_LOOP, 2)))
def test_every_pair_trains_or_is_refused_with_a_reason(one: str, other: str) -> None:
    pair = [(name, installed().get(name)(**SETTINGS[name])) for name in (one, other)]
    if problems := conflicts(pair):
        assert all(str(problem) for problem in problems)
        return
    session = bound(recipe(one, other))
    tiny.train(session, steps=2)
    for group, planned in zip(session.optimizer.param_groups, session.plan.groups, strict=True):
        assert group["lr"] == session.plan.rate(planned, 2)
