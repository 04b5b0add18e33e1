"""The slice that tricks decide on: out of train alone, the same for everyone, whatever tricks did to train."""

from __future__ import annotations

import datasets
import pytest

import every
from finetricks import Context, InputError, Recipe, Trick, hookimpl
from finetricks.runner import splits_of
from finetricks.tasks.held_out import hold_out
from finetricks_plugins.evaluated.early_stopping import EarlyStopping


def test_it_is_drawn_by_the_seed_and_shares_nothing_with_train() -> None:
    task = every.task_for("head_tail")
    train, held = hold_out(task, task.splits["train"], 0.2, seed=0)
    assert (len(train), len(held)) == (18, 4)
    assert sorted([*train["example_id"], *held["example_id"]]) == list(range(22))
    assert set(hold_out(task, task.splits["train"], 0.2, seed=0)[1]["example_id"]) == set(held["example_id"])
    assert set(hold_out(task, task.splits["train"], 0.2, seed=1)[1]["example_id"]) != set(held["example_id"])


def test_few_examples_stay_few_and_added_rows_are_trained_on() -> None:
    task = every.task_for("head_tail")
    few = task.splits["train"].select(range(10))
    added = few.select([0, 1]).map(lambda row: {"example_id": -1 - row["example_id"]})
    train, held = hold_out(task, datasets.concatenate_datasets([few, added]), 0.2, seed=0)
    assert set(held["example_id"]) < set(range(10))
    assert len(train) + len(held) == 12
    assert sorted(number for number in train["example_id"] if number < 0) == [-2, -1]


def test_a_share_without_an_example_is_refused() -> None:
    task = every.task_for("head_tail")
    with pytest.raises(InputError, match="held_out: a share of 0.01 of 22 training examples"):
        hold_out(task, task.splits["train"], 0.01, seed=0)


SPLITS: list[str] = []


class Notes(Trick):
    """Writes down which splits it is given."""

    @hookimpl
    def data(self, dataset: datasets.Dataset, split: str, context: Context) -> datasets.Dataset:
        SPLITS.append(split)
        return dataset


def test_tricks_change_it_as_they_change_an_evaluated_split() -> None:
    task, recipe = every.task_for("head_tail"), Recipe(tricks=[Notes(), EarlyStopping()])
    SPLITS.clear()
    splits, _ = splits_of(recipe, task, recipe.stack())
    assert SPLITS == ["train", "held_out"]
    assert max(map(len, splits["held_out"]["input_ids"])) <= every.MAX_LENGTH
