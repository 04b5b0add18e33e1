"""The results of a study on several data sets, summarised across them: `summary.json` of the whole.

The mean of a level's effects over the data sets, each counting alike. The data sets are these, not a sample of others:
the interval is over the seeds, and holds for their mean. Where the effects differ between data sets by more than chance
(Cochran's Q), the row says so: the mean then describes none of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy import stats

from finetricks.atomic import write_atomically
from finetricks_tuning.effects import HELPS, HURTS, UNDECIDED, Effect, lost_in_words, unflattered
from finetricks_tuning.statistics import correct
from finetricks_tuning.summary import FILE, Summary


@dataclass(frozen=True)
class Across:
    """One study on several data sets.

    Attributes:
        summaries: by data set.
        rows: the mean effect of each level over the data sets that have an estimate of it.
        waiting: data sets that have not begun.
    """

    summaries: Mapping[str, Summary]
    rows: tuple[Effect, ...]
    waiting: tuple[str, ...] = ()

    @classmethod
    def of(cls, summaries: Mapping[str, Summary], waiting: Sequence[str] = ()) -> Across:
        levels = dict.fromkeys(row.name for summary in summaries.values() for row in summary.rows)
        found = [_mean(name, summaries) for name in levels]
        study = next(iter(summaries.values())).manifest.study
        tested = [index for index, row in enumerate(found) if row.p is not None]
        adjusted = correct([found[index].p or 0.0 for index in tested], study.get("correction", "holm"))
        for index, p in zip(tested, adjusted, strict=True):
            found[index] = _judged(found[index], p, study["alpha"], next(iter(summaries.values())))
        return cls(summaries, tuple(found), tuple(waiting))

    @property
    def metric(self) -> str:
        return next(iter(self.summaries.values())).metric

    @property
    def alpha(self) -> float:
        return float(next(iter(self.summaries.values())).manifest.study["alpha"])

    @property
    def complete(self) -> bool:
        return not self.waiting and all(summary.complete for summary in self.summaries.values())

    @property
    def counts(self) -> Counter[str]:
        """Of the cells of all data sets: planned, and by status."""
        return sum((Counter(summary.counts) for summary in self.summaries.values()), Counter())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all data sets, each with its name."""
        return tuple(f"{name}: {text}" for name, summary in self.summaries.items() for text in summary.warnings)

    @property
    def answer(self) -> str:
        """The result in a sentence."""
        words = {HELPS: "helps", HURTS: "hurts"}
        parts = [f"{row.name} {words[row.verdict]} ({row.estimate:+z.3f})" for row in self.rows if row.verdict in words]
        told = "; ".join(parts) if parts else "no trick has an effect that is sure"
        return f"On average over {', '.join(self.summaries)}: {told} ({self.metric} on valid)."

    def to_dict(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        return {
            "answer": self.answer,
            "metric": self.metric,
            "rows": [row.to_dict() for row in self.rows],
            "data_sets": {name: summary.to_dict() for name, summary in self.summaries.items()},
        }

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(self.to_dict(), indent=2) + "\n")


def _mean(name: str, summaries: Mapping[str, Summary]) -> Effect:
    """The mean of a level's effects, with the interval of Welch and Satterthwaite.

    Source: Satterthwaite 1946, Biometrics Bulletin 2, 110-114; for Q: Cochran 1954, Biometrics 10, 101-129.
    """
    own = {data_set: next((r for r in s.rows if r.name == name), None) for data_set, s in summaries.items()}
    known = {data_set: row for data_set, row in own.items() if row is not None and row.estimate is not None}
    missing = [data_set for data_set in own if data_set not in known]
    lost = sum(row.lost for row in own.values() if row is not None)
    without = sum(row.lost_without for row in own.values() if row is not None)
    note = f"no estimate on {', '.join(missing)}" if missing else ""
    if not known:
        return Effect(name, "mean over the data sets", lost=lost, lost_without=without, note=note)
    estimates = {data_set: row.estimate or 0.0 for data_set, row in known.items()}
    mean = Effect(
        name,
        f"mean over {len(known)} data sets",
        estimate=sum(estimates.values()) / len(estimates),
        seeds=min(row.seeds for row in known.values()),
        lost=lost,
        lost_without=without,
        note=_joined(", ".join(f"{data_set} {value:+z.4f}" for data_set, value in estimates.items()), note),
    )
    errors = [row.standard_error for row in known.values() if row.standard_error is not None]
    freedoms = [row.freedom for row in known.values() if row.freedom]
    if len(errors) < len(known) or len(freedoms) < len(known):
        return replace(mean, note=_joined(mean.note, "a data set gives no interval"))
    variances = [error**2 for error in errors]
    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    error = math.sqrt(sum(variances)) / len(known)
    study = next(iter(summaries.values())).manifest.study
    reach = float(stats.t.ppf(1 - study["alpha"] / 2, freedom)) * error
    estimate = mean.estimate or 0.0
    p = float(2 * stats.t.sf(abs(estimate) / error, freedom))
    differs = _differs(list(estimates.values()), variances, study["alpha"])
    return replace(
        mean,
        standard_error=error,
        freedom=freedom,
        ci=(estimate - reach, estimate + reach),
        p=p,
        note=_joined(mean.note, differs),
    )


def _differs(estimates: Sequence[float], variances: Sequence[float], alpha: float) -> str:
    weights = [1 / variance for variance in variances]
    weighted = sum(w * e for w, e in zip(weights, estimates, strict=True)) / sum(weights)
    q = sum(w * (e - weighted) ** 2 for w, e in zip(weights, estimates, strict=True))
    p = float(stats.chi2.sf(q, len(estimates) - 1)) if len(estimates) > 1 else 1.0
    return f"the data sets differ by more than chance (p = {p:.2g}): read them one by one" if p <= alpha else ""


def _judged(row: Effect, p_adjusted: float, alpha: float, like: Summary) -> Effect:
    better = ((row.estimate or 0.0) > 0) == like.manifest.greater_is_better
    verdict = UNDECIDED if p_adjusted > alpha else HELPS if better else HURTS
    note = _joined(row.note, *lost_in_words(row.lost, row.lost_without))
    return unflattered(replace(row, p_adjusted=p_adjusted, verdict=verdict, note=note))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
