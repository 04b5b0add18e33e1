from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformers import get_constant_schedule_with_warmup

from finetricks import Progress, Stack
from finetricks_plugins.schedule.linear_decay import LinearDecay
from finetricks_plugins.schedule.warmup import Warmup


def factors(*tricks, steps: int = 20) -> list[float]:
    stack = Stack([(type(trick).__name__, trick) for trick in tricks])
    return [stack.schedule(Progress(step, steps, steps)) for step in range(steps)]


def test_over_a_constant_rate_it_equals_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_constant_schedule_with_warmup(optimizer, 5).lr_lambdas[0]
    assert factors(Warmup(steps=5)) == pytest.approx([theirs(step) for step in range(20)], abs=1e-12)


def test_it_multiplies_whatever_owns_the_schedule() -> None:
    # t/4 x (1 - t/20)
    assert factors(LinearDecay(), Warmup(steps=4))[:6] == pytest.approx([0, 0.2375, 0.45, 0.6375, 0.8, 0.75])
    assert factors(Warmup(steps=4), LinearDecay()) == factors(LinearDecay(), Warmup(steps=4))


def test_a_fraction_is_of_the_run_rounded_down() -> None:
    assert factors(Warmup(fraction=0.13)) == factors(Warmup(steps=2))
    assert factors(Warmup(fraction=0)) == factors(Warmup(steps=0)) == [1.0] * 20


def test_steps_and_a_fraction_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="steps and fraction both set the length"):
        Warmup(steps=5, fraction=0.2)
    assert Warmup(**Warmup(steps=5).model_dump()) == Warmup(steps=5)  # as in a resolved recipe


def test_beyond_the_run_the_full_rate_is_never_reached() -> None:
    assert factors(Warmup(steps=40)) == pytest.approx([step / 40 for step in range(20)])
    assert factors(Warmup(fraction=1.0))[-1] == pytest.approx(19 / 20)


@pytest.mark.parametrize("values", [{"steps": -1}, {"fraction": -0.1}, {"fraction": 1.1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Warmup(**values)
