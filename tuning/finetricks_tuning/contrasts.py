"""The effect of a level as a contrast: weights on the means of the configurations that were run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from finetricks_tuning.statistics import Weights

Levels = Mapping[str, str]
"""The label of each factor's level: a configuration in canonical form."""

Pair = tuple[str, str]
"""Two configurations that differ in one level: with it, and with that factor off."""

Matrix = npt.NDArray[np.float64]
TINY = 1e-9  # a weight below this is rounding


@dataclass(frozen=True)
class Contrast:
    """What a row of the results is computed from.

    Attributes:
        name: the level, or the configuration.
        estimand: what the contrast is an estimate of.
        weights: of configurations that have finished cells; none when there is nothing to compare.
        treated: the configurations with the level, whether or not they have finished cells.
        untreated: those that they are compared with.
        pairs: each treated configuration beside its twin, which differs in the level alone, where one is planned.
        note: what is missing.
    """

    name: str
    estimand: str
    weights: Weights = field(default_factory=dict)
    treated: tuple[str, ...] = ()
    untreated: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    note: str = ""


ContrastsOf = Callable[[Mapping[str, Levels], Collection[str]], list[Contrast]]
"""From the levels of all configurations, baseline first, and those that have finished cells, to a contrast a level."""


def paired(levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
    """Each level against its factor off, over all settings of the others that are planned with both.

    In an ablation that is the level added to the baseline, in a factorial its main effect.
    """
    baseline = next(iter(levels))

    def estimand(pairs: Sequence[Pair]) -> str:
        if [twin for _, twin in pairs] == [baseline]:
            return "added to the baseline"
        return f"averaged over {len(pairs)} settings of the other factors"

    rows = [(label, _pairs(levels, factor, label)) for factor, label in level_names(levels)]
    return [_of_pairs(label, estimand(pairs), pairs, there) for label, pairs in rows]


def contributed(levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
    """The full set, with every factor on, against the full set without each."""
    off = next(iter(levels.values()))
    full = next(name for name, of in levels.items() if all(of[factor] != off[factor] for factor in off))
    return [
        _of_pairs(
            label,
            "contribution to the full set",
            [pair for pair in _pairs(levels, factor, label) if pair[0] == full],
            there,
        )
        for factor, label in level_names(levels)
    ]


def averaged(levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
    """The main effect of each level: its coefficient in the least-squares fit of all main effects to the means."""
    run = [name for name in levels if name in there]
    names, matrix = level_matrix(levels)
    matrix = matrix[[name in there for name in levels]]
    inverse = np.linalg.pinv(matrix)
    identity = np.eye(1 + len(names))
    missing = len(levels) - len(run)
    note = f"{missing} of {len(levels)} configurations have no finished cell and are not in it" if missing else ""
    contrasts = []
    for column, (factor, label) in enumerate(names, start=1):
        estimand = f"averaged over the other factors, on and off ({len(run)} configurations)"
        treated = tuple(name for name, of in levels.items() if of[factor] == label)
        sides = Contrast(
            label,
            estimand,
            treated=treated,
            untreated=tuple(name for name in levels if name not in treated),
            pairs=tuple(_pairs(levels, factor, label)),
        )
        if not set(treated) & set(run):
            contrasts.append(replace(sides, note="no cell of it finished"))
        elif not np.allclose(inverse[column] @ matrix, identity[column], atol=1e-8):
            told = "the configurations that were run do not tell it apart from the other factors"
            contrasts.append(replace(sides, note=_joined(note, told)))
        else:
            weights = {name: float(w) for name, w in zip(run, inverse[column], strict=True) if abs(w) > TINY}
            contrasts.append(replace(sides, weights=weights, note=note))
    return contrasts


def against_baseline(levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
    """Each configuration against the baseline."""
    baseline, *others = levels
    return [_of_pairs(name, "against the baseline", [(name, baseline)], there) for name in others]


def interactions(levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
    """The interaction of each two factors that are off or on, where the configurations that were run determine it.

    It is half of what the other's being on adds to the effect of one; the fit is of all main effects and all
    interactions of two, so that none is taken for another. None where a factor has several levels.
    """
    names, matrix = level_matrix(levels)
    pairs = list(itertools.combinations(range(len(names)), 2))
    run = [name for name in levels if name in there]
    if len({factor for factor, _ in names}) < len(names) or len(run) <= len(names) + 1:
        return []
    signs = 2 * matrix[[name in there for name in levels], 1:] - 1
    matrix = np.column_stack([np.ones(len(run)), signs, *(signs[:, i] * signs[:, j] for i, j in pairs)])
    inverse = np.linalg.pinv(matrix)
    identity = np.eye(matrix.shape[1])
    contrasts = []
    for column, (i, j) in enumerate(pairs, start=1 + len(names)):
        if np.allclose(inverse[column] @ matrix, identity[column], atol=1e-8):
            one, other = names[i][1], names[j][1]
            weights = {name: 2 * float(w) for name, w in zip(run, inverse[column], strict=True) if abs(w) > TINY}
            treated = tuple(name for name, of in levels.items() if one in of.values() and other in of.values())
            estimand = f"half of what {other} adds to the effect of {one}, averaged over the other factors"
            untreated = tuple(name for name in levels if name not in treated)
            contrasts.append(Contrast(f"{one} x {other}", estimand, weights, treated, untreated))
    return contrasts


def level_names(levels: Mapping[str, Levels]) -> list[tuple[str, str]]:
    """Each level beside off that any configuration has: factor and label."""
    off = next(iter(levels.values()))
    labels = {factor: dict.fromkeys(of[factor] for of in levels.values()) for factor in off}
    return [(factor, label) for factor in off for label in labels[factor] if label != off[factor]]


def level_matrix(levels: Mapping[str, Levels]) -> tuple[list[tuple[str, str]], Matrix]:
    """The names of the levels, and the model of their main effects, configurations x (1 + levels): a 1, then 0 or 1."""
    names = level_names(levels)
    rows = [[1.0, *(float(of[factor] == label) for factor, label in names)] for of in levels.values()]
    return names, np.array(rows)


def _pairs(levels: Mapping[str, Levels], factor: str, label: str) -> list[Pair]:
    off = next(iter(levels.values()))[factor]
    by_levels = {tuple(of.items()): name for name, of in levels.items()}
    return [
        (name, twin)
        for name, of in levels.items()
        if of[factor] == label and (twin := by_levels.get(tuple({**of, factor: off}.items()))) is not None
    ]


def _of_pairs(name: str, estimand: str, pairs: Sequence[Pair], there: Collection[str]) -> Contrast:
    """The mean difference over the pairs of which both sides have finished cells."""
    run = [pair for pair in pairs if set(pair) <= set(there)]
    treated = tuple(with_it for with_it, _ in pairs)
    untreated = tuple(without for _, without in pairs)
    sides = Contrast(name, estimand, treated=treated, untreated=untreated, pairs=tuple(pairs))
    if not run:
        if not pairs:
            return replace(sides, note="never run beside its twin")
        return replace(
            sides, note="no cell of it finished" if not set(treated) & set(there) else "no cell without it finished"
        )
    note = ""
    if len(run) < len(pairs):
        note = f"{len(pairs) - len(run)} of {len(pairs)} settings have no finished cell and are not in it"
    weights = dict.fromkeys(_sides(run), 0.0)
    for with_it, without in run:
        weights[with_it] += 1 / len(run)
        weights[without] -= 1 / len(run)
    return replace(sides, weights=weights, note=note)


def _sides(pairs: Iterable[Pair]) -> list[str]:
    return [side for pair in pairs for side in pair]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
