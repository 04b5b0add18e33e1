"""A study's results as data, `summary.json`: the verdicts, and what they rest on."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetricks.folder import write_atomically
from finetricks_tuning.design_facts import DesignFacts, facts_of
from finetricks_tuning.designs.reader import design_of
from finetricks_tuning.effects import (
    HELPS,
    HURTS,
    NO_VERDICT,
    Contest,
    Effect,
    configuration_effects,
    level_effects,
)
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.manifest import Manifest

FILE = "summary.json"
LEDGER = "trials.jsonl"
PLANNED, MISSING = "planned", "not_run"


@dataclass(frozen=True)
class ConfigurationSummary:
    """One configuration: its cells, and its difference to the baseline (`None` for the baseline itself)."""

    name: str
    levels: Mapping[str, str]
    values: Mapping[int, float]
    statuses: Mapping[int, str]
    seconds: float
    difference: Effect | None

    @property
    def mean(self) -> float | None:
        return sum(self.values.values()) / len(self.values) if self.values else None


@dataclass(frozen=True)
class Summary:
    """The results of a study, so far.

    Attributes:
        design: what it can and cannot see.
        rows: the effect of each level of each factor.
        configurations: baseline first.
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

    @property
    def metric(self) -> str:
        return str(self.manifest.study["metric"])

    @property
    def baseline(self) -> ConfigurationSummary:
        return self.configurations[0]

    @property
    def complete(self) -> bool:
        return self.counts[MISSING] == 0

    @property
    def answer(self) -> str:
        """The result in a sentence."""
        done = "" if self.complete else f"So far ({self.counts[PLANNED] - self.counts[MISSING]} of the planned cells): "
        if not any(row.estimate is not None for row in self.rows):
            return f"{done}no comparison with the baseline could be made."
        decided = [(word, [row for row in self.rows if row.verdict == word]) for word in (HELPS, HURTS)]
        parts = [f"{_listed(rows)} {_verb(word, rows)}" for word, rows in decided if rows]
        if all(row.verdict == NO_VERDICT for row in self.rows):
            note = next(row.note for row in self.rows if row.estimate is not None)
            return f"{done}no verdict; {note}."
        if undecided := [row for row in self.rows if row.verdict not in (HELPS, HURTS)]:
            more = " more" if parts else ""
            parts.append(f"{len(undecided)}{more} {'is' if len(undecided) == 1 else 'are'} undecided")
        seeds = len(self.manifest.study["seeds"])
        return f"{done}{'; '.join(parts)} ({self.metric} on valid, {seeds} paired seeds)."

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
            "rows": [_row(row) for row in self.rows],
            "configurations": [
                {
                    "name": c.name,
                    "levels": dict(c.levels),
                    "mean": c.mean,
                    "values": dict(c.values),
                    "statuses": dict(c.statuses),
                    "seconds": c.seconds,
                    "difference": _row(c.difference) if c.difference else None,
                }
                for c in self.configurations
            ],
            "left_out": [dict(entry) for entry in self.manifest.left_out],
            "counts": dict(self.counts),
            "seconds": self.seconds,
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
    return summary_of(manifest, [trials[cell.key] for cell in manifest.cells if cell.key in trials], problems)


def summary_of(manifest: Manifest, trials: Sequence[Trial], problems: Sequence[str] = ()) -> Summary:
    """The summary of a plan and those of its cells that were run; `problems` join the warnings."""
    metric = manifest.study["metric"]
    names = list(manifest.configurations)
    values = {(t.configuration, t.seed): v for t in trials if (v := _value(t, metric)) is not None}
    statuses = {(t.configuration, t.seed): t.status for t in trials}
    lost = Counter(t.configuration for t in trials if (t.configuration, t.seed) not in values)
    seconds: dict[str, float] = defaultdict(float)
    for trial in trials:
        seconds[trial.configuration] += trial.seconds
    design = design_of(manifest.study)
    contest = Contest(
        manifest.configurations, values, lost, manifest.greater_is_better, manifest.study["alpha"], design.contrasts
    )
    differences = {effect.name: effect for effect in configuration_effects(contest)}
    counts = Counter(trial.status for trial in trials)
    return Summary(
        manifest=manifest,
        design=facts_of(design, manifest.configurations, len(manifest.left_out)),
        rows=tuple(level_effects(contest)),
        configurations=tuple(
            ConfigurationSummary(
                name,
                manifest.configurations[name],
                {seed: value for (n, seed), value in sorted(values.items()) if n == name},
                {seed: status for (n, seed), status in sorted(statuses.items()) if n == name},
                seconds[name],
                differences.get(name),
            )
            for name in names
        ),
        failures=tuple(trial for trial in trials if trial.status != FINISHED),
        counts={PLANNED: len(manifest.cells), **counts, MISSING: len(manifest.cells) - len(trials)},
        seconds=sum(trial.seconds for trial in trials),
        versions=_versions(trials),
        warnings=(*manifest.warnings, *_warnings(trials), *problems),
    )


def _value(trial: Trial, metric: str) -> float | None:
    return (trial.metrics.get("valid") or {}).get(metric) if trial.status == FINISHED else None


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


def _row(effect: Effect) -> dict[str, Any]:
    row = asdict(effect)
    row["ci"] = list(effect.ci) if effect.ci else None
    return row


def _listed(rows: Sequence[Effect]) -> str:
    texts = [f"{row.name} ({row.estimate:+z.3f})" for row in rows]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _verb(word: str, rows: Sequence[Effect]) -> str:
    return word if len(rows) == 1 else {HELPS: "help", HURTS: "hurt"}[word]
