"""From the finished cells of a study to a row for each level: effect, interval, verdict, and what was estimated."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scipy import stats

from finetricks_tuning.contrasts import Contrast, ContrastsOf, Levels, against_baseline, interactions, paired
from finetricks_tuning.power import seeds_needed
from finetricks_tuning.samples import Samples, samples_of
from finetricks_tuning.statistics import BlockModel, Estimate, Weights, correct

if TYPE_CHECKING:
    from finetricks_tuning.on_data import Examples

HELPS, HURTS, UNDECIDED, NO_VERDICT = "helps", "hurts", "undecided", "no verdict"
EQUIVALENT = "no difference that matters"


@dataclass(frozen=True)
class Effect:
    """The effect of one level, as a difference of the metric.

    Attributes:
        name: the level, or the configuration.
        estimand: what the estimate is an estimate of.
        estimate: mean difference; positive is more of the metric, whether or not more is better.
        ci: interval at 1 - alpha, for this effect on its own, over seeds.
        freedom: degrees of freedom of the standard error.
        p_adjusted: corrected over the family of rows that it stands in; the verdict rests on it.
        seeds: seeds in which both sides finished.
        differences: by seed, the paired difference.
        lost: cells with the level that failed or diverged while what they are compared with did not.
        lost_without: the same of the configurations that it is compared with.
        verdict: over seeds, on these validation examples.
        note: why there is no verdict, or what a reader must know about it.
        ci_data: interval at 1 - alpha over seeds and examples: for other examples of the same kind too.
        p_data_adjusted: as `p_adjusted`, over seeds and examples.
        verdict_on_data: the verdict over seeds and examples.
        seeds_needed: how many more seeds an undecided row would need, were its effect the one seen.
        samples: what tests and measures other than the linear model say of the differences.
    """

    name: str
    estimand: str
    estimate: float | None = None
    standard_error: float | None = None
    ci: tuple[float, float] | None = None
    freedom: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    seeds: int = 0
    differences: Mapping[int, float] | None = None
    lost: int = 0
    lost_without: int = 0
    verdict: str = NO_VERDICT
    note: str = ""
    standard_error_data: float | None = None
    ci_data: tuple[float, float] | None = None
    p_data: float | None = None
    p_data_adjusted: float | None = None
    verdict_on_data: str = NO_VERDICT
    seeds_needed: int | None = None
    samples: Samples | None = None

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass(frozen=True)
class Looked:
    """What a strategy that looks several times came to for a row.

    Attributes:
        p: adjusted for the family and for the looks; `None` where there was nothing to test.
        equivalent: whether a look found it within the region of practical equivalence.
    """

    p: float | None
    equivalent: bool


@dataclass(frozen=True)
class Contest:
    """What effects are computed from.

    Attributes:
        levels: the levels of each configuration, by its name, baseline first.
        values: the metric of each finished cell, by (configuration, seed).
        lost: the cells that failed or diverged, by (configuration, seed).
        greater_is_better: of the metric.
        contrasts: the design's: what the effect of a level is computed from.
        equivalence: half the width of the region of practical equivalence, in units of the metric.
        correction: for the family of rows: `holm` or `benjamini_hochberg`.
        looked: by row, what the looks of a strategy came to; empty where there was one look.
        selected: whether the better configurations got more seeds: no p-value confirms anything then.
        examples: what each validation example contributes; `None` for no interval over examples.
    """

    levels: Mapping[str, Levels]
    values: Mapping[tuple[str, int], float]
    lost: Collection[tuple[str, int]]
    greater_is_better: bool
    alpha: float
    contrasts: ContrastsOf = paired
    equivalence: float | None = None
    correction: str = "holm"
    looked: Mapping[str, Looked] = field(default_factory=dict)
    selected: bool = False
    examples: Examples | None = None


def level_effects(contest: Contest, *, samples: bool = False) -> list[Effect]:
    """The effect of each level of each factor, as the design estimates it.

    Args:
        samples: give the tests and measures beside the linear model too, which take their time.
    """
    rows = _judged(contest, contest.contrasts, contest.looked)
    if not samples:
        return rows
    there = {configuration for configuration, _ in contest.values}
    contrasts = contest.contrasts(contest.levels, there)
    return [replace(row, samples=_samples(contest, of, row)) for row, of in zip(rows, contrasts, strict=True)]


def interaction_effects(contest: Contest) -> list[Effect]:
    """The interaction of each two levels, where the design holds them; a family of their own."""
    return _judged(contest, interactions)


def configuration_effects(contest: Contest) -> list[Effect]:
    """The difference of each configuration to the baseline; a family of their own."""
    return _judged(contest, against_baseline)


def _judged(contest: Contest, contrasts_of: ContrastsOf, looked: Mapping[str, Looked] | None = None) -> list[Effect]:
    model = BlockModel(contest.values, contest.alpha)
    there = {configuration for configuration, _ in contest.values}
    effects = [_effect(contest, model, contrast) for contrast in contrasts_of(contest.levels, there)]
    if contest.selected:
        told = "the better configurations got more seeds, so no p-value holds"
        return [replace(effect, note=_joined(effect.note, told)) for effect in effects]
    family = sum(effect.p is not None for effect in effects)
    over_seeds = _adjusted([effect.p for effect in effects], contest.correction)
    on_data = _adjusted([effect.p_data for effect in effects], contest.correction)
    judged = []
    for effect, p, p_data in zip(effects, over_seeds, on_data, strict=True):
        seen = (looked or {}).get(effect.name) or Looked(p, _equivalent(contest, effect, family))
        found = _verdict(contest, replace(effect, p_adjusted=seen.p), equivalent=seen.equivalent)
        if found.verdict == UNDECIDED:
            found = replace(found, seeds_needed=_seeds_needed(contest, found, family))
        judged.append(_on_data(contest, found, p_data, family))
    return judged


def _adjusted(p_values: Sequence[float | None], correction: str) -> list[float | None]:
    known = iter(correct([p for p in p_values if p is not None], correction))
    return [None if p is None else next(known) for p in p_values]


def _effect(contest: Contest, model: BlockModel, contrast: Contrast) -> Effect:
    lost, without = _lost(contest, contrast)
    nothing = Effect(contrast.name, contrast.estimand, lost=lost, lost_without=without, note=contrast.note)
    if not contrast.weights:
        return nothing
    notes = [contrast.note] if contrast.note else []
    notes += lost_in_words(lost, without)
    estimate = model.contrast(contrast.weights)
    if estimate is None:
        return replace(nothing, note="; ".join([*notes, "the finished cells do not determine it"]))
    if model.deviation is None:
        notes.append(_why_no_interval(contest, model))
    differences = _differences(contest.values, contrast.weights)
    return replace(
        _with_examples(contest, contrast, estimate, model.freedom, nothing),
        estimate=estimate.value,
        standard_error=estimate.standard_error,
        ci=estimate.interval,
        freedom=model.freedom if estimate.standard_error is not None else None,
        p=estimate.p,
        seeds=len(differences),
        differences=differences,
        note="; ".join(notes),
    )


def _lost(contest: Contest, contrast: Contrast) -> tuple[int, int]:
    """How many cells with the level were lost, and how many without it: those that leave the two sides unlike.

    A cell that was lost together with its twin of the same seed leaves both sides alike. One without a planned twin
    does so where it holds another level that lost all of its cells: that level is on neither side then.
    """
    twins = dict([*contrast.pairs, *((without, with_it) for with_it, without in contrast.pairs)])
    treated, untreated = {*contrast.treated}, {*contrast.untreated}
    paired_off = [name for name, seed in contest.lost if name in twins and (twins[name], seed) not in contest.lost]
    single = [name for name, _ in contest.lost if name not in twins and name in treated | untreated]
    hopeless = _hopeless(contest, contrast) if single else set()
    counted = paired_off + [name for name in single if not hopeless & {*contest.levels[name].items()}]
    return sum(name in treated for name in counted), sum(name in untreated for name in counted)


def _hopeless(contest: Contest, contrast: Contrast) -> set[tuple[str, str]]:
    """The levels, by factor, that lost all of their cells, but for what the contrast is of."""
    there, lost = ({name for name, _ in cells} for cells in (contest.values, contest.lost))
    own = [{*contest.levels[name].items()} for name in contrast.treated]
    off = {*next(iter(contest.levels.values())).items()}
    levels = {level for of in contest.levels.values() for level in of.items()} - off
    holding = {level: {name for name, of in contest.levels.items() if level in of.items()} for level in levels}
    found = {level for level, names in holding.items() if names & lost and not names & there}
    return {level for level in found if not all(level in of for of in own)}


def _with_examples(contest: Contest, contrast: Contrast, estimate: Estimate, freedom: int, effect: Effect) -> Effect:
    if contest.examples is None or not estimate.standard_error:
        return effect
    found = contest.examples.with_data(contrast.weights, estimate.standard_error, freedom)
    if found is None:
        return effect
    error, freedom_of_both = found
    # Examples bring degrees of freedom too, and so a smaller quantile: that makes nothing surer than the seeds do.
    reach = max(
        float(stats.t.isf(contest.alpha / 2, freedom_of_both)) * error,
        float(stats.t.isf(contest.alpha / 2, freedom)) * estimate.standard_error,
    )
    return replace(
        effect,
        standard_error_data=error,
        ci_data=(estimate.value - reach, estimate.value + reach),
        p_data=max(float(2 * stats.t.sf(abs(estimate.value) / error, freedom_of_both)), estimate.p or 0.0),
    )


def _on_data(contest: Contest, effect: Effect, p_data: float | None, family: int) -> Effect:
    """The verdict over seeds and examples: that over seeds, where the examples leave it standing."""
    if p_data is None or effect.p_adjusted is None or not effect.ci_data or effect.estimate is None:
        return effect
    both = max(p_data, effect.p_adjusted)
    stands = both <= contest.alpha
    if effect.verdict == EQUIVALENT:
        stands = _equivalent(contest, replace(effect, standard_error=effect.standard_error_data), family)
    return replace(effect, p_data_adjusted=both, verdict_on_data=effect.verdict if stands else UNDECIDED)


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


def _samples(contest: Contest, contrast: Contrast, effect: Effect) -> Samples | None:
    """Of the differences, and of all runs with the level and without it; `None` for a single difference."""
    differences = effect.differences or {}
    if len(differences) < 2:
        return None
    values, weights = contest.values, contrast.weights
    with_it, without = (
        [values[name, seed] for name, weight in weights.items() if (weight > 0) == side for seed in differences]
        for side in (True, False)
    )
    return samples_of(
        list(differences.values()),
        with_it,
        without,
        greater_is_better=contest.greater_is_better,
        alpha=contest.alpha,
    )


def _equivalent(contest: Contest, effect: Effect, family: int) -> bool:
    """Two one-sided tests, each at alpha over the family. Source: Schuirmann 1987, J. Pharmacokin. Biopharm. 15."""
    if contest.equivalence is None or not effect.standard_error or not effect.freedom or effect.estimate is None:
        return False
    reach = float(stats.t.isf(contest.alpha / family, effect.freedom)) * effect.standard_error
    return abs(effect.estimate) + reach <= contest.equivalence


def _verdict(contest: Contest, effect: Effect, *, equivalent: bool) -> Effect:
    if effect.p_adjusted is None or effect.estimate is None:
        return effect
    better = effect.estimate > 0 if contest.greater_is_better else effect.estimate < 0
    verdict = UNDECIDED
    if equivalent:
        verdict = EQUIVALENT
    elif effect.p_adjusted <= contest.alpha:
        verdict = HELPS if better else HURTS
    return unflattered(replace(effect, verdict=verdict))


def unflattered(effect: Effect) -> Effect:
    """The effect without a verdict that rests on cells that were lost, with why.

    What is estimated from the cells that survived flatters the side that loses some of them.
    """
    told = {HELPS: "help", HURTS: "hurt", EQUIVALENT: "do no harm"}.get(effect.verdict)
    if told is None or not (
        (effect.lost and effect.verdict != HURTS) or (effect.lost_without and effect.verdict != HELPS)
    ):
        return effect
    return replace(effect, verdict=UNDECIDED, note=f"{effect.note}, so it is not said to {told}")


def lost_in_words(lost: int, without: int) -> list[str]:
    """How many cells with a level, and without it, were lost on one side alone."""
    notes = []
    if lost:
        notes.append(f"{lost} failed or diverged {'cell is' if lost == 1 else 'cells are'} not in the estimate")
    if without:
        notes.append(f"{without} {'cell' if without == 1 else 'cells'} without it failed or diverged")
    return notes


def _seeds_needed(contest: Contest, effect: Effect, family: int) -> int | None:
    """At the strictest level that Holm's correction may ask of it."""
    if not effect.standard_error or not effect.freedom or effect.estimate is None or effect.seeds < 1:
        return None
    level = contest.alpha / family
    return seeds_needed(effect.estimate, effect.standard_error, int(effect.freedom), effect.seeds, alpha=level)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
