"""A study's results for other places than a browser: Markdown, JSON, CSV, and a section of a model card."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from finetricks.yaml_file import dump_yaml
from finetricks_tuning import page, text
from finetricks_tuning.across import Across
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.statistics import HOLM
from finetricks_tuning.strategies.reader import strategy_of
from finetricks_tuning.summary import LEDGER, Summary

Found = Summary | Across


def markdown(found: Found, folder: Path) -> str:
    """Verdicts, configurations and costs, as tables that GitHub and the Hub show."""
    return _pages("report.md.j2", found)


def card(found: Found, folder: Path) -> str:
    """A section for the card of a model that was trained with what the study recommends: how it was chosen."""
    return _pages("card.md.j2", found)


def as_json(found: Found, folder: Path) -> str:
    """What summary.json holds."""
    return json.dumps(found.to_dict(), indent=2) + "\n"


def cells_csv(found: Found, folder: Path) -> str:
    """A row a cell that was planned: its configuration, levels, seed, what it was run for, and what came of it.

    Text that a spreadsheet would compute begins with an apostrophe.
    """
    rows: list[dict[str, Any]] = []
    for name, place in _folders(found, folder).items():
        trials, _ = Ledger(place / LEDGER).read()
        manifest = Manifest.read(place)
        own = {"data_set": name} if name else {}
        rows += [own | _row(manifest, cell, trials.get(cell.key)) for cell in manifest.cells]
    columns = dict.fromkeys(column for row in rows for column in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _as_text(value) for column, value in row.items()} for row in rows)
    return out.getvalue()


FORMATS: Mapping[str, Callable[[Found, Path], str]] = {
    "md": markdown,
    "json": as_json,
    "csv": cells_csv,
    "card": card,
}


def _row(manifest: Manifest, cell: Any, trial: Trial | None) -> dict[str, Any]:
    metrics = trial.metrics if trial else {}
    return {
        "configuration": cell.configuration,
        **{f"factor:{name}": level for name, level in manifest.configurations.get(cell.configuration, {}).items()},
        "seed": cell.seed,
        "phase": cell.phase,
        "status": trial.status if trial else "not run",
        "seconds": round(trial.seconds, 3) if trial else "",
        **{f"{split}:{name}": value for split, of in metrics.items() for name, value in (of or {}).items()},
        "error": (trial.error or "") if trial else "",
    }


def _summaries(found: Found) -> Mapping[str, Summary]:
    return found.summaries if isinstance(found, Across) else {"": found}


def _folders(found: Found, folder: Path) -> dict[str, Path]:
    from finetricks_tuning.data_sets import FOLDER

    return {name: folder / FOLDER / name if name else folder for name in _summaries(found)}


def _as_text(value: object) -> object:
    """Source: OWASP, CSV Injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _pages(template: str, found: Found) -> str:
    pages = [_page(template, summary, title) for title, summary in _summaries(found).items()]
    if isinstance(found, Across):
        pages.insert(0, _environment().get_template("across.md.j2").render(s=found, signs=text.SIGNS).rstrip() + "\n")
    return "\n".join(pages)


def _environment() -> Environment:
    environment = page.environment(autoescape=False)
    environment.filters |= {
        "escape": escape,
        "fenced": fenced,
    }
    return environment


def _page(template: str, summary: Summary, title: str) -> str:
    study = {"correction": HOLM} | dict(summary.manifest.study)
    page = (
        _environment()
        .get_template(template)
        .render(
            s=summary,
            title=title,
            study=study,
            strategy=strategy_of(study).label,
            signs=text.SIGNS,
            recommended=dump_yaml(dict(summary.recommendation.recipe)) if summary.recommendation else "",
            total=summary.counts["planned"],
        )
    )
    return page.rstrip() + "\n"


def fenced(value: str, language: str = "") -> str:
    """A block of code; the fence is longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", value)), default=0))
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def escape(value: object) -> str:
    """Plain text in a Markdown table: what would be markup is said, not done."""
    written = str(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|`*_[]":
        written = written.replace(mark, f"\\{mark}")
    return " ".join(written.split())
