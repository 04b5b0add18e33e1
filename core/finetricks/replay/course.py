"""Where a plan lets work be left out, and what that saves. Plain data, from the plan alone.

A prefix is the longest run of frozen layers from the input on; its length is counted in blocks (embeddings alone: 0).
What the block at its end gives is the boundary's states: the boundary has the same number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from finetricks.layer_spec import is_block
from finetricks.progress import Stage

FORWARD, BACKWARD, THROUGH = 1, 2, 1
"""What a block's passes cost: forward; backward; backward only through it, where it is frozen above a live layer."""


@dataclass(frozen=True)
class Span:
    """What is replayed over one stage.

    Attributes:
        start: its first step.
        end: its last step, exclusive.
        blocks: of the frozen prefix; 0 where nothing is replayed.
        kept: the boundaries of which the rows that are computed in it are kept, each with the step up to which it is of
            use.
        begins: the highest boundary at which its passes can begin.
    """

    start: int
    end: int
    blocks: int
    kept: Mapping[int, int]
    begins: int = 0

    def up_to(self, layers: Sequence[str]) -> int:
        """How many of `layers`, from the input on, its passes can leave out."""
        if not self.begins:
            return 0
        blocks = [index for index, layer in enumerate(layers) if is_block(layer)]
        return blocks[self.begins - 1] + 1


@dataclass(frozen=True)
class Course:
    """Where a run replays.

    Attributes:
        spans: a stage each.
        off: why nothing is replayed although layers are frozen; empty where something is.
        passes: what training costs without replay, counted by `cost`.
        saved: how much of that is left out.
        size: bytes that the training examples' states take at the most, if they are as long as those tried; 0 where
            that is not known.
        tolerance: how far a kept state may be from the computed one, of its size; 0 where replay is exact, or else off;
            `None` where only a run can tell.
    """

    spans: tuple[Span, ...]
    layers: tuple[str, ...]
    off: str = ""
    passes: int = 0
    saved: int = 0
    size: int = 0
    tolerance: float | None = 0.0

    @property
    def acts(self) -> bool:
        return not self.off and any(span.blocks for span in self.spans)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "acts": self.acts,
            "off": self.off,
            "passes": self.passes,
            "saved": self.saved,
            "bytes": self.size,
            "tolerance": self.tolerance,
            "stages": [
                {
                    "from": span.start,
                    "to": span.end,
                    "frozen_blocks": span.blocks,
                    "replayed_blocks": span.begins,
                    "kept": list(span.kept),
                }
                for span in self.spans
            ],
        }


def prefix(layers: Sequence[str], frozen: Collection[str]) -> int:
    """How many blocks stand in the frozen run of layers from the input on."""
    count = 0
    for layer in layers:
        if layer not in frozen:
            break
        count += is_block(layer)
    return count


def cost(layers: Sequence[str], frozen: Collection[str], skipped: int = 0) -> int:
    """What a training step costs, in block passes: 1 forward, 2 backward where it trains, 1 where it lies above."""
    blocks = [layer for layer in layers if is_block(layer)]
    lowest = next((index for index, layer in enumerate(layers) if layer not in frozen), len(layers))
    above = set(layers[lowest:])
    backward = sum((THROUGH if layer in frozen else BACKWARD) for layer in blocks if layer in above)
    return FORWARD * (len(blocks) - skipped) + backward


def compile_course(
    layers: Sequence[str],
    stages: Sequence[Stage],
    steps_per_epoch: int,
    *,
    most: int | None = None,
    off: str = "",
    size: int = 0,
    tolerance: float | None = 0.0,
) -> Course:
    """Where the plan of `stages` lets work be left out.

    Args:
        most: boundaries that there is room for at a time; as many as are of use by default. Those that save most are
            kept.
        off: why nothing is to be replayed.
        size: bytes that a boundary takes.
        tolerance: of the states that are kept.
    """
    lengths = [prefix(layers, stage.frozen) for stage in stages]
    passes = sum((stage.end - stage.start) * cost(layers, stage.frozen) for stage in stages)
    if off or not any(lengths):
        nothing = tuple(Span(stage.start, stage.end, 0, {}) for stage in stages)
        return Course(nothing, tuple(layers), off if any(lengths) else "", passes)
    spans: list[Span] = []
    saved = 0
    since: dict[int, int] = {}  # boundary: the step from which on rows are kept for it
    for index, (stage, length) in enumerate(zip(stages, lengths, strict=True)):
        held = {boundary: step for boundary, step in since.items() if boundary <= length}
        kept = _worth(lengths[index:], stages[index:], steps_per_epoch, most, held)
        since = {**dict.fromkeys(kept, stage.start), **still_good(since, length, kept)}
        saved += FORWARD * _left_out(stage, since, steps_per_epoch)
        begins = max((b for b, first in since.items() if first + steps_per_epoch < stage.end), default=0)
        spans.append(Span(stage.start, stage.end, length, kept, begins))
    together = max(len({*before.kept, *span.kept}) for before, span in zip([spans[0], *spans], spans, strict=False))
    return Course(tuple(spans), tuple(layers), "", passes, saved, size * together, tolerance)


def still_good(since: Mapping[int, int], length: int, kept: Collection[int]) -> dict[int, int]:
    """Of the boundaries kept so far those that a stage goes on with: its own, and the highest that it can begin at."""
    good = [boundary for boundary in since if boundary <= length]
    return {boundary: since[boundary] for boundary in good if boundary in kept or boundary == max(good)}


def _worth(
    lengths: Sequence[int], stages: Sequence[Stage], steps_per_epoch: int, most: int | None, held: Mapping[int, int]
) -> dict[int, int]:
    """The boundaries to keep in the first of `stages`, by what they save in it and later; with their last use.

    A boundary's states are good until a layer below it is trained.

    Args:
        held: boundaries that are kept already, each since a step; they take of the room for `most`.
    """
    reach = list(accumulate(lengths, min))

    def saved(boundaries: Collection[int]) -> int:
        total = 0
        for stage, far in zip(stages, reach, strict=True):
            since = {b: held.get(b, stages[0].start) for b in boundaries if b <= far}
            total += _left_out(stage, since, steps_per_epoch)
        return total

    chosen = [boundary for boundary in held if saved([boundary])]
    while most is None or len(chosen) < most:
        best = max(sorted(set(reach) - {0}), key=lambda boundary: saved([*chosen, boundary]), default=0)
        if not best or saved([*chosen, best]) <= saved(chosen):
            break
        chosen.append(best)
    until = {b: max(stage.end for stage, far in zip(stages, reach, strict=True) if far >= b) for b in chosen}
    return dict(sorted(until.items()))


def _left_out(stage: Stage, since: Mapping[int, int], steps_per_epoch: int) -> int:
    """Blocks left out over a stage: each step begins at the highest boundary that an epoch was kept for."""
    total, covered_from = 0, stage.end
    for boundary in sorted(since, reverse=True):
        first = max(stage.start, since[boundary] + steps_per_epoch)
        total += boundary * max(covered_from - first, 0)
        covered_from = min(covered_from, first)
    return total
