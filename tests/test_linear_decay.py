from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from finetricks import Progress
from finetricks_plugins.schedule.linear_decay import LinearDecay


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_it_equals_transformers_schedule_at_every_step(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, steps).lr_lambdas[0]
    for step in range(steps):
        assert LinearDecay().schedule(Progress(step, steps, steps)) == pytest.approx(theirs(step), abs=1e-12)


def test_it_falls_to_its_end() -> None:
    values = [LinearDecay(end=0.2).schedule(Progress(step, 4, 4)) for step in range(4)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.4])
