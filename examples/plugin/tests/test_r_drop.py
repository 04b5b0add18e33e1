from __future__ import annotations

from math import log

import pytest
import torch
from finetricks_r_drop import RDrop, divergence

from finetricks import InputError, Recipe
from finetricks.testing import Bench, check_trick, parametrize_with_checks
from finetricks.testing.bench import train
from finetricks.testing.models import bert

WITHOUT_DROPOUT = Bench(lambda seed: bert(seed, dropout=0.0))


@parametrize_with_checks([RDrop])
def test_it_holds_what_every_trick_must(check) -> None:
    check()


def test_the_divergence_by_hand() -> None:
    # p = (1/2, 1/2), q = (3/4, 1/4): KL(p, q) = ln(2/3)/2 + ln(2)/2, KL(q, p) = 3/4 ln(3/2) + 1/4 ln(1/2)
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    expected = ((log(2 / 3) + log(2)) / 2 + 0.75 * log(1.5) + 0.25 * log(0.5)) / 2
    assert divergence(p, q).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(q, p).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(p + 3, p).item() == pytest.approx(0, abs=1e-7)


def test_the_divergence_is_a_mean_over_rows() -> None:
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    rows = [divergence(one[row : row + 1], other[row : row + 1]) for row in range(4)]
    assert divergence(one, other).item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-5)


def test_without_dropout_it_changes_nothing() -> None:
    check_trick(
        RDrop(),
        on=WITHOUT_DROPOUT,
        leave_out=["beside_each"],
        expected_failures={"acts": "both passes are the same without dropout"},
    )


def test_one_score_is_refused() -> None:
    def with_one_score(seed: int):
        model = bert(seed)
        model.classifier = torch.nn.Linear(16, 1)
        model.num_labels = model.config.num_labels = 1
        return model

    session = Bench(with_one_score).bound(Recipe(tricks=[RDrop()]))
    with pytest.raises(InputError, match="r_drop compares distributions over classes, and this model gives one score"):
        train(session)
