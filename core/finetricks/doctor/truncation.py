"""How many texts are cut, and how much of them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetricks.doctor.finding import Finding, look, ok
from finetricks.lengths import token_counts
from finetricks.runner import about

if TYPE_CHECKING:
    from finetricks.doctor.case import Case

FEW = 0.02
"""The share of the texts that may be cut."""


def check_truncation(case: Case) -> Iterator[Finding]:
    length = case.task.max_length
    counts = {split: np.array(token_counts(part)) for split, part in case.task.splits.items()}
    train = counts["train"]
    cut = {split: _cut(split, of_split, length) for split, of_split in counts.items() if (of_split > length).any()}
    told = f"half of the texts of train have up to {int(np.median(train))} tokens, the longest has {train.max()}"
    if not cut:
        yield ok(f"no text is longer than max_length, {length} tokens: {told}")
        return
    many = f"longer than max_length, {length} tokens: {'; '.join(cut.values())}; {told}"
    if keeping := _keeping(case):
        yield ok(f"{many}. What is kept of them is up to {', '.join(keeping)}")
    elif max(float((of_split > length).mean()) for of_split in counts.values()) <= FEW:
        yield ok(many)
    else:
        yield look(
            f"{many}. Their ends are never seen",
            "raise training.max_length, if the model can see more; or keep other parts: head_tail, hierarchical",
        )


def _keeping(case: Case) -> tuple[str, ...]:
    """The tricks that see to it that no text is longer than the model takes, if there are any."""
    recipe, stack = case.recipe, case.recipe.stack()
    train = stack.data(case.task.splits["train"], "train", recipe.streams.data, **about(recipe, case.task))
    bounded = stack.bounds_length or max(token_counts(train)) <= case.task.max_length
    return stack.implementing("data") if bounded else ()


def _cut(split: str, counts: NDArray[Any], length: int) -> str:
    cut = counts > length
    lost = (counts[cut] - length).sum()
    texts = f"{cut.sum()} of {len(counts)} texts of {split} ({cut.mean():.0%})"
    return f"{texts}, which lose {lost / counts.sum():.0%} of all tokens"
