from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch.optim.lr_scheduler import ExponentialLR

from finetricks_plugins.schedule.exponential_decay import ExponentialDecay
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.97])
def test_it_equals_torch_at_every_step(steps: int, per_epoch: int, by: str, gamma: float) -> None:
    expected = theirs(lambda optimizer: ExponentialLR(optimizer, gamma), steps, per_epoch, by)
    assert ours(ExponentialDecay(gamma=gamma, by=by), steps, per_epoch) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_numbers_by_hand() -> None:
    assert ours(ExponentialDecay(gamma=0.5), 6, 2) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    # a tenth over 1000 steps: 0.1^(1/1000) = 0.9977, as the card says
    assert ours(ExponentialDecay(gamma=0.9977, by="step"), 1001, 10)[-1] == pytest.approx(0.1, abs=1e-3)


def test_it_never_ends_below_zero_however_long_the_run() -> None:
    assert ours(ExponentialDecay(gamma=0.001, by="step"), 500, 10)[-1] == 0.0


@pytest.mark.parametrize("gamma", [0, -0.5, 1.01, float("nan")])
def test_values_out_of_range_are_refused(gamma: float) -> None:
    with pytest.raises(ValidationError):
        ExponentialDecay(gamma=gamma)
