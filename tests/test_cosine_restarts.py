from __future__ import annotations

import math

import pytest
from pydantic import ValidationError
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from finetricks_plugins.schedule.cosine_restarts import CosineRestarts, cosine_factor
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step", "fraction"])
@pytest.mark.parametrize("cycles", [(1, 1, 0.0), (1, 2, 0.0), (3, 2, 0.1), (4, 1, 0.25), (50, 3, 0.0)])
def test_it_equals_torch_at_every_step(steps: int, per_epoch: int, by: str, cycles: tuple[int, int, float]) -> None:
    expected = theirs(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, *cycles), steps, per_epoch, by)
    first, growth, lowest = cycles
    trick = CosineRestarts(T_0=first, T_mult=growth, eta_min=lowest, by=by)
    assert ours(trick, steps, per_epoch) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_numbers_by_hand() -> None:
    # cycles of 2, 4: cos 0, cos pi/2; cos 0, pi/4, pi/2, 3 pi/4; a restart
    low = math.sqrt(0.5) / 2
    expected = [1, 0.5, 1, 0.5 + low, 0.5, 0.5 - low, 1]
    assert [cosine_factor(t, 2, 2, 0.0) for t in range(7)] == pytest.approx(expected)
    assert [cosine_factor(t, 2, 1, 0.2) for t in range(4)] == pytest.approx([1, 0.6, 1, 0.6])


def test_the_rate_moves_within_epochs_as_in_the_paper() -> None:
    # T_0 one epoch of four steps: cos of 0, pi/4, pi/2, 3 pi/4, and again
    low = math.sqrt(0.5) / 2
    cycle = [1, 0.5 + low, 0.5, 0.5 - low]
    assert ours(CosineRestarts(T_0=1, by="fraction"), 8, 4) == pytest.approx(cycle * 2)
    assert ours(CosineRestarts(T_0=1), 8, 4) == [1.0] * 8  # counted in epochs such a cycle never falls


def test_it_stays_within_its_bounds() -> None:
    values = ours(CosineRestarts(T_0=7, T_mult=2, eta_min=0.0, by="step"), 3000, 10)
    assert min(values) >= 0
    assert max(values) == 1.0


@pytest.mark.parametrize("values", [{"T_0": 0}, {"T_0": 1.5}, {"T_mult": 0}, {"eta_min": -0.1}, {"eta_min": 1.1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CosineRestarts(**values)
