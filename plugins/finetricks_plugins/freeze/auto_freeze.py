"""Freezing what has stopped learning, from the bottom up."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from finetricks import Choice, Layers, Progress, Trick, hookimpl

START = "auto_freeze: train from "
"""Begins the names of its decisions; the lowest layer that goes on training ends them."""


def change(before: float, now: float) -> float:
    """By what share the gradient of an interval differs from that of the interval before: |before - now| / before."""
    if before == 0:
        return 0.0 if now == 0 else sys.float_info.max  # as a limit; infinity has no percentiles
    return abs(before - now) / before


def first_to_train(before: Mapping[str, float], now: Mapping[str, float], percentile: float) -> str:
    """The first block whose gradient changed by at least the percentile of all changes.

    Args:
        before, now: the gradient of two intervals by block, from the lowest that trains to the highest.
        percentile: 0 to 100, interpolated linearly.
    """
    changes = {name: change(before[name], value) for name, value in now.items()}
    threshold = np.percentile(list(changes.values()), percentile)
    return next((name for name, value in changes.items() if value >= threshold), list(changes)[-1])


class AutoFreeze(Trick):
    """Freeze from the bottom up what has stopped learning, as seen from the gradients of each interval.

    The run is cut into intervals. For each block G = sum over its tensors of the L1 norm of the interval's summed
    gradient, and r = |G_prev - G| / G_prev. The first block whose r is at least the percentile of the r of all blocks
    that still train is where training goes on: what lies below it, the embeddings too, freezes and stays frozen. The
    first decision falls after two intervals; the last block and the head never freeze. The plan shows a run in which
    nothing freezes; where it does is recorded with the step, in the checkpoint and in the run's record, and resume
    follows that. No slice of train is held out. It saves time where the pretrained layers need little: the backward
    pass ends at the lowest layer that trains.

    Beside tricks that thaw blocks in turn it waits: an interval in which a block that it has not frozen itself was
    frozen is left out, so what it compares are two intervals in which all of them trained. A step that is not finite is
    left out, too. Embeddings that another trick thaws after it has decided stay frozen.

    It takes the memory of one more gradient for the blocks that still train.

    Traps: the authors' code makes a new optimizer at every interval once something is frozen, so that all moments are
    lost, and steps the rate down to 0.7 and 0.4 at 30 % and 60 % of the run, whatever schedule is asked for; here the
    optimizer goes on and the rate is the schedule's. It takes the best test accuracy over the intervals, and no more
    than 60,000 training examples; its README asks for 20 intervals where the code's default is 10. The rule knows no
    "converged": whenever the lowest block changed less than the percentile something freezes, however much that was.

    Source: Liu, Agarwal & Venkataraman 2021, AutoFreeze: Automatically Freezing Model Blocks to Accelerate Fine-tuning
    (arXiv 2102.01386); the norm of the summed gradient, the percentile over the blocks that train and the 10 intervals
    are those of its code.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"percentile": 0.0}
    conflicts: ClassVar[dict[str, str]] = {
        name: f"{name} never trains the blocks, so none of them is there for auto_freeze to freeze"
        for name in ("feature_based", "last_layer", "predict_only")
    }

    intervals: Annotated[int, Field(ge=3), Choice(10, 20)] = Field(
        default=10, description="Into how many intervals the run is cut; a decision falls after each but the first."
    )
    percentile: Annotated[float, Field(ge=0, le=100), Choice(25.0, 50.0, 75.0)] = Field(
        default=50.0, description="Of the blocks' changes; those below it, from the bottom up, freeze. 0: none does."
    )

    @property
    def decides(self) -> bool:
        return self.percentile > 0

    def start(self, progress: Progress, layers: Layers) -> int:
        """The number of the lowest layer that trains, as far as this trick goes."""
        if not progress.decisions:
            return 0
        return max((i for i, name in enumerate(layers.names) if progress.decided(START + name)), default=0)

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        return layers.names[: self.start(progress, layers)]

    @hookimpl
    def after_backward(
        self, gradients: Mapping[str, torch.Tensor], layers: Layers, progress: Progress, state: dict[str, Any]
    ) -> str | None:
        if not self.decides:
            return None
        start = self.start(progress, layers)
        blocks = [name for name in layers.names[start:-1] if name in layers.blocks]
        asleep = progress.stage is not None and not progress.stage.frozen.isdisjoint(blocks)
        if asleep or len(blocks) < 2:
            state.clear()
            return None
        sums: dict[str, torch.Tensor] = state.setdefault("sums", {})
        add(sums, gradients, (name for block in blocks for name in layers.parameters[block]))
        state["steps"] = state.get("steps", 0) + 1
        if state["steps"] < max(progress.total_steps // self.intervals, 1):
            return None
        now = of_blocks(sums, {block: layers.parameters[block] for block in blocks})
        before = state.get("before", {})
        state |= {"steps": 0, "before": now}
        for total in sums.values():
            total.zero_()
        if not now or not now.keys() <= before.keys() or progress.step + 1 >= progress.total_steps:
            return None
        first = first_to_train(before, now, self.percentile)
        if layers.names.index(first) <= layers.names.index(next(iter(now))):
            return None
        forget(state, layers, first)
        return START + first


def add(sums: dict[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """Add the gradients of the parameters `names`, of those that have one, to their sums, on the gradients' device."""
    given = {name: gradients[name] for name in names if name in gradients}
    for name, gradient in given.items():
        if name not in sums:
            sums[name] = torch.zeros_like(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
        elif sums[name].device != gradient.device:  # from a checkpoint
            sums[name] = sums[name].to(gradient.device)
    if given:
        torch._foreach_add_([sums[name] for name in given], list(given.values()))


def of_blocks(sums: Mapping[str, torch.Tensor], blocks: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """The sum of the L1 norms of each block's tensors; blocks without a gradient are left out."""
    norms = {name: float(torch.linalg.vector_norm(total, 1)) for name, total in sums.items()}
    found = {block: [norms[name] for name in names if name in norms] for block, names in blocks.items()}
    return {block: math.fsum(values) for block, values in found.items() if values}


def forget(state: dict[str, Any], layers: Layers, first: str) -> None:
    """Drop from what is remembered what lies below the layer `first`."""
    below = layers.names[: layers.names.index(first)]
    for layer in below:
        state["before"].pop(layer, None)
        for name in layers.parameters[layer]:
            state["sums"].pop(name, None)
