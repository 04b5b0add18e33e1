"""What must hold for every built-in trick: it acts, neutral it is absent, it resumes, in a loop and in the Trainer."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import DataCollatorWithPadding, set_seed

import every
from every import CASES, bound, final, recipe, same, train
from finetricks import Recipe, TrickTrainer, installed
from test_trainer import losses_of

NAMES = sorted(CASES)
# These decide while training, in the Trainer on a slice that it holds out of other rows: see their own tests.
DECIDING = {"early_stopping"}

# A name for training everything, to stand beside `last_layer` and `predict_only` in a study.
INERT = {"full"}


@functools.cache
def untouched(name: str) -> dict[str, torch.Tensor]:
    """The weights after training without tricks, on the model and the task of the trick `name`."""
    return final(bound(recipe(), name))


def test_every_built_in_trick_has_a_case() -> None:
    ours = {name for name, entry in installed().entries.items() if entry.distribution == "finetricks"}
    assert ours == set(CASES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - INERT))
def test_it_changes_the_result(name: str) -> None:
    assert not same(final(bound(recipe(name))), untouched(name))


@pytest.mark.parametrize("name", [n for n in NAMES if installed().get(n).neutral is not None])
def test_at_neutral_strength_it_equals_its_absence_bit_for_bit(name: str) -> None:
    neutral = Recipe(tricks=[{name: CASES[name].values | installed().get(name).neutral}], training=recipe().training)
    assert same(final(bound(neutral)), untouched(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [2, 6, 9])
def test_resume_equals_uninterrupted_bit_for_bit(name: str, at: int, tmp_path: Path) -> None:
    whole = final(bound(recipe(name)))
    first = bound(recipe(name))
    train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = bound(recipe(name), seed=9, init=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(final(second), whole)


@pytest.mark.parametrize("name", sorted(set(NAMES) - DECIDING))
def test_the_trainer_gives_the_losses_of_the_loop(name: str, tmp_path: Path) -> None:
    own = recipe(name)
    set_seed(own.training.seed)
    task = every.task_for(name)
    trainer = TrickTrainer(
        recipe=own,
        model=every.model_for(name),
        args=own.training_arguments(
            tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True, logging_strategy="no"
        ),
        train_dataset=task.splits["train"],
        processing_class=task.tokenizer,
        data_collator=DataCollatorWithPadding(task.tokenizer),
    )
    session = bound(own)
    in_loop, in_trainer = train(session), losses_of(trainer)
    if session.plan.trains(0):
        assert in_trainer == pytest.approx(in_loop, abs=1e-6)
    else:
        assert (in_loop, set(in_trainer)) == ([], {0.0})
        assert same(trainer.model.state_dict(), session.model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_json_and_pickle(name: str) -> None:
    trick = installed().get(name)(**CASES[name].values)
    assert type(trick).model_validate(json.loads(trick.model_dump_json())) == trick
    assert pickle.loads(pickle.dumps(trick)) == trick


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_where_it_comes_from(name: str) -> None:
    card = installed().get(name).__doc__ or ""
    assert "Source" in card
    assert len(card.splitlines()[0]) <= 110
    for field, info in installed().get(name).model_fields.items():
        assert info.description, f"{name}.{field} has no description"
