"""Designs of factors that are off or on, in few runs. Their matrices come from pyDOE3."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from finetricks_tuning.configurations import MOST, Configuration
from finetricks_tuning.contrasts import Contrast, Levels, averaged
from finetricks_tuning.designs.base import Design, Mistake, several_levels
from finetricks_tuning.designs.fraction import Fraction, fraction
from finetricks_tuning.factors import Factor

Signs = npt.NDArray[np.int_]
"""A design matrix, runs x factors: 1 where a factor is on, -1 where it is off."""


class TwoLevel(Design):
    """Base of the designs whose main effects are estimated by least squares over a matrix of signs."""

    estimand: ClassVar[str] = "averaged over the other factors on and off"

    fold_over: bool = Field(
        default=False,
        description="Run the mirror of each configuration too: frees main effects of interactions of two.",
    )

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        return several_levels(self.name, factors)

    @abstractmethod
    def signs(self, factors: int) -> Signs:
        """The design matrix, with a row of -1: the baseline."""

    def combinations(self, factors: Sequence[Factor]) -> list[Configuration]:
        signs = self.signs(len(factors))
        rows = sorted({tuple(row) for row in signs.tolist()}, key=lambda row: (max(row) > 0, [-sign for sign in row]))
        return [
            Configuration(tuple((f, f.levels[0] if sign > 0 else f.off) for f, sign in zip(factors, row, strict=True)))
            for row in rows
        ]

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return averaged(levels, there)


class PlackettBurman(TwoLevel):
    """Main effects of k factors in little more than k runs.

    Source: Plackett and Burman 1946, Biometrika 33, 305-325.
    """

    name: ClassVar[str] = "plackett_burman"

    def signs(self, factors: int) -> Signs:
        import pyDOE3

        # One of the library's runs is all on: with the signs turned it is the baseline.
        signs = _integers(-pyDOE3.pbdesign(plackett_burman_runs(factors) - 1)[:, :factors])
        return _folded(signs) if self.fold_over else signs


class FractionalFactorial(TwoLevel):
    """A regular fraction of all combinations, of a stated resolution."""

    name: ClassVar[str] = "fractional_factorial"

    resolution: int = Field(
        default=4,
        ge=3,
        description="3: main effects are aliased with interactions of two; 4: not; 5: nor are those with one another.",
    )

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        yield from super().mistakes(factors)
        try:
            self.fraction(len(factors))
        except ValueError as error:
            yield ("design", self.name, "resolution"), f"{error}, got {self.resolution}"
        if self.fold_over and self.resolution > 3:
            yield (
                ("design", self.name, "fold_over"),
                f"frees main effects of interactions of two, and at resolution {self.resolution} they are free "
                "already: leave it out, or give resolution 3",
            )

    def fraction(self, factors: int) -> Fraction:
        """The fraction before it is folded over."""
        return fraction(factors, self.resolution, MOST)

    def signs(self, factors: int) -> Signs:
        import pyDOE3

        signs = _integers(pyDOE3.fracfact(generators(self.fraction(factors))))
        return _folded(signs) if self.fold_over else signs


def generators(of: Fraction) -> str:
    """The factors as products of basic ones, as pyDOE3 reads them: `a b c -ab -ac`.

    Products of an even number get a minus, so that a run with all basic factors off has all others off too.
    """
    letters = ["".join(string.ascii_lowercase[index] for index in factor) for factor in of.factors]
    return " ".join(word if len(word) % 2 else f"-{word}" for word in letters)


def plackett_burman_runs(factors: int) -> int:
    """The fewest runs for these factors that the library has: 2^e, 12 2^e or 20 2^e, and more than factors."""
    runs = 4 * (factors // 4 + 1)
    while not any(runs % unit == 0 and (runs // unit).bit_count() == 1 for unit in (1, 12, 20)):
        runs += 4
    return runs


def _folded(signs: Signs) -> Signs:
    """The runs and their mirrors. Source: Box and Wilson 1951, J. Royal Stat. Soc. B 13, 1-45."""
    return np.vstack([signs, -signs])


def _integers(matrix: npt.ArrayLike) -> Signs:
    return np.rint(matrix).astype(np.int_)
