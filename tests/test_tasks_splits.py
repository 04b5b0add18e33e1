"""Drawing parts of the training data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from finetricks.errors import DataError
from finetricks.tasks.splits import draw_rows, draw_share

TEXTS = [f"text {row}" for row in range(200)]
CLASSES = ["a"] * 120 + ["b"] * 60 + ["c"] * 20


def test_a_share_is_stratified_and_drawn_by_the_seed_alone() -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    drawn = draw_share(TEXTS, CLASSES, 0.1, seed=0)
    assert Counter(CLASSES[row] for row in drawn) == {"a": 12, "b": 6, "c": 2}  # a tenth of each
    assert drawn == sorted(drawn) == draw_share(TEXTS, CLASSES, 0.1, seed=0)
    assert drawn != draw_share(TEXTS, CLASSES, 0.1, seed=1)
    assert drawn != list(range(len(drawn)))
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("strata", [None, ["a", "b"] * 100])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_equal_texts_stand_on_one_side(strata, share: float) -> None:
    texts = [f"text {row % 37}" for row in range(200)]  # each five or six times
    for seed in range(5):
        drawn = set(draw_share(texts, strata, share, seed))
        assert not {texts[row] for row in drawn} & {texts[row] for row in range(200) if row not in drawn}
        assert abs(len(drawn) - 200 * share) <= 6


def test_every_class_keeps_an_example_for_training() -> None:
    classes = ["a"] * 10 + ["b"] * 2 + ["c"]
    for seed in range(20):
        drawn = draw_share(TEXTS[:13], classes, 0.8, seed)
        assert {classes[row] for row in range(13) if row not in drawn} == {"a", "b", "c"}


@pytest.mark.parametrize(("texts", "share"), [(TEXTS[:4], 0.1), (["a", "a"], 0.5), (["a"], 0.9)])
def test_a_share_without_rows_is_refused(texts: list[str], share: float) -> None:
    with pytest.raises(DataError, match=rf"^data\.valid: a share of {share} of .* leaves valid without rows"):
        draw_share(texts, None, share, seed=0)


def test_rows_are_stratified_exact_and_nested() -> None:
    few, more = (draw_rows(CLASSES, 200, rows, seed=0) for rows in (20, 100))
    assert len(few) == 20
    assert Counter(CLASSES[row] for row in more) == {"a": 60, "b": 30, "c": 10}
    assert set(few) < set(more)
    assert few == draw_rows(CLASSES, 200, 20, seed=0) != draw_rows(CLASSES, 200, 20, seed=1)


def test_rows_hold_each_class_however_rare() -> None:
    classes = ["a"] * 1000 + ["b"]
    assert {classes[row] for seed in range(5) for row in draw_rows(classes, 1001, 2, seed)} == {"a", "b"}


def test_rows_without_classes() -> None:
    assert len(set(draw_rows(None, 200, 50, seed=0))) == 50
    assert draw_rows(None, 3, 3, seed=0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (201, "data.rows: 201 asked for, but train has 200; ask for fewer, or leave it out"),
        (2, "data.rows: 2 is fewer than the 3 classes of train; ask for more"),
    ],
)
def test_rows_that_cannot_be_drawn(rows: int, message: str) -> None:
    with pytest.raises(DataError) as error:
        draw_rows(CLASSES, 200, rows, seed=0)
    assert str(error.value) == message
