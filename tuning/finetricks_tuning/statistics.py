"""What the metrics of a study say: effects with intervals, from one linear model over all its cells.

    metric(configuration, seed) = mean of the configuration + seed (a block) + residual

The residual is what configurations and seeds do not explain additively, pooled over the whole study; with two
configurations this is the paired t test. An effect is a contrast of configuration means. Cells may be missing: the
model is fitted by least squares to what is there. (Montgomery, Design and Analysis of Experiments, section 4.1: the
randomised complete block design and its incomplete form.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

Weights = Mapping[str, float]
"""A contrast: the weight of each configuration's mean; the weights sum to 0."""

Vector = npt.NDArray[np.float64]

NO_NOISE = 1e-9  # of the metrics' size: a residual below this is rounding


@dataclass(frozen=True)
class Estimate:
    """A contrast as the data give it. Without a residual to judge it by, all but `value` is `None`."""

    value: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


class BlockModel:
    """The least-squares fit to the cells of a study.

    Args:
        cells: the metric by (configuration, seed); finite values.
        alpha: intervals hold the true value with probability 1 - alpha, each on its own.

    Attributes:
        deviation: standard deviation of the residual; `None` without degrees of freedom or without any noise.
        freedom: degrees of freedom of the residual.
    """

    def __init__(self, cells: Mapping[tuple[str, int], float], alpha: float = 0.05) -> None:
        self.alpha = alpha
        configurations = {name: index for index, name in enumerate(dict.fromkeys(name for name, _ in cells))}
        seeds = {s: index for index, s in enumerate(dict.fromkeys(seed for _, seed in cells), len(configurations))}
        rows = np.array([configurations[name] for name, _ in cells], dtype=int)
        columns = np.array([seeds[seed] for _, seed in cells], dtype=int)
        values = np.array(list(cells.values()), dtype=float)
        nodes = len(configurations) + len(seeds)
        # With the blocks' signs turned the normal equations are the Laplacian of the graph of configurations and seeds
        # with an edge for each cell: sparse, and singular once for each of its components.
        edges = coo_array((np.ones(len(values)), (rows, columns)), shape=(nodes, nodes))
        graph = (edges + edges.T).tocsr()
        self._component: npt.NDArray[np.integer]
        components, self._component = connected_components(graph, directed=False) if nodes else (0, columns)
        self._configurations = configurations
        self._free = np.setdiff1d(np.arange(nodes), np.unique(self._component, return_index=True)[1])
        matrix = (diags_array(graph.sum(axis=1)) - graph).tocsc()
        self._solve = splu(matrix[self._free][:, self._free]).solve if nodes else None
        sums = np.bincount(rows, values, nodes) - np.bincount(columns, values, nodes)
        self._coefficients = self._solved(sums.astype(np.float64))
        residual = values - self._coefficients[rows] + self._coefficients[columns]
        self.freedom = len(values) - nodes + components
        deviation = math.sqrt(float(residual @ residual) / self.freedom) if self.freedom else 0.0
        noisy = deviation > NO_NOISE * max(float(np.abs(values).max(initial=0.0)), 1e-300)
        self.deviation = deviation if noisy else None

    def _solved(self, right: Vector) -> Vector:
        """The solution that is 0 at the first node of each component."""
        solution = np.zeros_like(right)
        if self._solve is not None:
            solution[self._free] = self._solve(right[self._free])
        return solution

    def contrast(self, weights: Weights) -> Estimate | None:
        """The estimate of a contrast; `None` when the cells that are there do not determine it."""
        if not set(weights) <= set(self._configurations):
            return None
        c = np.zeros(len(self._component))
        for name, weight in weights.items():
            c[self._configurations[name]] = weight
        if not np.allclose(np.bincount(self._component, c), 0, atol=1e-8):  # only within a component
            return None
        value = float(c @ self._coefficients)
        if self.deviation is None:
            return Estimate(value)
        error = self.deviation * math.sqrt(float(c @ self._solved(c)))
        reach = float(stats.t.ppf(1 - self.alpha / 2, self.freedom)) * error
        p = float(2 * stats.t.sf(abs(value) / error, self.freedom))
        return Estimate(value, error, (value - reach, value + reach), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family-wise error rate. Source: Holm 1979, Scand. J. Statist. 6, 65-70."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


HOLM, BENJAMINI_HOCHBERG = "holm", "benjamini_hochberg"


def correct(p_values: Sequence[float], method: str) -> list[float]:
    """Adjusted p-values: `holm` keeps the family-wise error rate, `benjamini_hochberg` the rate of false discoveries.

    Source: Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57, 289-300.
    """
    if method == HOLM or not len(p_values):
        return holm(p_values)
    return [float(p) for p in stats.false_discovery_control(p_values, method="bh")]
