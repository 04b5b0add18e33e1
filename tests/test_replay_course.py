"""What a plan's replay leaves out, counted by hand: a block's forward pass 1, its backward pass 2."""

from __future__ import annotations

import pytest

from finetricks.progress import Stage
from finetricks.replay.course import Course, compile_course, cost, prefix

LAYERS = ("embeddings", "block.0", "block.1", "block.2", "block.3", "head")
EPOCH = 10


def course(*frozen: int | tuple[str, ...], most: int | None = None) -> Course:
    """Of stages of an epoch each, with so many layers frozen from the input on."""
    names = [frozenset(LAYERS[:each] if isinstance(each, int) else each) for each in frozen]
    stages: list[Stage] = []
    for epoch, each in enumerate(names):
        if stages and stages[-1].frozen == each:
            stages[-1] = Stage(stages[-1].index, stages[-1].start, (epoch + 1) * EPOCH, each)
        else:
            stages.append(Stage(len(stages), epoch * EPOCH, (epoch + 1) * EPOCH, each))
    return compile_course(LAYERS, stages, EPOCH, most=most)


@pytest.mark.parametrize(
    ("frozen", "blocks", "price"),
    [
        ((), 0, 12),
        (LAYERS[:1], 0, 12),
        (LAYERS[:3], 2, 8),
        (LAYERS[:5], 4, 4),
        (("embeddings", "block.0", "block.2", "head"), 1, 4 + 2 + 1 + 2),  # through the frozen block above
        (("block.0",), 0, 12 - 1),
    ],
)
def test_prefix_and_cost(frozen: tuple[str, ...], blocks: int, price: int) -> None:
    assert prefix(LAYERS, frozen) == blocks
    assert cost(LAYERS, frozen) == price


def test_the_head_alone_over_three_epochs() -> None:
    found = course(5, 5, 5)
    assert [dict(span.kept) for span in found.spans] == [{4: 3 * EPOCH}]
    assert (found.passes, found.saved) == (3 * EPOCH * 4, 2 * EPOCH * 4)


def test_a_shrinking_prefix_keeps_what_later_stages_need() -> None:
    found = course(5, 4, 3, 2, 1)
    assert [sorted(span.kept) for span in found.spans] == [[1, 2, 3], [1, 2, 3], [1, 2], [1], []]
    assert found.passes == EPOCH * (4 + 6 + 8 + 10 + 12)
    assert found.saved == EPOCH * (3 + 2 + 1)


def test_with_room_for_one_boundary_the_one_that_saves_most() -> None:
    found = course(5, 4, 3, 2, 1, most=1)
    # Over the second to fourth epoch boundary 3 would save 3, 2 would save 2 + 2, 1 would save 1 + 1 + 1.
    assert sorted(found.spans[0].kept) == [2]
    assert found.saved == EPOCH * (2 + 2 + 0)


def test_a_growing_prefix_begins_at_the_states_kept_below() -> None:
    """As in chain-thaw: each block trains alone, and what is below it no longer changes."""
    alone = [tuple(name for name in LAYERS if name != f"block.{live}") for live in (1, 1, 2, 2, 3, 3)]
    found = course(*alone)
    assert [span.blocks for span in found.spans] == [1, 2, 3]
    assert found.saved == EPOCH * (0 + 1 + 1 + 2 + 2 + 3)


def test_one_epoch_of_a_frozen_prefix_saves_nothing() -> None:
    found = course(5, 0, 0)
    assert not found.saved
    assert not any(span.kept for span in found.spans)
