"""Parts of the training data, drawn by `split_seed` alone: the share for validation, and a smaller training set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from finetricks.errors import DataError, Problem
from finetricks.streams import child


def draw_share(texts: Sequence[Hashable], strata: Sequence[Hashable] | None, share: float, seed: int) -> list[int]:
    """Draw about `share` of the rows; the rest is what stays for training.

    Rows of equal text are drawn together or not at all. With `strata` (the class of each row) every class gives the
    same share, and keeps at least one text for training: a class with a single text is not drawn from.

    Returns:
        The rows drawn, ascending.

    Raises:
        DataError: no row can be drawn. (Train is never left empty: its classes keep a text each.)
    """
    wanted = round(share * len(texts))
    groups: dict[Hashable, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text, []).append(row)
    members = list(groups.values())
    classes = None if strata is None else [strata[rows[0]] for rows in members]
    drawn: list[int] = []
    for group in _spread(classes, len(members), child(seed, "share"), keep_last=True):
        if len(drawn) + len(members[group]) <= wanted:
            drawn += members[group]
    if not drawn:
        raise DataError(
            Problem(
                "data.valid",
                f"a share of {share:g} of {len(texts)} rows ({len(members)} different texts) leaves valid without "
                "rows; give a larger share, more rows, or a file",
            )
        )
    return sorted(drawn)


def draw_rows(strata: Sequence[Hashable] | None, total: int, rows: int, seed: int) -> list[int]:
    """Draw `rows` of `total` rows, ascending; with `strata` of each class its share, and at least one row.

    What is drawn with fewer rows is part of what is drawn with more.

    Raises:
        DataError: there are fewer rows than asked for, or more classes than rows.
    """
    if rows > total:
        raise DataError(
            Problem("data.rows", f"{rows} asked for, but train has {total}; ask for fewer, or leave it out")
        )
    if strata is not None and rows < len(set(strata)):
        raise DataError(
            Problem("data.rows", f"{rows} is fewer than the {len(set(strata))} classes of train; ask for more")
        )
    return sorted(_spread(strata, total, child(seed, "rows"))[:rows])


def _spread(strata: Sequence[Hashable] | None, total: int, seed: int, *, keep_last: bool = False) -> list[int]:
    """A random order of `total` items in which every beginning holds the classes in their proportions.

    The i-th of the n items of a class stands at i/n of the way, so that each class is there from the start; with
    `keep_last` at (i + 1/2)/n, so that small classes come late, and the last item of each class is left out.
    """
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(total)
    by_class: dict[Hashable, list[int]] = {}
    for item in order.tolist():
        by_class.setdefault(None if strata is None else strata[item], []).append(item)
    offset = 0.5 if keep_last else 0.0
    places = [
        ((index + offset) / len(items), item)
        for items in by_class.values()
        for index, item in enumerate(items[:-1] if keep_last else items)
    ]
    # The sort is stable: items at one place stay in the random order of their classes' first items.
    return [item for _, item in sorted(places, key=lambda place: place[0])]
