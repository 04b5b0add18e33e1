"""What comes of a study's ledger: the summary as data, and the report as a page that needs nothing beside it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from finetricks.errors import InputError
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.report import duration, render, write_report
from finetricks_tuning.summary import Summary, summarise, summary_of

HOSTILE = '<script>alert("x")</script>'
EFFECTS = {"baseline": 0.0, "stlr": 0.05, "decay(factor=2.6)": -0.04, "cosine": 0.0}
BLOCKS = [0.80, 0.84, 0.78, 0.83, 0.81]
NOISE = {"baseline": [1, -1, 2, -2, 0], "stlr": [-1, 1, 0, 2, -2], "decay(factor=2.6)": [0, 2, -1, 1, -2]}


def manifest(names: list[str], seeds: int, **study: object) -> Manifest:
    factors = [name.partition("(")[0] for name in names[1:]]
    levels = {
        name: {factor: (name if name.startswith(factor) else "off") for factor in factors}
        if name != "baseline"
        else dict.fromkeys(factors, "off")
        for name in names
    }
    given = {"recipe": {"model": "minilm"}, "factors": factors, "design": "ablation", "seeds": list(range(seeds))}
    return Manifest(
        study=given | {"metric": "accuracy", "alpha": 0.05, **study},
        configurations=levels,
        cells=tuple(PlannedCell(f"{name}/{seed}", name, seed) for seed in range(seeds) for name in names),
        left_out=({"name": f"stlr + {HOSTILE}", "reason": "both own the 'schedule' hook; pick one"},),
        greater_is_better=True,
        valid_examples=50,
        warnings=("the baseline has no learning-rate schedule",),
        command="finetricks sweep study.yaml --out results",
    )


def trial(name: str, seed: int, value: float | None, **more: object) -> Trial:
    metrics = {} if value is None else {"valid": {"accuracy": value}, "test": None}
    environment = {"python": "3.11", "tricks": {name: "finetricks 0.1.0"}}
    return Trial(
        f"{name}/{seed}",
        name,
        {},
        {},
        seed,
        **{"status": "finished", "metrics": metrics, "seconds": 20.0, "environment": environment, **more},
    )  # type: ignore[arg-type]


def trials(seeds: int = 5) -> list[Trial]:
    return [
        trial(name, seed, BLOCKS[seed] + effect + 0.001 * NOISE.get(name, [2, 0, -1, -2, 1])[seed])
        for seed in range(seeds)
        for name, effect in EFFECTS.items()
    ]


def summary(seeds: int = 5) -> Summary:
    return summary_of(manifest(list(EFFECTS), seeds), trials(seeds))


class Page(HTMLParser):
    """The tags of a page, and whether they close in order."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# -- summary ---------------------------------------------------------------------------------------------


def test_the_summary_holds_a_row_a_level_with_its_verdict() -> None:
    given = json.loads(json.dumps(summary().to_dict()))
    assert [(row["name"], row["verdict"]) for row in given["rows"]] == [
        ("stlr", "helps"),
        ("decay(factor=2.6)", "hurts"),
        ("cosine", "undecided"),
    ]
    row = given["rows"][0]
    assert row["ci"][0] < row["estimate"] < row["ci"][1]
    assert row["p"] <= row["p_adjusted"] <= 0.05
    assert row["seeds"] == 5
    assert given["baseline_mean"] == pytest.approx(sum(BLOCKS) / 5)
    assert given["counts"] == {"planned": 20, "finished": 20, "not_run": 0}
    assert given["seconds"] == 400.0


def test_the_summary_says_what_the_design_estimates_and_cannot_see() -> None:
    design = json.loads(json.dumps(summary().to_dict()))["design"]
    assert design["name"] == design["label"] == "ablation"
    assert design["estimand"] == "added to the baseline"
    assert (design["configurations"], design["left_out"], design["aliases"]) == (4, 1, {})


def test_the_answer_is_a_sentence() -> None:
    answer = summary().answer
    assert answer.startswith("stlr (+0.05")
    assert "decay(factor=2.6) (-0.04" in answer
    assert answer.endswith("1 more is undecided (accuracy on valid, 5 paired seeds).")


def test_one_seed_gives_no_verdict_and_says_so() -> None:
    found = summary(seeds=1)
    assert {row.verdict for row in found.rows} == {"no verdict"}
    assert found.answer == "no verdict; one seed gives no interval."
    assert "one seed gives no interval" in render(found)


def test_failed_and_diverged_cells_are_counted_and_listed() -> None:
    given = trials()
    given[1] = trial("stlr", 0, None, status="diverged", error="diverged at step 3: the loss is not finite")
    given[2] = trial("decay(factor=2.6)", 0, None, status="failed", error=HOSTILE)
    found = summary_of(manifest(list(EFFECTS), 5), given)
    assert found.counts == {"planned": 20, "finished": 18, "diverged": 1, "failed": 1, "not_run": 0}
    assert [(t.configuration, t.status) for t in found.failures] == [
        ("stlr", "diverged"),
        ("decay(factor=2.6)", "failed"),
    ]
    assert found.rows[0].seeds == 4
    assert "the loss is not finite" in render(found)


def test_a_metric_that_a_cell_could_not_compute_counts_as_lost() -> None:
    given = trials()
    given[1] = trial("stlr", 0, None, metrics={"valid": {"accuracy": None}, "test": None})
    found = summary_of(manifest(list(EFFECTS), 5), given)
    assert (found.rows[0].seeds, found.rows[0].lost) == (4, 1)


def test_a_study_that_is_not_done_is_summarised_as_far_as_it_is() -> None:
    found = summary_of(manifest(list(EFFECTS), 5), trials(2))
    assert found.counts["not_run"] == 12
    assert not found.complete
    assert found.answer.startswith("So far (8 of the planned cells): ")
    empty = summary_of(manifest(list(EFFECTS), 5), [])
    assert "no comparison with the baseline could be made" in empty.answer
    assert "<svg" not in render(empty)


def test_trials_of_an_earlier_plan_do_not_enter(tmp_path: Path) -> None:
    manifest(list(EFFECTS), 2).write(tmp_path)
    ledger = Ledger(tmp_path / "trials.jsonl")
    for entry in [*trials(2), trial("stlr", 9, 0.1)]:
        ledger.append(entry)
    found = summarise(tmp_path)
    assert found.counts == {"planned": 8, "finished": 8, "not_run": 0}


def test_warnings_of_plans_and_mixed_versions_are_said() -> None:
    given = trials()
    given[1] = trial("stlr", 0, 0.85, warnings=("7 of 8 layers never thaw",))
    given[2] = trial("decay(factor=2.6)", 0, 0.7, environment={"python": "3.12"})
    found = summary_of(manifest(list(EFFECTS), 5), given)
    assert "stlr: 7 of 8 layers never thaw" in found.warnings
    assert any("not all run with the same versions" in warning for warning in found.warnings)


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        summarise(tmp_path)
    (tmp_path / "cells.json").write_text("{")
    with pytest.raises(InputError, match=r"cells\.json cannot be read"):
        summarise(tmp_path)


# -- report ----------------------------------------------------------------------------------------------


def test_the_report_is_one_page_that_loads_nothing() -> None:
    text = render(summary())
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")]
    loaded = [attrs.get("href") or attrs.get("src") or attrs.get("xlink:href") for _, attrs in page.tags]
    assert all(address is None or address.startswith("#") for address in loaded)
    assert "url(http" not in text
    assert "@import" not in text


def test_the_report_tells_what_a_team_asks() -> None:
    found = summary()
    text = Page(render(found)).text
    for expected in (
        found.answer,
        "added to the baseline",
        "the baseline has no learning-rate schedule",
        "both own the 'schedule' hook; pick one",
        "finetricks sweep study.yaml --out results",
        "metric: accuracy",
        "20 of 20",
        "finetricks 0.1.0",
    ):
        assert expected in text


def test_aliases_and_generators_of_a_design_stand_in_the_report() -> None:
    levels = {"a": "off", "b": "off", HOSTILE: "off"}
    on = [(), ("a", "b"), ("a", HOSTILE), ("b", HOSTILE)]
    configurations = {" + ".join(names) or "baseline": levels | {name: name for name in names} for names in on}
    given = replace(
        manifest(list(configurations), 2, design={"fractional_factorial": {"resolution": 3}}),
        configurations=configurations,
    )
    cells = [trial(name, seed, 0.8 + 0.01 * seed) for name in configurations for seed in range(2)]
    found = summary_of(given, cells)
    page = Page(render(found))
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"{HOSTILE} = -a x b" in page.text
    assert f"-1 b x {HOSTILE}" in page.text
    assert "fractional_factorial(resolution=3): 4 configurations a seed, resolution 3." in page.text
    assert found.rows[0].estimand == "averaged over the other factors, on and off (4 configurations)"


def test_labels_and_errors_cannot_inject_anything() -> None:
    names = ["baseline", HOSTILE]
    given = [
        trial(name, seed, 0.8 + 0.01 * seed + 0.02 * (name == HOSTILE) * seed) for name in names for seed in range(3)
    ]
    given.append(trial(HOSTILE, 3, None, status="failed", error=HOSTILE, warnings=(HOSTILE,)))
    page = Page(render(summary_of(manifest(names, 4, note=HOSTILE), given)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text


def test_pictures_have_a_text_alternative_unique_ids_and_the_pages_colours() -> None:
    text = render(summary())
    pictures = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        assert "accuracy" in (root.get("aria-label") or "")
        assert "currentColor" in picture
        assert "#010101" not in picture
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_verdict_is_told_by_word_and_sign_not_by_colour_alone() -> None:
    text = Page(render(summary())).text
    for expected in ("▲ helps", "▼ hurts", "○ undecided"):
        assert expected in " ".join(text.split())


def test_the_same_results_make_the_same_page(tmp_path: Path) -> None:
    first = write_report(summary(), tmp_path)
    assert first == tmp_path / "report.html"
    assert first.read_text() == render(summary())


@pytest.mark.parametrize(
    ("seconds", "shown"), [(48, "48 s"), (89.6, "90 s"), (720, "12 min"), (3599, "1 h 00 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser_the_page_fits_and_logs_no_error(tmp_path: Path, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    write_report(summary(), tmp_path)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        assert messages == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg").count() == 2
        browser.close()
