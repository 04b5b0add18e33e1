"""Regular two-level fractions: which factors are products of which others, so that a resolution is kept.

A fraction of k factors in 2^r runs has r basic factors, which form a full factorial, and k - r generated ones, each a
product of basic ones. Here a factor is a number whose bits are the basic factors in its product. A word of the defining
relation is then a set of factors whose numbers add to 0 by exclusive or, and the resolution is the length of the
shortest word. (Montgomery, Design and Analysis of Experiments, sections 8.2 to 8.4.)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fraction:
    """A regular fraction.

    Attributes:
        factors: of each factor, the basic factors whose product it is, as indices; the basic factors come first.
        resolution: the length of the shortest word of the defining relation.
    """

    factors: tuple[tuple[int, ...], ...]
    resolution: int

    @property
    def runs(self) -> int:
        """A full factorial of the basic factors."""
        return 1 << sum(len(factor) == 1 for factor in self.factors)


def fraction(factors: int, resolution: int, most_runs: int) -> Fraction:
    """A small fraction of at least this resolution, and of a higher one where its runs allow that.

    The factors' numbers are taken in order, each the smallest that makes no word shorter than the resolution (a greedy
    code: Conway and Sloane 1986, IEEE Trans. Inf. Theory 32, 337-348). Among the fractions of one resolution it need
    not be the one with the fewest shortest words.

    Raises:
        ValueError: only the full factorial has such a resolution, or it takes too many runs.
    """
    if resolution > factors:
        number = f"{factors} factor{'s' if factors > 1 else ''}"
        highest = f"at most resolution {factors}" if factors > 2 else "no resolution"
        raise ValueError(f"a fraction of {number} has {highest}; factorial runs all their combinations")
    numbers = _numbers(factors, resolution, most_runs)
    if numbers is None:
        raise ValueError(f"resolution {resolution} of {factors} factors takes more than {most_runs} runs; lower it")
    basic = max(numbers).bit_length()
    while resolution < factors and (better := _numbers(factors, resolution + 1, 2**basic)):
        numbers, resolution = better, resolution + 1
    numbers.sort(key=lambda number: (number.bit_count() > 1, number))
    return Fraction(tuple(tuple(i for i in range(basic) if number >> i & 1) for number in numbers), resolution)


def _numbers(factors: int, resolution: int, most_runs: int) -> list[int] | None:
    """The smallest numbers of which fewer than `resolution` never add to 0; `None` when they need more runs."""
    numbers: list[int] = []
    # sums[j] is what j of the numbers add to: a further number must be none of these.
    sums: list[set[int]] = [{0}, *(set[int]() for _ in range(resolution - 2))]
    for number in range(1, most_runs):
        if any(number in some for some in sums):
            continue
        numbers.append(number)
        if len(numbers) == factors:
            return numbers if 2 ** number.bit_length() <= most_runs else None
        for j in range(resolution - 2, 0, -1):
            sums[j] |= {number ^ other for other in sums[j - 1]}
    return None
