"""Every cell of the design."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from finetricks_tuning.strategies.base import Results, Round, Strategy


class Full(Strategy):
    """Every cell, seed by seed over all configurations: after each seed the comparison is balanced."""

    name: ClassVar[str] = "full"

    def next_round(self, results: Results, seeds: Sequence[int]) -> Round:
        cells = [(name, seed) for seed in seeds for name in results.levels]
        return Round(tuple(cell for cell in cells if cell not in results.values and cell not in results.lost))
