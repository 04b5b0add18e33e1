"""A plugin file for the tests of several processes: tricks that behave differently on each of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finetricks import Progress, Step, Trick, hookimpl


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class FailsOnOne(Trick):
    """Raises on rank 1 at a step."""

    at: int = 3

    @hookimpl
    def regularize(self, step: Step) -> None:
        if rank() == 1 and step.progress.step == self.at:
            raise ValueError("rank 1 has had enough")


class InfiniteOnOne(Trick):
    """Makes the loss infinite on rank 1 at a step."""

    at: int = 2

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Step) -> torch.Tensor | None:
        infinite = rank() == 1 and step.progress.step == self.at
        return model.classifier.bias.sum() + float("inf") if infinite else None


class StopsOnFirst(Trick):
    """Decides to stop at the second evaluation, but on rank 0 alone."""

    @hookimpl
    def evaluated(self, state: dict[str, Any], metrics: Mapping[str, float], progress: Progress) -> str | None:
        state["seen"] = state.get("seen", 0) + 1
        return "stop" if rank() == 0 and state["seen"] == 2 else None


class RunningMean(Trick):
    """Scales a penalty by the mean of what its own rank has seen, which it remembers: the state differs by rank."""

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Step) -> torch.Tensor:
        state = step.state_of(self)
        seen = torch.rand((), generator=step.generator(self))
        state["mean"] = 0.9 * state.get("mean", torch.tensor(0.0)) + 0.1 * seen
        return state["mean"] * model.classifier.weight.square().mean()


class Killed(Trick):
    """Ends its process with signal 9 at a step, on the rank that a file names; the file is gone afterwards."""

    file: str
    at: int

    @hookimpl
    def regularize(self, step: Step) -> None:
        file = Path(self.file)
        if step.progress.step == self.at and file.exists() and int(file.read_text()) == rank():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class FailsInBackward(Trick):
    """Raises on rank 1 while gradients are computed: the others wait for them already."""

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Step) -> torch.Tensor:
        penalty = model.classifier.weight.sum() * 1e-3
        if rank() == 1 and step.progress.step == 2:
            penalty.register_hook(_fail)
        return penalty


def _fail(gradient: torch.Tensor) -> None:
    raise MemoryError("no memory for the gradients")


class Noted(Trick):
    """Adds a line `node process step` to a file at every micro-batch."""

    file: str

    @hookimpl
    def regularize(self, step: Step) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "-"
        with Path(self.file).open("a", encoding="utf-8") as file:
            file.write(f"{node} {os.getpid()} {step.progress.step}\n")
