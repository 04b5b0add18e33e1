"""A study's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetricks.folder import write_atomically
from finetricks.yaml_file import dump_yaml
from finetricks_tuning import pictures
from finetricks_tuning.design_facts import alias_text
from finetricks_tuning.effects import HELPS, HURTS, UNDECIDED
from finetricks_tuning.summary import Summary

FILE = "report.html"
SIGNS = {HELPS: "▲", HURTS: "▼", UNDECIDED: "○"}


def write_report(summary: Summary, folder: str | Path) -> Path:
    """Write `report.html` into the study's folder, and give its path."""
    path = Path(folder) / FILE
    write_atomically(path, render(summary))
    return path


def render(summary: Summary) -> str:
    """The report as HTML. Every label and error text is escaped: they are other people's."""
    environment = Environment(
        loader=PackageLoader("finetricks_tuning"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _signed, "number": _number, "duration": duration, "p": _p, "aliases": alias_text}
    has_effects = any(row.estimate is not None for row in summary.rows)
    has_values = any(configuration.values for configuration in summary.configurations)
    return environment.get_template("report.html.j2").render(
        s=summary,
        study=summary.manifest.study,
        signs=SIGNS,
        forest=Markup(pictures.forest(summary)) if has_effects else "",
        strips=Markup(pictures.strips(summary)) if has_values else "",
        recipe=dump_yaml(summary.manifest.study),
        total=summary.counts["planned"],
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+z.4f}".replace("-", "−")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< .001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: Any) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    minutes = round(float(seconds) / 60)
    if float(seconds) < 90:
        return f"{float(seconds):.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
