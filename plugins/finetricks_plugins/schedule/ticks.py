"""What the schedules that PyTorch knows count: how often their scheduler has been stepped."""

from __future__ import annotations

from typing import Literal

from finetricks import Progress

By = Literal["epoch", "step"]


def ticks(progress: Progress, by: By) -> int:
    """How often a scheduler that is stepped after each epoch, or after each optimizer step, has been stepped."""
    return progress.epoch if by == "epoch" else progress.step
