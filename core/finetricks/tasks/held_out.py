"""A slice held out of train, on which tricks decide while training.

It is part of neither train nor valid: a trick that chose on the split which scores a comparison would always seem to
help. It is drawn from the examples that the tricks left in train, so few examples stay few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetricks.errors import InputError
from finetricks.streams import child
from finetricks.tasks.splits import draw_share

if TYPE_CHECKING:
    import datasets

    from finetricks.tasks.task import Task


def hold_out(task: Task, train: datasets.Dataset, share: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part `train` in two: what is left to train on, and the held-out examples as the task has them.

    Texts that are equal stay together; of a classification every class gives the same share. Rows that tricks added
    (their `example_id` is negative) are trained on.

    Args:
        train: the task's training examples, as the tricks changed them.
        seed: the split's.

    Raises:
        InputError: the share holds no example.
    """
    whole = task.splits["train"]
    left = set(train["example_id"][:])
    own = [row for row, number in enumerate(whole["example_id"][:]) if number in left]
    texts = list(zip(*(whole[name][:] for name in task.text_columns), strict=True))
    labels = whole["labels"][:]
    strata = [labels[row] for row in own] if task.kind == "classification" else None
    try:
        drawn = draw_share([texts[row] for row in own], strata, share, child(seed, "held out"))
    except InputError:
        raise InputError(
            f"training.held_out: a share of {share:g} of {len(own)} training examples holds none to decide on; give a "
            "larger share, or more examples"
        ) from None
    held = whole.select([own[row] for row in drawn])
    numbers = set(held["example_id"][:])
    kept = [row for row, number in enumerate(train["example_id"][:]) if number not in numbers]
    return train.select(kept), held
