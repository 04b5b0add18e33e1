"""A study's results as data, `summary.json`: the verdicts, and what they rest on."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetricks.atomic import write_atomically
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.design_facts import DesignFacts, facts_of
from finetricks_tuning.designs.reader import design_of
from finetricks_tuning.effects import (
    EQUIVALENT,
    HELPS,
    HURTS,
    NO_VERDICT,
    UNDECIDED,
    Contest,
    Effect,
    configuration_effects,
    interaction_effects,
    level_effects,
)
from finetricks_tuning.expected_maximum import expected_maximum
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.manifest import COMPARE, START, Manifest, PlannedCell
from finetricks_tuning.on_data import Examples
from finetricks_tuning.recommend import Recommendation, confirmed
from finetricks_tuning.samples import interquartile_mean
from finetricks_tuning.statistics import HOLM
from finetricks_tuning.strategies.base import Results
from finetricks_tuning.strategies.reader import strategy_of
from finetricks_tuning.underfit import underfit

FILE = "summary.json"
LEDGER = "trials.jsonl"
PLANNED, MISSING = "planned", "not_run"


@dataclass(frozen=True)
class ConfigurationSummary:
    """One configuration: its cells of the comparison.

    Attributes:
        difference: to the baseline; `None` for the baseline itself.
        best_of: the expected best value of 1, 2, ... runs, up to as many as there are.
    """

    name: str
    levels: Mapping[str, str]
    values: Mapping[int, float]
    statuses: Mapping[int, str]
    seconds: float
    difference: Effect | None
    best_of: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        return sum(self.values.values()) / len(self.values) if self.values else None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values.values()) if self.values else None

    @property
    def interquartile_mean(self) -> float | None:
        return interquartile_mean(list(self.values.values())) if self.values else None


@dataclass(frozen=True)
class SeedRun:
    """One run of a study that has no factors.

    Attributes:
        started: the metric where it was judged; `None` where it was not.
        value: at its end; `None` where it did not come to it.
        test: the same on test.
        folder: of the cell, in the study's; the model is under it where the run came to its end.
    """

    seed: int
    started: float | None
    value: float | None
    test: float | None
    folder: str


@dataclass(frozen=True)
class Summary:
    """The results of a study, so far.

    Attributes:
        design: what it can and cannot see.
        rows: the effect of each level of each factor.
        interactions: of levels of two factors, where the design holds them; named `a x b`.
        configurations: baseline first; their cells of the comparison.
        seed_runs: of a study without factors; empty for others.
        costs: by what cells were run for: how many have a result, and their seconds.
        recommendation: what the results speak for, and what fresh seeds say of it; `None` where there is none.
        failures: the cells that failed or diverged.
        counts: of cells: planned, and by status.
        seconds: of training and evaluation, summed over the cells.
        versions: of the latest cell's environment, with the tricks of all cells.
    """

    manifest: Manifest
    design: DesignFacts
    rows: tuple[Effect, ...]
    configurations: tuple[ConfigurationSummary, ...]
    failures: tuple[Trial, ...]
    counts: Mapping[str, int]
    seconds: float
    versions: Mapping[str, Any]
    warnings: tuple[str, ...]
    interactions: tuple[Effect, ...] = ()
    recommendation: Recommendation | None = None
    seed_runs: tuple[SeedRun, ...] = ()
    costs: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def decisions(self) -> tuple[str, ...]:
        """What was decided on the way, a sentence each."""
        return self.manifest.decisions

    @property
    def ended(self) -> str:
        """Why there is nothing more to run; empty while there is."""
        return self.manifest.ended

    @property
    def metric(self) -> str:
        return str(self.manifest.study["metric"])

    @property
    def alpha(self) -> float:
        return float(self.manifest.study["alpha"])

    @property
    def baseline(self) -> ConfigurationSummary:
        return self.configurations[0]

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to run."""
        return bool(self.ended)

    @property
    def answer(self) -> str:
        """The result in a sentence or three."""
        done = "" if self.complete else f"So far ({self.counts[PLANNED] - self.counts[MISSING]} cells): "
        return f"{done}{self._verdicts}{self._advice}"

    @property
    def _verdicts(self) -> str:
        if self.seed_runs:
            return self._runs
        if not self.rows:
            return self._searched
        known = [row for row in self.rows if row.estimate is not None]
        if self.rows and not known:
            return "no comparison with the baseline could be made."
        if all(row.verdict == NO_VERDICT for row in self.rows):
            return f"no verdict; {known[0].note}." if known else ""
        parts = [f"{_listed(rows)} {_verb(word, rows)}" for word in (HELPS, HURTS) if (rows := self._rows(word))]
        if rows := self._rows(EQUIVALENT):
            parts.append(f"{_listed(rows)} {'makes' if len(rows) == 1 else 'make'} no difference that matters")
        if undecided := self._rows(UNDECIDED, NO_VERDICT):
            more = " more" if parts else ""
            parts.append(f"{len(undecided)}{more} {'is' if len(undecided) == 1 else 'are'} undecided")
        return f"{'; '.join(parts)} ({self.metric} on valid, {_seeds(known)})."

    @property
    def _runs(self) -> str:
        """What several seeds of the same recipe came to, and what the best of them owes to their number."""
        known = {run.seed: run.value for run in self.seed_runs if run.value is not None}
        if not known:
            return "no run has come to its end."
        values = sorted(known.values())
        better = max if self.manifest.greater_is_better else min
        best = better(known, key=lambda seed: known[seed])
        told = f"{len(known)} runs of the same recipe came to {self.metric} {values[0]:.3f} to {values[-1]:.3f}"
        lucky = self.baseline.best_of
        if any(run.started is not None for run in self.seed_runs):
            return f"{told}, those of {len(self.seed_runs)} that did best early; the best is seed {best}."
        luck = f": the best of {len(lucky)} is expected at {lucky[-1]:.3f}, one run at {lucky[0]:.3f}" if lucky else ""
        return f"{told}; the best is seed {best}{luck}."

    @property
    def _searched(self) -> str:
        """What a search found, before it is confirmed."""
        means = {c.name: c.mean for c in self.configurations if c.mean is not None}
        if not means:
            return "no cell has a result."
        better = max if self.manifest.greater_is_better else min
        best = better(means, key=lambda name: means[name])
        tried = f"{len(means)} configurations tried on {len(self.manifest.study['seeds'])} seeds each"
        if best == self.baseline.name:
            return f"{tried}, and none did better than the baseline ({self.metric} {means[best]:.3f})."
        own = "" if self.baseline.mean is None else f", the baseline {self.baseline.mean:.3f}"
        return f"{tried}; the best, {best}, came to {self.metric} {means[best]:.3f}{own}."

    @property
    def _advice(self) -> str:
        """What to use, and what fresh seeds say of it."""
        found = self.recommendation
        if found is None:
            return ""
        if found.effect is None or found.effect.estimate is None:
            told = " It was not compared with the baseline on fresh seeds"
            return f" To use: {found.configuration}.{told if self.complete else f'{told} yet'}."
        effect, better = found.effect, 1 if self.manifest.greater_is_better else -1
        interval = "" if effect.ci is None else f" ({effect.ci[0]:+z.3f} to {effect.ci[1]:+z.3f})"
        keeps = "To use" if (effect.estimate or 0.0) * better > 0 else "Chosen, but no better on fresh seeds"
        return f" {keeps}: {found.configuration}, {effect.estimate:+z.3f}{interval} on {effect.seeds} fresh seeds."

    def _rows(self, *verdicts: str) -> list[Effect]:
        return [row for row in self.rows if row.verdict in verdicts]

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON values: what `summary.json` holds."""
        return {
            "answer": self.answer,
            "study": self.manifest.study,
            "design": self.design.to_dict(),
            "metric": self.metric,
            "greater_is_better": self.manifest.greater_is_better,
            "alpha": self.manifest.study["alpha"],
            "baseline_mean": self.baseline.mean,
            "rows": [row.to_dict() for row in self.rows],
            "configurations": [
                {
                    "name": c.name,
                    "levels": dict(c.levels),
                    "mean": c.mean,
                    "median": c.median,
                    "interquartile_mean": c.interquartile_mean,
                    "best_of": list(c.best_of),
                    "values": dict(c.values),
                    "statuses": dict(c.statuses),
                    "seconds": c.seconds,
                    "difference": c.difference.to_dict() if c.difference else None,
                }
                for c in self.configurations
            ],
            "interactions": [row.to_dict() for row in self.interactions],
            "recommendation": self.recommendation.to_dict() if self.recommendation else None,
            "seed_runs": [vars(run) for run in self.seed_runs],
            "decisions": list(self.decisions),
            "ended": self.ended,
            "left_out": [dict(entry) for entry in self.manifest.left_out],
            "counts": dict(self.counts),
            "seconds": self.seconds,
            "costs": {phase: {"cells": cells, "seconds": of} for phase, (cells, of) in self.costs.items()},
            "versions": dict(self.versions),
            "warnings": list(self.warnings),
        }

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(self.to_dict(), indent=2) + "\n")


def summarise(folder: str | Path) -> Summary:
    """Compute the summary of the study in `folder`, finished or not. Raises `InputError` when it holds none."""
    folder = Path(folder)
    manifest = Manifest.read(folder)
    trials, problems = Ledger(folder / LEDGER).read()
    examples = Examples.read(
        folder,
        [c for c in _compared(manifest, trials).values() if trials[c.key].status == FINISHED],
        manifest.study["metric"],
    )
    ours = [trials[cell.key] for cell in manifest.cells if cell.key in trials]
    return summary_of(manifest, ours, [*underfit(folder, manifest, trials), *problems], examples)


def summary_of(
    manifest: Manifest, trials: Sequence[Trial], problems: Sequence[str] = (), examples: Examples | None = None
) -> Summary:
    """The summary of a plan and those of its cells that were run; `problems` join the warnings."""
    study = manifest.study
    by_key = {trial.key: trial for trial in trials}
    compared = {place: by_key[cell.key] for place, cell in _compared(manifest, by_key).items()}
    values = {place: trial.value(study["metric"]) for place, trial in compared.items()}
    design = design_of(study)
    results = Results(
        levels=manifest.configurations,
        values={place: value for place, value in values.items() if value is not None},
        lost={place: compared[place].status for place, value in values.items() if value is None},
        greater_is_better=manifest.greater_is_better,
        alpha=study["alpha"],
        equivalence=study.get("equivalence"),
        correction=study.get("correction", HOLM),
        contrasts=design.contrasts,
    )
    contest = strategy_of(study).contest(results, study["seeds"], examples)
    counts = Counter(trial.status for trial in trials)
    started = _started(manifest, by_key)
    return Summary(
        manifest=manifest,
        design=facts_of(design, manifest.configurations, len(manifest.left_out)),
        rows=tuple(level_effects(contest, samples=True)),
        interactions=tuple(interaction_effects(contest)),
        configurations=_configurations(contest, compared, started),
        recommendation=confirmed(manifest, by_key),
        seed_runs=() if design.varies else _seed_runs(manifest, compared, started),
        costs=_costs(manifest, by_key),
        failures=tuple(trial for trial in trials if trial.status != FINISHED),
        counts={PLANNED: len(manifest.cells), **counts, MISSING: len(manifest.cells) - len(trials)},
        seconds=sum(trial.seconds for trial in trials),
        versions=_versions(trials),
        warnings=(*manifest.warnings, *_warnings(trials), *problems, *_without_examples(examples)),
    )


def _compared(manifest: Manifest, trials: Mapping[str, Trial]) -> dict[tuple[str, int], PlannedCell]:
    """The cells of the comparison that have a result."""
    return {
        (cell.configuration, cell.seed): cell for cell in manifest.cells if cell.phase == COMPARE and cell.key in trials
    }


def _started(manifest: Manifest, trials: Mapping[str, Trial]) -> dict[int, float]:
    """By seed, the metric where runs were judged; empty for a study that goes on with all."""
    metric = manifest.study["metric"]
    judged = {c.seed: trials[c.key].value(metric) for c in manifest.cells if c.phase == START and c.key in trials}
    return {seed: value for seed, value in judged.items() if value is not None}


def _seed_runs(
    manifest: Manifest, compared: Mapping[tuple[str, int], Trial], started: Mapping[int, float]
) -> tuple[SeedRun, ...]:
    metric, runs = manifest.study["metric"], []
    ended = {seed: trial for (_, seed), trial in compared.items()}
    for seed in manifest.study["seeds"]:
        if seed in ended or seed in started:
            trial = ended.get(seed)
            runs.append(
                SeedRun(
                    seed,
                    started.get(seed),
                    trial.value(metric) if trial else None,
                    (trial.metrics.get("test") or {}).get(metric) if trial else None,
                    str(cell_folder(Path(), trial.key)) if trial else "",
                )
            )
    return tuple(runs)


def _costs(manifest: Manifest, trials: Mapping[str, Trial]) -> dict[str, tuple[int, float]]:
    seconds: dict[str, list[float]] = {}
    for cell in manifest.cells:
        if cell.key in trials:
            seconds.setdefault(cell.phase, []).append(trials[cell.key].seconds)
    return {phase: (len(of), sum(of)) for phase, of in seconds.items()}


def _without_examples(examples: Examples | None) -> list[str]:
    if examples is None or not examples.problem:
        return []
    return [f"no interval over the examples is given: {examples.problem}"]


def _configurations(
    contest: Contest, trials: Mapping[tuple[str, int], Trial], started: Mapping[int, float]
) -> tuple[ConfigurationSummary, ...]:
    differences = {effect.name: effect for effect in configuration_effects(contest)}
    by_name: dict[str, dict[int, Trial]] = {name: {} for name in contest.levels}
    for (name, seed), trial in sorted(trials.items()):
        by_name[name][seed] = trial
    return tuple(
        ConfigurationSummary(
            name=name,
            levels=contest.levels[name],
            values={seed: contest.values[name, seed] for seed in own if (name, seed) in contest.values},
            statuses={seed: trial.status for seed, trial in own.items()},
            seconds=sum(trial.seconds for trial in own.values()),
            difference=differences.get(name),
            best_of=expected_maximum(
                # of all that started: those that went on were chosen
                list(started.values())
                or [contest.values[name, seed] for seed in own if (name, seed) in contest.values],
                greater_is_better=contest.greater_is_better,
            ),
        )
        for name, own in by_name.items()
    )


def _warnings(trials: Sequence[Trial]) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for trial in trials:
        for text in trial.warnings:
            names = by_text.setdefault(text, [])
            if trial.configuration not in names:
                names.append(trial.configuration)
    found = [f"{', '.join(names)}: {text}" for text, names in by_text.items()]
    if len({json.dumps({**t.environment, "tricks": None}, sort_keys=True) for t in trials if t.environment}) > 1:
        found.append("the cells were not all run with the same versions; see the environments in the ledger")
    return found


def _versions(trials: Sequence[Trial]) -> dict[str, Any]:
    tricks = {name: origin for trial in trials for name, origin in trial.environment.get("tricks", {}).items()}
    return {**trials[-1].environment, "tricks": tricks} if trials else {}


def _listed(rows: Sequence[Effect]) -> str:
    texts = [f"{row.name} ({row.estimate:+z.3f})" for row in rows]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _seeds(rows: Sequence[Effect]) -> str:
    most = max(row.seeds for row in rows)
    return f"{'up to ' if any(row.seeds < most for row in rows) else ''}{most} paired seeds"


def _verb(word: str, rows: Sequence[Effect]) -> str:
    return word if len(rows) == 1 else {HELPS: "help", HURTS: "hurt"}[word]
