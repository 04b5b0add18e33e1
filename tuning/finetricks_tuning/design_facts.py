"""What a design can and cannot see: correlations between its effects, and interactions that it takes for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetricks_tuning.contrasts import TINY, Contrast, Levels, level_matrix
from finetricks_tuning.designs import Design, Factorial
from finetricks_tuning.designs.one_at_a_time import Ablation, LeaveOneOut
from finetricks_tuning.designs.two_level import FractionalFactorial, TwoLevel

Aliases = Mapping[str, Mapping[str, float]]
"""By level and interaction (`a x b`): how much of the interaction the estimated effect of the level holds."""


@dataclass(frozen=True)
class Correlation:
    """Of two levels' columns over the configurations: 0 where their effects are estimated independently."""

    levels: tuple[str, str]
    correlation: float


@dataclass(frozen=True)
class DesignFacts:
    """A design as it is run, after what cannot be run was left out.

    Attributes:
        options: the options that the study gives it.
        estimand: what the effect of a level is an effect of.
        configurations: runs a seed.
        left_out: configurations of the design that cannot be run.
        resolution: of a fractional factorial.
        generators: of a fractional factorial: `d = -a x b`, in the signs of off (-1) and on (1).
        correlations: those that are not 0, between levels of different factors; the largest first.
        aliases: the weights that are not 0, of interactions of two. An interaction of a and b is half the difference
            between the effects of a where b is on and where b is off. Empty where a factor has several levels (an
            interaction is then more than one number), and for designs whose estimand is an effect at one setting.
        notes: what a reader must know of it, a sentence each.
    """

    name: str
    label: str
    options: Mapping[str, Any]
    estimand: str
    configurations: int
    left_out: int
    resolution: int | None
    generators: tuple[str, ...]
    correlations: tuple[Correlation, ...]
    aliases: Aliases
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `summary.json` holds under `design`."""
        return vars(self) | {
            "generators": list(self.generators),
            "correlations": [{"levels": list(c.levels), "correlation": c.correlation} for c in self.correlations],
            "aliases": {level: dict(aliases) for level, aliases in self.aliases.items()},
            "notes": list(self.notes),
        }


def facts_of(design: Design, levels: Mapping[str, Levels], left_out: int) -> DesignFacts:
    """The facts of a design.

    Args:
        levels: of the configurations that are run, by name, baseline first.
        left_out: how many configurations of the design cannot be run.
    """
    resolution, generators = _fraction(design, list(next(iter(levels.values()))))
    contrasts = design.contrasts(levels, levels)
    one_setting = isinstance(design, Ablation | LeaveOneOut)
    unsaid = design.adaptive or not design.varies
    correlations = () if one_setting or unsaid else _correlations(levels)
    aliases = {} if one_setting or unsaid or _has_several_levels(levels) else _aliases(contrasts, levels)
    notes = [] if unsaid else list(_not_seen(levels, contrasts))
    if design.adaptive:
        notes.append(
            "Configurations were chosen by the results of others, so there is no verdict on single tricks; the best "
            "is compared with the baseline on fresh seeds."
        )
    elif not design.varies:
        notes.append(
            "The best of several seeds was chosen on valid, and looks better there than it is: test, which chose "
            "nothing, says how good."
        )
    elif one_setting:
        notes.append(_ONE_SETTING[design.name])
    elif all(contrast.weights for contrast in contrasts):
        notes += _averaged(design, levels, left_out, correlations, aliases)
    return DesignFacts(
        name=design.name,
        label=design.label,
        options=design.options,
        estimand=design.estimand,
        configurations=len(levels),
        left_out=left_out,
        resolution=resolution,
        generators=generators,
        correlations=correlations,
        aliases=aliases,
        notes=tuple(notes),
    )


def alias_text(aliases: Mapping[str, float], most: int = 6) -> str:
    """`-0.33 a x b, +1 c x d`, the largest first; of many only `most`, and how many more."""
    ordered = sorted(aliases.items(), key=lambda item: -abs(item[1]))
    texts = [f"{weight:+.2g} {interaction}" for interaction, weight in ordered[:most]]
    more = [f"and {len(ordered) - most} more"] if len(ordered) > most else []
    return ", ".join([*texts, *more])


def _fraction(design: Design, factors: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    if not isinstance(design, FractionalFactorial):
        return None, ()
    found = design.fraction(len(factors))
    made = [
        f"{name} = {'' if len(of) % 2 else '-'}{' x '.join(factors[index] for index in of)}"
        for name, of in zip(factors, found.factors, strict=True)
        if len(of) > 1
    ]
    # A fraction of resolution 3 and its mirror have no word of three factors left.
    return max(found.resolution, 4) if design.fold_over else found.resolution, tuple(made)


def _correlations(levels: Mapping[str, Levels]) -> tuple[Correlation, ...]:
    names, matrix = level_matrix(levels)
    columns = matrix[:, 1:] - matrix[:, 1:].mean(axis=0)
    columns /= np.linalg.norm(columns, axis=0)
    found = [
        Correlation((names[i][1], names[j][1]), float(columns[:, i] @ columns[:, j]))
        for i, j in itertools.combinations(range(len(names)), 2)
        if names[i][0] != names[j][0]
    ]
    return tuple(sorted((c for c in found if abs(c.correlation) > TINY), key=lambda c: -abs(c.correlation)))


def _aliases(contrasts: Sequence[Contrast], levels: Mapping[str, Levels]) -> Aliases:
    names, matrix = level_matrix(levels)
    signs = 2 * matrix[:, 1:] - 1
    weights = np.array([[contrast.weights.get(name, 0.0) for name in levels] for contrast in contrasts])
    aliases: dict[str, dict[str, float]] = {contrast.name: {} for contrast in contrasts}
    for i, j in itertools.combinations(range(len(names)), 2):
        # Where a level's own column goes from -1 to 1 its contrast gives 2: half of this is in units of the effect.
        for contrast, weight in zip(contrasts, weights @ (signs[:, i] * signs[:, j]) / 2, strict=True):
            if abs(weight) > TINY:
                aliases[contrast.name][f"{names[i][1]} x {names[j][1]}"] = float(weight)
    return {level: found for level, found in aliases.items() if found}


def _has_several_levels(levels: Mapping[str, Levels]) -> bool:
    return any(len({of[factor] for of in levels.values()}) > 2 for factor in next(iter(levels.values())))


_ONE_SETTING = {
    Ablation.name: "Each level is seen beside the baseline alone: whether it helps or hurts others is not.",
    LeaveOneOut.name: "Each factor is seen beside all others: of two that do the same work, neither may look needed.",
}


def _not_seen(levels: Mapping[str, Levels], contrasts: Sequence[Contrast]) -> Iterator[str]:
    for factor, off in next(iter(levels.values())).items():
        if all(of[factor] == off for of in levels.values()):
            yield f"{factor} is on in no configuration that can be run: nothing is said of it."
    for contrast in contrasts:
        if not contrast.weights:
            yield f"There is no estimate for {contrast.name}: {contrast.note}."


def _averaged(
    design: Design,
    levels: Mapping[str, Levels],
    left_out: int,
    correlations: Sequence[Correlation],
    aliases: Aliases,
) -> Iterator[str]:
    """The notes on a design whose effects are averaged over the other factors."""
    cannot = f"{left_out} combination{'s' if left_out > 1 else ''} cannot be run"
    if correlations:
        one, other = correlations[0].levels
        yield (
            f"{f'{cannot}, and the' if left_out else 'The'} effects are not estimated independently: the levels {one} "
            f"and {other} correlate by {correlations[0].correlation:+.2f}, the most of all pairs."
        )
    elif left_out:
        yield f"{cannot}; the effects are still estimated independently."
    full = isinstance(design, Factorial) and design.configurations is None and not left_out
    if aliases:
        level = max(aliases, key=lambda name: max(map(abs, aliases[name].values())))
        yield (
            "Main effects are aliased with interactions of two: where tricks help or hurt one another, an effect may "
            f"be that (the most: {level} with {alias_text(aliases[level], 1)})."
        )
        if isinstance(design, TwoLevel) and not design.fold_over and not left_out:
            yield "`fold_over: true` frees them, in twice the configurations."
    elif full or not _has_several_levels(levels):
        yield "Main effects are free of interactions of two."
    else:
        yield "A factor has several levels: what interactions of two do to the main effects is not computed."
