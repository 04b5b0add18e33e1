"""Stages that share a run evenly."""

from __future__ import annotations

from finetricks import Progress


def stage_of_run(progress: Progress, stages: int) -> int:
    """The stage, from 0, that a step lies in when `stages` stages share the run evenly.

    The last step is always in the last stage: a run of fewer steps than stages leaves out the first ones.
    """
    steps_left = progress.total_steps - progress.step
    return max(progress.step * stages // progress.total_steps, stages - steps_left)
