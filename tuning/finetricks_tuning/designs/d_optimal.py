"""The runs that tell the effects of a linear model apart best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

STARTS = 10
RIDGE = 1e-6  # lets runs be compared that do not determine the model yet
GAIN = 1e-9  # below this an exchange is rounding


def d_optimal(candidates: Matrix, runs: int) -> list[int]:
    """Rows of `candidates` (candidates x parameters) that make det(X'X) large, the first row always among them.

    From a random start each row is exchanged for the one that raises the determinant most, until none does; of a few
    starts the best is taken. That finds a good design, not surely the best, and always the same one. (The exchange
    algorithms of Atkinson, Donev and Tobias, Optimum Experimental Designs, chapter 12.)
    """
    draw = np.random.default_rng(0)
    starts = [[0, *(1 + draw.choice(len(candidates) - 1, runs - 1, replace=False)).tolist()] for _ in range(STARTS)]
    found = [_exchanged(candidates, start) for start in starts]
    best = max(found, key=lambda rows: _log_determinant(candidates[rows]))
    return sorted(best)


def _exchanged(candidates: Matrix, start: list[int]) -> list[int]:
    chosen = list(start)
    changed = True
    while changed:
        changed = False
        for place in range(1, len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            # det(M + xx') = det(M) (1 + x' M^-1 x)
            inverse = np.linalg.inv(_information(candidates[rest]))
            factor = 1 + ((candidates @ inverse) * candidates).sum(axis=1)
            before = factor[chosen[place]]
            factor[rest] = 0  # a run stands once
            best = int(np.argmax(factor))
            if factor[best] > before * (1 + GAIN):
                chosen[place], changed = best, True
    return chosen


def _information(rows: Matrix) -> Matrix:
    return rows.T @ rows + RIDGE * np.eye(rows.shape[1])


def _log_determinant(rows: Matrix) -> float:
    return float(np.linalg.slogdet(_information(rows))[1])
