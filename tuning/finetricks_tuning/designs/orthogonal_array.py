"""Orthogonal arrays: few runs for factors that have different numbers of levels. The arrays come from pyDOE3."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from finetricks_tuning.configurations import Configuration
from finetricks_tuning.contrasts import Contrast, Levels, averaged
from finetricks_tuning.designs.base import Design, Mistake
from finetricks_tuning.factors import Factor

Array = npt.NDArray[np.int_]
"""Runs x factors: the number of each factor's level, 0 for off."""


class OrthogonalArray(Design):
    """Main effects of factors with several levels: every two levels of two factors meet equally often.

    Source: Taguchi 1987, System of Experimental Design; Hedayat, Sloane and Stufken 1999, Orthogonal Arrays, chapter 9.
    """

    name: ClassVar[str] = "orthogonal_array"
    estimand: ClassVar[str] = "averaged over the settings of the other factors"

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        if array_for(_sizes(factors)) is None:
            counts = ", ".join(
                f"{size} of {factor.name}" for size, factor in zip(_sizes(factors), factors, strict=True)
            )
            yield (
                ("design",),
                f"no orthogonal array holds these numbers of levels, off among them: {counts}; use factorial "
                "(`configurations: n` takes few of its combinations) or ablation",
            )

    def combinations(self, factors: Sequence[Factor]) -> list[Configuration]:
        array = array_for(_sizes(factors))
        assert array is not None  # `mistakes` has looked
        rows = dict.fromkeys(tuple(row) for row in array.tolist())  # without a factor in each column some are the same
        return [
            Configuration(tuple((f, (f.off, *f.levels)[level]) for f, level in zip(factors, row, strict=True)))
            for row in rows
        ]

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return averaged(levels, there)


def array_for(sizes: Sequence[int]) -> Array | None:
    """The array with the fewest runs that holds factors with so many levels, its first run all off; `None` if none.

    Of those with as many runs the one whose columns fit best is taken. A factor may stand in a column of more levels,
    whose surplus ones then repeat the factor's: the array stays orthogonal, though not balanced.
    """
    import pyDOE3

    found: list[tuple[int, int, Array]] = []
    for name in pyDOE3.list_orthogonal_arrays():
        array = np.asarray(pyDOE3.get_orthogonal_array(name), dtype=np.int_)
        there = [int(column.max()) + 1 for column in array.T]
        columns = _columns(there, sizes)
        if columns is None:
            continue
        chosen = array[:, columns]
        if _is_orthogonal(chosen):
            surplus = sum(there[column] for column in columns) - sum(sizes)
            found.append((len(array), surplus, chosen % np.array(sizes)))
    return min(found, key=lambda one: one[:2])[2] if found else None


def _columns(there: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """For each factor a column of its own with levels enough, and no more than needed; `None` where they do not fit."""
    free = sorted(range(len(there)), key=lambda column: there[column])
    chosen = [0] * len(sizes)
    for factor in sorted(range(len(sizes)), key=lambda factor: -sizes[factor]):
        column = next((column for column in free if there[column] >= sizes[factor]), None)
        if column is None:
            return None
        free.remove(column)
        chosen[factor] = column
    return chosen


def _is_orthogonal(array: Array) -> bool:
    """Whether every two levels of every two columns meet equally often. The library has an array where they do not."""
    for one, other in itertools.combinations(array.T, 2):
        counts = np.zeros((one.max() + 1, other.max() + 1), dtype=np.int_)
        np.add.at(counts, (one, other), 1)
        if counts.min() != counts.max():
            return False
    return True


def _sizes(factors: Sequence[Factor]) -> list[int]:
    return [1 + len(factor.levels) for factor in factors]
