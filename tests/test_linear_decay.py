from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.optim.lr_scheduler import LinearLR
from transformers import get_linear_schedule_with_warmup

from finetricks import Progress
from finetricks_plugins.schedule.linear_decay import LinearDecay
from torch_schedules import LENGTHS, ours, theirs


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_by_default_it_equals_transformers_schedule_at_every_step(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, steps).lr_lambdas[0]
    for step in range(steps):
        assert LinearDecay().schedule(Progress(step, steps, 3)) == pytest.approx(theirs(step), abs=1e-12)


@pytest.mark.parametrize(("steps", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize("line", [(1, 0, 1), (1, 0.1, 3), (1 / 3, 1, 5), (0.9, 0, 999)])
def test_it_equals_torch_at_every_step(steps: int, per_epoch: int, by: str, line: tuple[float, float, int]) -> None:
    expected = theirs(lambda optimizer: LinearLR(optimizer, *line), steps, per_epoch, by)
    start, end, total_iters = line
    trick = LinearDecay(start_factor=start, end_factor=end, total_iters=total_iters, by=by)
    assert ours(trick, steps, per_epoch) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_it_falls_to_its_end() -> None:
    assert ours(LinearDecay(end_factor=0.2), 4, 2) == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_total_iters_are_epochs_unless_told_otherwise() -> None:
    assert ours(LinearDecay(total_iters=2), 6, 2) == [1, 1, 0.5, 0.5, 0, 0]
    assert ours(LinearDecay(total_iters=2, by="step"), 6, 2) == [1, 0.5, 0, 0, 0, 0]


def test_over_the_run_it_can_move_once_an_epoch() -> None:
    assert ours(LinearDecay(by="epoch"), 7, 2) == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    "values", [{"start_factor": 0}, {"start_factor": 1.1}, {"end_factor": -0.1}, {"end_factor": 2}, {"total_iters": 0}]
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LinearDecay(**values)
