"""The design that searches: Optuna proposes configurations, and is told their means over the seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from finetricks.errors import InputError
from finetricks.settings import MOST_SEED
from finetricks.stack import Named, conflicts
from finetricks_tuning.configurations import MOST, Configuration, LeftOut
from finetricks_tuning.contrasts import Contrast, Levels
from finetricks_tuning.designs.base import Design, Mistake, combinations_of
from finetricks_tuning.factors import Factor, Level, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from finetricks_tuning.strategies.base import Results

TRIES = 50
"""Proposals for each configuration that is wanted; as many at random follow where those were known or cannot be run."""

DIGITS = 4  # significant ones of a searched value: more say nothing, and make names long


class Search(Design):
    """The baseline, and others that Optuna's TPE proposes from the means of those before, over subsets and values.

    Combinations that cannot be run, and those that were tried, are passed over.

    Source: Bergstra et al. 2011, NeurIPS, Algorithms for Hyper-Parameter Optimization; Watanabe 2023, arXiv 2304.11127.
    """

    name: ClassVar[str] = "search"
    estimand: ClassVar[str] = "each configuration against the baseline"
    adaptive: ClassVar[bool] = True

    configurations: int = Field(ge=2, le=MOST, description="How many to run, the baseline among them.")
    at_once: int = Field(
        default=4, ge=1, le=MOST, description="How many are proposed before results are looked at again."
    )
    startup: int = Field(default=10, ge=0, description="So many are drawn at random before results guide the search.")
    seed: int = Field(
        default=0, ge=0, le=MOST_SEED - MOST, description="Draws the proposals; the runs' own seeds are others."
    )

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        there = math.inf if any(level.ranges for f in factors for level in f.levels) else combinations_of(factors)
        if self.configurations > there:
            place = ("design", self.name, "configurations")
            yield place, f"these factors have {there} combinations, got {self.configurations}"

    def combinations(self, factors: Sequence[Factor]) -> Iterator[Configuration]:
        yield Configuration(tuple((factor, factor.off) for factor in factors))

    def choose(
        self, factors: Sequence[Factor], base: Sequence[Named]
    ) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
        (baseline,) = self.combinations(factors)
        more = self._proposed([baseline], {}, base, maximize=True)
        if not more:
            raise InputError("no combination of the factors beside the baseline can be run")
        return (baseline, *more), ()

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return []

    def more(
        self, results: Results, tried: Sequence[Configuration], base: Sequence[Named]
    ) -> tuple[Configuration, ...]:
        return self._proposed(tried, means_of(results), base, maximize=results.greater_is_better)

    def winner(self, results: Results) -> str | None:
        known = {name: mean for name, mean in means_of(results).items() if mean is not None}
        sign = 1 if results.greater_is_better else -1
        return max(known, key=lambda name: sign * known[name]) if known else None

    def _proposed(
        self,
        tried: Sequence[Configuration],
        means: Mapping[str, float | None],
        base: Sequence[Named],
        *,
        maximize: bool,
    ) -> tuple[Configuration, ...]:
        import optuna

        wanted = min(self.at_once, self.configurations - len(tried))
        if wanted <= 0:
            return ()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.seed + len(tried)  # of its own: the sampler's state is not kept between proposals
        study = optuna.create_study(
            direction="maximize" if maximize else "minimize",
            # each parameter by itself: values of levels that are off are missing, and there are few trials
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup, multivariate=False),
        )
        study.add_trials([trial_of(configuration, means.get(configuration.name)) for configuration in tried])
        factors = [factor for factor, _ in tried[0].chosen]
        known, found = {configuration.name for configuration in tried}, []
        for attempt in range(2 * TRIES * wanted):
            if attempt == TRIES * wanted:
                study.sampler = optuna.samplers.RandomSampler(seed=seed)
            configuration = _proposal(study.ask(), factors)  # one that is passed over stays open: TPE keeps off it
            if configuration.name in known or conflicts((*base, *configuration.tricks)):
                continue
            known.add(configuration.name)
            found.append(configuration)
            if len(found) == wanted:
                break
        return tuple(found)


def means_of(results: Results) -> dict[str, float | None]:
    """Of each configuration over its seeds; `None` for one that lost a cell."""
    values: dict[str, list[float]] = {}
    for (name, _), value in results.values.items():
        values.setdefault(name, []).append(value)
    return {name: sum(of) / len(of) for name, of in values.items()} | {name: None for name, _ in results.lost}


def trial_of(configuration: Configuration, mean: float | None, notes: Mapping[str, Any] | None = None) -> FrozenTrial:
    """A configuration as a trial of Optuna's: complete with its mean, or pruned where it lost a cell.

    Its parameters are a choice of level for each factor that is off or on, and the values of what was searched.
    """
    import optuna

    parameters: dict[str, Any] = {}
    space: dict[str, BaseDistribution] = {}
    for factor, level in configuration.chosen:
        if (setting := _range_of(factor)) is None:
            parameters[factor.name] = level.of or level.label
            space[factor.name] = optuna.distributions.CategoricalDistribution(_options(factor))
        else:
            value = level.settings[factor.name]
            if setting.low <= value <= setting.high:  # the recipe's own need not
                parameters[factor.name] = value
                space[factor.name] = _distribution(setting)
        if level.tricks and level.searched:
            template = next(known for known in factor.levels if known.label == level.of)
            parameters |= {f"{level.of}.{key}": value for key, value in level.searched.items()}
            space |= {f"{level.of}.{key}": _distribution(of) for key, of in template.ranges.items()}
    state = optuna.trial.TrialState.PRUNED if mean is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state, value=mean, params=parameters, distributions=space, user_attrs=dict(notes or {})
    )


def _proposal(trial: Trial, factors: Sequence[Factor]) -> Configuration:
    return Configuration(tuple((factor, _level(trial, factor)) for factor in factors))


def _level(trial: Trial, factor: Factor) -> Level:
    if (setting := _range_of(factor)) is not None:
        return factor.levels[0].at({factor.name: _drawn(trial, factor.name, setting)})
    label = trial.suggest_categorical(factor.name, _options(factor))
    level = next(level for level in (factor.off, *factor.levels) if level.label == label)
    if not level.ranges:
        return level
    return level.at({key: _drawn(trial, f"{label}.{key}", of) for key, of in level.ranges.items()})


def _range_of(factor: Factor) -> Range | None:
    """The range of a setting, which has a value in every configuration; `None` for a factor that is off or on."""
    return None if factor.trick_names else factor.levels[0].ranges.get(factor.name)


def _options(factor: Factor) -> tuple[str, ...]:
    return tuple(level.label for level in itertools.chain([factor.off], factor.levels))


def _distribution(of: Range) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if of.whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log)
    return FloatDistribution(of.low, of.high, log=of.log)


def _drawn(trial: Trial, name: str, of: Range) -> float:
    if of.whole:
        return trial.suggest_int(name, int(of.low), int(of.high), log=of.log)
    drawn = trial.suggest_float(name, of.low, of.high, log=of.log)
    return min(max(float(f"{drawn:.{DIGITS}g}"), of.low), of.high)
