"""The uncertainty that comes of the validation examples, beside that of the seeds.

    contribution(seed, example) = mean + seed + example + residual

of each seed's and example's contribution to a contrast: seeds and examples are crossed, both stand for more of their
kind. The variance of the mean is that over seeds, as the linear model has it, and the examples' own component,
(MS_example - MS_residual) / (seeds examples), of the two-way table. It is never below the first. (Baayen, Davidson and
Bates 2008, J. Memory and Language 59, 390-412, for crossed random effects; Montgomery, Design and Analysis of
Experiments, section 13.2, for the components; Satterthwaite 1946, Biometrics Bulletin 2, for the degrees of freedom.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetricks.folder import RunFolder
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.example_values import Values, example_values
from finetricks_tuning.manifest import PlannedCell
from finetricks_tuning.statistics import Weights

UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
"""What reading a file of predictions may come to that is not as `write_predictions` wrote it."""


@dataclass(frozen=True)
class Examples:
    """What each validation example contributes to the metric of each cell.

    Attributes:
        values: by (configuration, seed): [examples].
        problem: why there are none; empty where there are.
    """

    values: Mapping[tuple[str, int], Values] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def read(cls, folder: Path, cells: Iterable[PlannedCell], metric: str) -> Examples:
        """Of the predictions that the cells of the study in `folder` kept."""
        values: dict[tuple[str, int], Values] = {}
        known: tuple[int, ...] | None = None
        for cell in cells:
            path = RunFolder(cell_folder(folder, cell.key)).predictions("valid")
            try:
                ids, values[cell.configuration, cell.seed] = example_values(path, metric)
            except UNREADABLE as error:
                told = "are not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
                return cls(problem=f"the predictions of {cell.configuration}, seed {cell.seed} {told}")
            if known is not None and ids != known:
                return cls(problem="the cells were not scored on the same examples")
            known = ids
        return cls(values)

    def with_data(self, weights: Weights, standard_error: float, freedom: float) -> tuple[float, float] | None:
        """The standard error of a contrast over seeds and examples, and its degrees of freedom.

        Args:
            standard_error: over seeds.
            freedom: its degrees of freedom.

        Returns:
            `None` where fewer than two seeds have all cells of the contrast, or there are fewer than two examples.
        """
        named = {seed for _, seed in self.values}
        seeds = [seed for seed in named if all((name, seed) in self.values for name in weights)]
        if len(seeds) < 2:
            return None
        table = np.stack([sum(w * self.values[name, seed] for name, w in weights.items()) for seed in seeds])
        count, examples = table.shape
        if examples < 2:
            return None
        by_seed, by_example = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
        cells = count * examples
        own = float(count * np.square(by_example - table.mean()).sum()) / (examples - 1) / cells
        residuals = float(np.square(table - by_seed - by_example + table.mean()).sum())
        rest_freedom = (count - 1) * (examples - 1)
        rest = residuals / rest_freedom / cells
        if own <= rest:
            return standard_error, freedom
        variance = standard_error**2 + own - rest
        terms = standard_error**4 / freedom + own**2 / (examples - 1) + rest**2 / rest_freedom
        return math.sqrt(variance), variance**2 / terms
