"""From the finished cells of a study to a row for each level: effect, interval, verdict, and what was estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from finetricks_tuning.statistics import BlockModel, Weights, holm

HELPS, HURTS, UNDECIDED, NO_VERDICT = "helps", "hurts", "undecided", "no verdict"
Levels = Mapping[str, str]
"""The label of each factor's level: a configuration in canonical form."""


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
    """

    levels: Mapping[str, Levels]
    values: Mapping[tuple[str, int], float]
    lost: Mapping[str, int]
    greater_is_better: bool
    alpha: float

    @property
    def baseline(self) -> str:
        return next(iter(self.levels))


Pair = tuple[str, str]
"""Two configurations that differ in one level: with it, and with that factor off."""


def level_effects(contest: Contest) -> list[Effect]:
    """The effect of each level of each factor, over all combinations of the others that were run with and without it.

    In an ablation that is the level added to the baseline, in a factorial its main effect.
    """
    off = contest.levels[contest.baseline]
    by_levels = {tuple(levels.items()): name for name, levels in contest.levels.items()}
    rows: dict[str, tuple[str, list[Pair]]] = {}
    for factor in off:
        labels = dict.fromkeys(levels[factor] for levels in contest.levels.values())
        for label in (label for label in labels if label != off[factor]):
            pairs = [
                (name, twin)
                for name, levels in contest.levels.items()
                if levels[factor] == label
                and (twin := by_levels.get(tuple({**levels, factor: off[factor]}.items()))) is not None
            ]
            rows[label] = (_estimand(pairs, contest.baseline), pairs)
    return _judged(contest, rows)


def configuration_effects(contest: Contest) -> list[Effect]:
    """The difference of each configuration to the baseline."""
    others = [name for name in contest.levels if name != contest.baseline]
    return _judged(contest, {name: ("against the baseline", [(name, contest.baseline)]) for name in others})


def _estimand(pairs: Sequence[Pair], baseline: str) -> str:
    if [twin for _, twin in pairs] == [baseline]:
        return "added to the baseline"
    return f"averaged over {len(pairs)} settings of the other factors"


def _judged(contest: Contest, rows: Mapping[str, tuple[str, list[Pair]]]) -> list[Effect]:
    model = BlockModel(contest.values, contest.alpha)
    effects = [_effect(contest, model, name, estimand, pairs) for name, (estimand, pairs) in rows.items()]
    tested = [index for index, effect in enumerate(effects) if effect.p is not None]
    adjusted = holm([effects[index].p or 0.0 for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        effects[index] = _verdict(contest, effects[index], p)
    return effects


def _effect(contest: Contest, model: BlockModel, name: str, estimand: str, pairs: list[Pair]) -> Effect:
    there = {configuration for configuration, _ in contest.values}
    run = [pair for pair in pairs if set(pair) <= there]
    lost = sum(contest.lost.get(with_it, 0) for with_it, _ in pairs)
    if not run:
        return Effect(
            name, estimand, lost=lost, note="no cell of it finished" if pairs else "never run beside its twin"
        )
    notes = []
    if len(run) < len(pairs):
        notes.append(f"{len(pairs) - len(run)} of {len(pairs)} settings have no finished cell and are not in it")
    if lost:
        notes.append(f"{lost} failed or diverged {'cell is' if lost == 1 else 'cells are'} not in the estimate")
    differences = _differences(contest.values, run)
    estimate = model.contrast(_weights(run))
    if estimate is None:
        return Effect(name, estimand, lost=lost, note="; ".join([*notes, "the finished cells do not determine it"]))
    if model.deviation is None:
        notes.append(_why_no_interval(contest, model))
    return Effect(
        name,
        estimand,
        estimate.value,
        estimate.standard_error,
        estimate.interval,
        estimate.p,
        seeds=len(differences),
        differences=differences,
        lost=lost,
        note="; ".join(notes),
    )


def _why_no_interval(contest: Contest, model: BlockModel) -> str:
    if len({seed for _, seed in contest.values}) == 1:
        return "one seed gives no interval"
    if model.freedom == 0:
        return "too few finished cells for an interval"
    return "the differences do not vary at all from seed to seed: nothing to judge chance by"


def _weights(pairs: Sequence[Pair]) -> Weights:
    weights: dict[str, float] = {}
    for with_it, without in pairs:
        weights[with_it] = weights.get(with_it, 0.0) + 1 / len(pairs)
        weights[without] = weights.get(without, 0.0) - 1 / len(pairs)
    return weights


def _differences(values: Mapping[tuple[str, int], float], pairs: Sequence[Pair]) -> dict[int, float]:
    """By seed, the mean difference over the pairs; only seeds in which every pair is whole."""
    seeds = sorted({seed for _, seed in values})
    whole = [seed for seed in seeds if all((side, seed) in values for pair in pairs for side in pair)]
    return {seed: sum(values[a, seed] - values[b, seed] for a, b in pairs) / len(pairs) for seed in whole}


def _verdict(contest: Contest, effect: Effect, p_adjusted: float) -> Effect:
    better = (effect.estimate or 0.0) > 0 if contest.greater_is_better else (effect.estimate or 0.0) < 0
    verdict = UNDECIDED if p_adjusted > contest.alpha else HELPS if better else HURTS
    note = effect.note
    if verdict == HELPS and effect.lost:
        # What is estimated from the cells that survived flatters a level that kills some of them.
        verdict, note = UNDECIDED, f"{note}, so it is not said to help"
    return replace(effect, p_adjusted=p_adjusted, verdict=verdict, note=note)
