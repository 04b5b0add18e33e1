"""Every built-in trick in bf16, in fp16, with gradient checkpointing and compiled; on a GPU too, where there is one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import every
import machines
from every import CASES
from finetricks import Session
from machines import SIX_STEPS, Seen
from modes import EXACT, MODES

COMPILED = {"auxiliary_lm", "gradual_unfreezing", "multi_task"}
"""What is compiled in CI, each for a reason of its own: a second pass, a thaw, a hook; the others at night."""


def cases() -> list[Any]:
    return [
        pytest.param(name, mode, marks=[pytest.mark.nightly] if mode == "compile" and name not in COMPILED else [])
        for mode in MODES
        for name in sorted(CASES)
    ]


def on_devices(test: Any) -> Any:
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    return pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, absent])])(test)


@pytest.fixture(autouse=True)
def _nothing_compiled_is_left(request: pytest.FixtureRequest) -> None:
    counters.clear()  # of other files in this process too
    if "compile" in request.node.name:
        torch._dynamo.reset()


@functools.cache
def plain(name: str, device: str) -> tuple[Seen, dict[str, torch.Tensor]]:
    session = every.bound(every.recipe(name, **SIX_STEPS), device=device)
    return machines.watched(session), weights(session)


def weights(session: Session) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in session.finish().state_dict().items()}


@on_devices
@pytest.mark.parametrize(("name", "mode"), cases())
def test_a_trick_keeps_its_plan_and_resumes_exactly(name: str, mode: str, device: str, tmp_path: Path) -> None:
    recipe = every.recipe(name, **SIX_STEPS, **MODES[mode])
    whole = every.bound(recipe, device=device)
    seen = machines.watched(whole)
    assert seen.broken == []
    assert bool(counters["stats"]["calls_captured"]) == (mode == "compile" and bool(seen.losses))
    end = weights(whole)

    expected, expected_end = plain(name, device)
    assert len(seen.losses) == len(expected.losses) > 0 or name == "predict_only"
    assert seen.changed == expected.changed
    if mode in EXACT and device == "cpu":
        assert seen.losses == expected.losses
        assert every.same(end, expected_end)
    elif seen.losses:
        assert seen.losses[0] == pytest.approx(expected.losses[0], rel=0.02)
        assert not every.same(end, expected_end)

    first = every.bound(recipe, device=device)
    at = whole.plan.total_steps // 2 + 1
    machines.watched(first, at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    if mode == "compile":
        torch._dynamo.reset()  # as in a new process
    second = every.bound(recipe, seed=9, init=False, device=device)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert machines.watched(second).broken == []
    resumed = weights(second)
    assert end.keys() == resumed.keys()
    for key, value in resumed.items():  # a GPU's sums are in no fixed order
        assert torch.equal(value, end[key]) if device == "cpu" else torch.allclose(value, end[key], atol=1e-3), key
