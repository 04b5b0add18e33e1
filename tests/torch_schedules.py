"""PyTorch's schedulers as lists of factors, stepped as they commonly are, to hold ours against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from finetricks import Progress, Trick

# Steps and steps an epoch: a single step, whole epochs, a last partial epoch, one step an epoch, many cycles.
LENGTHS = [(1, 1), (1, 4), (12, 4), (18, 5), (9, 1), (200, 7)]


def ours(trick: Trick, steps: int, per_epoch: int) -> list[float]:
    return [trick.schedule(Progress(step, steps, per_epoch)) for step in range(steps)]


def theirs(
    make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int, per_epoch: int, by: str = "epoch"
) -> list[float]:
    """The rate of an optimizer with base rate 1 at each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates: list[Any] = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if by == "fraction":
            scheduler.step((step + 1) // per_epoch + (step + 1) % per_epoch / per_epoch)
        elif by == "step" or (step + 1) % per_epoch == 0:
            scheduler.step()
    return rates
