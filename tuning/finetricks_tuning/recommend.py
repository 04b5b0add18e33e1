"""What a study recommends, and what became of it on fresh seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from finetricks.stack import conflicts
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.effects import HELPS, Contest, Effect, configuration_effects
from finetricks_tuning.ledger import Trial
from finetricks_tuning.manifest import CONFIRM, Manifest

if TYPE_CHECKING:
    from finetricks_tuning.study import Study


@dataclass(frozen=True)
class Recommendation:
    """A recipe that the results speak for.

    Attributes:
        configuration: its name.
        tricks: what it adds to the study's recipe: values by name.
        recipe: the whole, in plain JSON values; its seed is the study's recipe's.
        seeds: the fresh seeds on which it is compared with the baseline; none where the study does not confirm.
        effect: the difference to the baseline on those seeds, which chose nothing; `None` while they have not run.
    """

    configuration: str
    tricks: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...]
    effect: Effect | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recommended(rows: Iterable[Effect], study: Study) -> Configuration | None:
    """The combination of all levels that help; `None` where none does.

    Of a factor's levels the best is taken. Of tricks that cannot stand together, those with the larger effect.
    """
    helping = {row.name: abs(row.estimate or 0.0) for row in rows if row.verdict == HELPS}
    chosen = {}
    for factor in study.factors:
        helpful = [level for level in factor.levels if level.label in helping]
        chosen[factor.name] = max(helpful, key=lambda level: helping[level.label]) if helpful else factor.off
    on = [factor for factor in study.factors if chosen[factor.name] != factor.off]
    for weakest in sorted(on, key=lambda factor: helping[chosen[factor.name].label]):
        configuration = Configuration(tuple((factor, chosen[factor.name]) for factor in study.factors))
        if not conflicts((*study.recipe.tricks, *configuration.tricks)):
            return configuration
        chosen[weakest.name] = weakest.off
    return None


def recommendation_of(configuration: Configuration, study: Study, rate: float | None) -> Recommendation:
    """What the study's folder keeps of a recommended configuration, before it is confirmed."""
    recipe = configuration.recipe(study.recipe, study.recipe.training.seed, rate).to_dict()
    added = {name: trick.model_dump(mode="json") for name, trick in configuration.tricks}
    return Recommendation(configuration.name, added, recipe, study.fresh_seeds)


def confirmed(manifest: Manifest, trials: Mapping[str, Trial]) -> Recommendation | None:
    """A study's recommendation with what the fresh seeds say of it, so far.

    Args:
        trials: by key.
    """
    if manifest.recommendation is None:
        return None
    recommendation = Recommendation(**manifest.recommendation)
    metric = manifest.study["metric"]
    ours = [(cell, trials[cell.key]) for cell in manifest.cells if cell.phase == CONFIRM and cell.key in trials]
    values = {(cell.configuration, cell.seed): trial.value(metric) for cell, trial in ours}
    baseline = next(iter(manifest.configurations.items()))
    contest = Contest(
        levels=dict([baseline, (recommendation.configuration, {})]),
        values={place: value for place, value in values.items() if value is not None},
        lost={place for place, value in values.items() if value is None},
        greater_is_better=manifest.greater_is_better,
        alpha=manifest.study["alpha"],
    )
    return replace(recommendation, effect=configuration_effects(contest)[0] if ours else None)
