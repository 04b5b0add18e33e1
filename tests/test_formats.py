"""The report in other formats, what `report --watch` keeps up to date, and the table that a running study shows."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from finetricks.cli import main
from finetricks_tuning.formats import card, escape, markdown
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.live import results_table, status_table
from finetricks_tuning.status import ConfigurationStatus, Status
from finetricks_tuning.summary import summary_of
from finetricks_tuning.watch import watch
from test_report import EFFECTS, HOSTILE, manifest, rich, trial, trials

Told = Callable[..., str]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study's folder with a failed cell and a hostile error."""
    manifest(list(EFFECTS), 2).write(tmp_path)
    ledger = Ledger(tmp_path / "trials.jsonl")
    for cell in trials(2)[:-1]:
        ledger.append(cell)
    ledger.append(trial("cosine", 1, None, status="failed", error=f"{HOSTILE}\nwith a | and, a comma"))
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `finetricks report` prints on stdout, and its exit code checked."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        capsys.readouterr()
        try:
            found = main(["report", *map(str, arguments)])
        except SystemExit as ended:  # the command line's library, for --format docx
            found = int(ended.code or 0)
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed.out

    return run


def test_csv_has_a_row_a_cell_that_other_programs_read_back(study: Path, told: Told) -> None:
    rows = list(csv.DictReader(io.StringIO(told(study, "--format", "csv"))))
    assert len(rows) == 8
    assert rows[1] | {"seconds": "20.0"} == rows[1]
    assert (rows[1]["configuration"], rows[1]["factor:stlr"], rows[1]["seed"]) == ("stlr", "stlr", "0")
    assert float(rows[1]["valid:accuracy"]) == pytest.approx(0.849)
    assert rows[7]["status"] == "failed"
    assert rows[7]["error"] == f"{HOSTILE}\nwith a | and, a comma"


def test_csv_lists_cells_that_were_not_run(tmp_path: Path, told: Told) -> None:
    manifest(list(EFFECTS), 1).write(tmp_path)
    rows = list(csv.DictReader(io.StringIO(told(tmp_path, "--format", "csv"))))
    assert [row["status"] for row in rows] == ["not run"] * 4


def test_json_is_what_summary_json_holds(study: Path, told: Told) -> None:
    given = json.loads(told(study, "--format", "json"))
    told(study)
    assert given == json.loads((study / "summary.json").read_text())


def test_markdown_tables_have_their_columns_whatever_stands_in_them(study: Path, told: Told) -> None:
    text = told(study, "--format", "md")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {8, 9}
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "| stlr | " in text


def test_markdown_and_card_tell_what_was_chosen() -> None:
    found = rich()
    assert "To use: a. On 2 fresh seeds: +0.05" in markdown(found, Path())


def test_a_card_says_how_the_recipe_was_chosen_and_gives_it(study: Path, told: Told) -> None:
    text = told(study, "--format", "card")
    assert text.startswith("## How this recipe was chosen\n")
    assert "The study recommends nothing beside its baseline." in text
    chosen = card(rich(), study)
    assert "on 2 seeds that had no part in choosing it: +0.05" in chosen
    assert "```yaml\nmodel: minilm\ntricks:\n- a: {}\n```" in chosen


def test_out_writes_a_file_and_is_refused_for_the_page(study: Path, tmp_path: Path, told: Told) -> None:
    assert told(study, "--format", "md", "--out", tmp_path / "report.md") == ""
    assert (tmp_path / "report.md").read_text() == told(study, "--format", "md")
    told(study, "--out", tmp_path / "x.html", code=2)
    told(study, "--format", "md", "--watch", code=2)
    told(study, "--format", "docx", code=2)


def test_what_would_be_markup_is_said_not_done() -> None:
    assert escape("a_b|c*<i>\nd") == "a\\_b\\|c\\*&lt;i&gt; d"


# -- watching --------------------------------------------------------------------------------------------


def test_the_page_is_written_whenever_the_study_has_changed_until_it_ends(tmp_path: Path) -> None:
    plan = replace(manifest(list(EFFECTS), 2), ended="")
    plan.write(tmp_path)
    written: list[int] = []

    def write() -> bool:
        lines = (tmp_path / "trials.jsonl").read_text().count("\n") if (tmp_path / "trials.jsonl").exists() else 0
        written.append(lines)
        return lines == 2

    watching = threading.Thread(target=watch, args=(tmp_path, write), kwargs={"every": 0.02})
    watching.start()
    ledger = Ledger(tmp_path / "trials.jsonl")
    for count, cell in enumerate(trials(2)[:2]):
        deadline = time.monotonic() + 120
        while (written or [-1])[-1] < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # nothing changes: nothing is written
        ledger.append(cell)
    watching.join(120)
    assert not watching.is_alive()
    assert written == [0, 1, 2]


def test_a_page_of_a_study_that_runs_loads_itself_again(tmp_path: Path) -> None:
    from finetricks_tuning.report import write_report

    running = summary_of(replace(manifest(list(EFFECTS), 2), ended=""), trials(1))
    assert '<meta http-equiv="refresh" content="2">' in write_report(running, tmp_path, refresh=2).read_text()
    done = summary_of(manifest(list(EFFECTS), 2), trials(2))
    assert "http-equiv" not in write_report(done, tmp_path, refresh=2).read_text()


def test_watching_a_study_that_has_ended_writes_its_page_and_ends(study: Path, told: Told) -> None:
    told(study, "--watch")
    assert "a study of" not in (study / "report.html").read_text()
    assert (study / "report.html").stat().st_size > 10_000


# -- in the terminal -------------------------------------------------------------------------------------


def shown(table: object) -> str:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def status(count: int, **more: object) -> Status:
    rows = [ConfigurationStatus("baseline", 5, 5, 0, 0, 0.8, (0.79, 0.81))]
    rows += [ConfigurationStatus(f"trick{i}", 5, 3, 0, int(i == 7), 0.5 + 0.01 * i, (0.5, 0.9)) for i in range(count)]
    return Status("accuracy", "compare", tuple(rows), 10, 20, 60.0, **more)  # type: ignore[arg-type]


def test_the_live_table_says_how_far_each_configuration_is() -> None:
    text = shown(status_table(status(3), height=40))
    assert "baseline" in text
    assert "0.7900 to 0.8100" in text
    assert "5 of 5" in text
    assert "comparing: 10 of 20 cells done, about 60 s left" in " ".join(text.split())
    over = shown(status_table(replace(status(3), done=20, seconds_left=0.0), height=40))
    assert "comparing: 20 of 20 cells done Ctrl-C" in " ".join(over.split())


def test_of_many_configurations_the_baseline_what_runs_and_the_best_are_shown() -> None:
    text = shown(status_table(status(40), height=12))
    assert len(text.splitlines()) <= 12
    assert [name for name in ("baseline", "trick7 ", "trick39", "trick38", "trick37") if name in text] == [
        "baseline",
        "trick7 ",
        "trick39",
        "trick38",
        "trick37",
    ]
    assert "36 more configurations" in " ".join(text.split())
    assert "trick0" in shown(status_table(status(40, greater_is_better=False), height=12))


def test_the_results_stand_in_a_table() -> None:
    text = shown(results_table(rich()))
    assert "accuracy (baseline 0.8" in text
    assert "▲ helps" in text
