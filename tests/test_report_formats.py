"""The report in other formats: several data sets, and names that mean something where they are shown."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from finetricks_tuning.across import Across
from finetricks_tuning.formats import as_json, card, cells_csv, fenced, markdown
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.summary import summary_of
from test_data_sets import summary
from test_report import manifest, rich, trial


@pytest.fixture
def across() -> Across:
    return Across.of({"a": summary([0.10, 0.12, 0.14]), "b": summary([0.02, 0.04, 0.06])})


def test_several_data_sets_are_summarised_before_each_is_told(across: Across) -> None:
    """The numbers are those of test_data_sets: .08 +- .02267."""
    text = markdown(across, Path())
    assert text.startswith("# On 2 data sets\n\n**On average over a, b: stlr helps (+0.080)")
    assert "| stlr | ▲ helps | +0.0800 | +0.0573 to +0.1027 |" in text
    assert text.index("mean difference") < text.index("# a\n") < text.index("# b\n")
    told = card(across, Path())
    assert told.index("mean difference") < told.index("was chosen (a)") < told.index("was chosen (b)")
    assert '"data_sets"' in as_json(across, Path())


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@x", "\t=1"])
def test_no_text_is_a_formula_and_numbers_stay_numbers(tmp_path: Path, name: str) -> None:
    plan = manifest(["baseline", "stlr"], 1)
    plan = replace(plan, configurations={"baseline": {"stlr": "off"}, "stlr": {"stlr": name}})
    plan.write(tmp_path)
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.append(trial("baseline", 0, -0.5))
    ledger.append(trial("stlr", 0, None, status="failed", error=name))
    first, second = csv.DictReader(io.StringIO(cells_csv(summary_of(plan, []), tmp_path)))
    assert (second["factor:stlr"], second["error"]) == (f"'{name}", f"'{name}")
    assert (first["valid:accuracy"], first["error"]) == ("-0.5", "")


def test_code_does_not_leave_its_block() -> None:
    command = "x\n```\n<script>"
    assert fenced(command) == f"````\n{command}\n````"
    found = summary_of(replace(manifest(["baseline", "stlr"], 1), command=command), [trial("baseline", 0, 0.8)])
    assert markdown(found, Path()).endswith(f"\n\n````\n{command}\n````\n")


def test_seeds_and_versions_are_told() -> None:
    found = replace(rich(), versions={"python": "3.11", "torch": "2.1|x", "tricks": {"a": "other 1"}})
    assert "Versions: python 3.11, torch 2.1\\|x." in " ".join(markdown(found, Path()).split())
    told = " ".join(card(found, Path()).split())
    assert "Versions: python 3.11, torch 2.1\\|x." in told
    assert "seeds 0, 1, 2, 3, fresh seeds " in told
