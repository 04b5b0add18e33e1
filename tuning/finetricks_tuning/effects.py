"""From the finished cells of a study to a row for each level: effect, interval, verdict, and what was estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetricks_tuning.contrasts import Contrast, ContrastsOf, Levels, against_baseline, paired
from finetricks_tuning.statistics import BlockModel, Weights, holm

HELPS, HURTS, UNDECIDED, NO_VERDICT = "helps", "hurts", "undecided", "no verdict"


@dataclass(frozen=True)
class Effect:
    """The effect of one level, as a difference of the metric.

    Attributes:
        name: the level, or the configuration.
        estimand: what the estimate is an estimate of.
        estimate: mean difference; positive is more of the metric, whether or not more is better.
        ci: interval at 1 - alpha, for this effect on its own, over seeds.
        p_adjusted: by Holm, over the family of rows that it stands in; the verdict rests on it.
        seeds: seeds in which both sides finished.
        differences: by seed, the mean paired difference.
        lost: cells with the level that failed or diverged, and so are not in the estimate.
        note: why there is no verdict, or what a reader must know about it.
    """

    name: str
    estimand: str
    estimate: float | None = None
    standard_error: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    seeds: int = 0
    differences: Mapping[int, float] | None = None
    lost: int = 0
    verdict: str = NO_VERDICT
    note: str = ""


@dataclass(frozen=True)
class Contest:
    """What effects are computed from.

    Attributes:
        levels: the levels of each configuration, by its name, baseline first.
        values: the metric of each finished cell, by (configuration, seed).
        lost: by configuration, how many cells failed or diverged.
        greater_is_better: of the metric.
        contrasts: the design's: what the effect of a level is computed from.
    """

    levels: Mapping[str, Levels]
    values: Mapping[tuple[str, int], float]
    lost: Mapping[str, int]
    greater_is_better: bool
    alpha: float
    contrasts: ContrastsOf = paired


def level_effects(contest: Contest) -> list[Effect]:
    """The effect of each level of each factor, as the design estimates it."""
    return _judged(contest, contest.contrasts)


def configuration_effects(contest: Contest) -> list[Effect]:
    """The difference of each configuration to the baseline."""
    return _judged(contest, against_baseline)


def _judged(contest: Contest, contrasts_of: ContrastsOf) -> list[Effect]:
    model = BlockModel(contest.values, contest.alpha)
    there = {configuration for configuration, _ in contest.values}
    effects = [_effect(contest, model, contrast) for contrast in contrasts_of(contest.levels, there)]
    tested = [index for index, effect in enumerate(effects) if effect.p is not None]
    adjusted = holm([effects[index].p or 0.0 for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        effects[index] = _verdict(contest, effects[index], p)
    return effects


def _effect(contest: Contest, model: BlockModel, contrast: Contrast) -> Effect:
    lost = sum(contest.lost.get(name, 0) for name in contrast.treated)
    nothing = Effect(contrast.name, contrast.estimand, lost=lost, note=contrast.note)
    if not contrast.weights:
        return nothing
    notes = [contrast.note] if contrast.note else []
    if lost:
        notes.append(f"{lost} failed or diverged {'cell is' if lost == 1 else 'cells are'} not in the estimate")
    estimate = model.contrast(contrast.weights)
    if estimate is None:
        return replace(nothing, note="; ".join([*notes, "the finished cells do not determine it"]))
    if model.deviation is None:
        notes.append(_why_no_interval(contest, model))
    differences = _differences(contest.values, contrast.weights)
    return replace(
        nothing,
        estimate=estimate.value,
        standard_error=estimate.standard_error,
        ci=estimate.interval,
        p=estimate.p,
        seeds=len(differences),
        differences=differences,
        note="; ".join(notes),
    )


def _why_no_interval(contest: Contest, model: BlockModel) -> str:
    if len({seed for _, seed in contest.values}) == 1:
        return "one seed gives no interval"
    if model.freedom == 0:
        return "too few finished cells for an interval"
    return "the differences do not vary at all from seed to seed: nothing to judge chance by"


def _differences(values: Mapping[tuple[str, int], float], weights: Weights) -> dict[int, float]:
    """By seed, the contrast of that seed's cells; only seeds in which every cell of it finished."""
    seeds = sorted({seed for _, seed in values})
    whole = [seed for seed in seeds if all((name, seed) in values for name in weights)]
    return {seed: sum(weight * values[name, seed] for name, weight in weights.items()) for seed in whole}


def _verdict(contest: Contest, effect: Effect, p_adjusted: float) -> Effect:
    better = (effect.estimate or 0.0) > 0 if contest.greater_is_better else (effect.estimate or 0.0) < 0
    verdict = UNDECIDED if p_adjusted > contest.alpha else HELPS if better else HURTS
    note = effect.note
    if verdict == HELPS and effect.lost:
        # What is estimated from the cells that survived flatters a level that kills some of them.
        verdict, note = UNDECIDED, f"{note}, so it is not said to help"
    return replace(effect, p_adjusted=p_adjusted, verdict=verdict, note=note)
