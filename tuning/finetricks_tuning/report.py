"""A study's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup

from finetricks.atomic import write_atomically
from finetricks.yaml_file import dump_yaml
from finetricks_tuning import page, text
from finetricks_tuning.data_sets import FOLDER
from finetricks_tuning.design_facts import alias_text
from finetricks_tuning.learning import learning_curves
from finetricks_tuning.pictures import curves, forest, heat_map, strips
from finetricks_tuning.plans import read_plan
from finetricks_tuning.statistics import HOLM
from finetricks_tuning.strategies.reader import strategy_of
from finetricks_tuning.summary import ConfigurationSummary, Summary

if TYPE_CHECKING:
    from finetricks_tuning.across import Across

FILE = "report.html"
DRAWN = 24
"""Configurations in a picture: of more the baseline and the best are drawn."""
BEST = 6


def write_report(summary: Summary, folder: str | Path, *, refresh: int | None = None) -> Path:
    """Write `report.html` into the study's folder, and give its path.

    Args:
        refresh: seconds after which a browser loads the page again; only while the study is not at its end.
    """
    path = Path(folder) / FILE
    write_atomically(path, render(summary, Path(folder), refresh=None if summary.complete else refresh))
    return path


def write_report_across(across: Across, folder: str | Path, *, refresh: int | None = None) -> Path:
    """Write `report.html` of a study on several data sets; each has a report of its own in its folder."""
    path = Path(folder) / FILE
    pages = {name: f"{FOLDER}/{name}/{FILE}" for name in across.summaries}
    again = None if across.complete else refresh
    write_atomically(path, _environment().get_template("across.html.j2").render(s=across, pages=pages, refresh=again))
    return path


def render(summary: Summary, folder: Path | None = None, *, refresh: int | None = None) -> str:
    """The report as HTML. Every label and error text is escaped: they are other people's.

    Args:
        folder: the study's: learning curves and plans are read from it.
    """
    drawn = _drawn(summary, DRAWN)
    found = learning_curves(folder, summary.manifest, [c.name for c in drawn]) if folder else {}
    plans = [read_plan(folder, index) if folder else b"" for index in range(len(summary.configurations))]
    best = [c for c in _drawn(summary, BEST) if len(c.best_of) > 1]
    several = sum(c.mean is not None for c in drawn)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            study={"correction": HOLM, "equivalence": None} | dict(summary.manifest.study),
            strategy=strategy_of(summary.manifest.study).label,
            refresh=refresh,
            forest=Markup(forest.forest(summary)) if any(row.estimate is not None for row in summary.rows) else "",
            strips=Markup(strips.strips(summary, drawn)) if several else "",
            heat_map=Markup(heat_map.heat_map(summary)) if summary.interactions else "",
            curves=Markup(curves.learning_curves(summary, found)) if found else "",
            best_of=Markup(curves.best_of(summary, best)) if best else "",
            plans=[
                (index, configuration, Markup(_described(plan, configuration)))
                for index, (configuration, plan) in enumerate(zip(summary.configurations, plans, strict=True))
                if plan
            ],
            not_drawn=len(summary.configurations) - len(drawn),
            recipe=dump_yaml(summary.manifest.study),
            recommended=dump_yaml(dict(summary.recommendation.recipe)) if summary.recommendation else "",
            total=summary.counts["planned"],
        )
    )


def _environment() -> Environment:
    environment = page.environment(autoescape=True)
    environment.filters |= {
        "aliases": alias_text,
    }
    environment.globals["signs"] = text.SIGNS
    return environment


def _drawn(summary: Summary, most: int) -> Sequence[ConfigurationSummary]:
    """All configurations, or the baseline and the best, in the study's order."""
    if len(summary.configurations) <= most:
        return summary.configurations
    sign = 1 if summary.manifest.greater_is_better else -1
    known = [c for c in summary.configurations[1:] if c.mean is not None]
    best = {c.name for c in sorted(known, key=lambda c: -sign * (c.mean or 0.0))[: most - 1]}
    return [c for c in summary.configurations if c is summary.baseline or c.name in best]


def _described(plan: bytes, configuration: ConfigurationSummary) -> str:
    told = f"Learning rates and frozen layers of {configuration.name} over the run."
    # As an image it can neither run a script nor load anything: somebody may have sent the folder that it is from.
    return f'<img alt="{escape(told)}" src="data:image/svg+xml;base64,{base64.b64encode(plan).decode()}">'
