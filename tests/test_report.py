"""What comes of a study's ledger: the summary as data, and the report as a page that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from finetricks.errors import InputError
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.learning import learning_curves
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.pictures.heat_map import heat_map
from finetricks_tuning.plans import plan_path
from finetricks_tuning.report import render, write_report
from finetricks_tuning.summary import Summary, summarise, summary_of
from finetricks_tuning.text import duration

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
        cells=tuple(PlannedCell(f"{name}-{seed}", name, seed) for seed in range(seeds) for name in names),
        left_out=({"name": f"stlr + {HOSTILE}", "reason": "both own the 'schedule' hook; pick one"},),
        greater_is_better=True,
        valid_examples=50,
        warnings=("the baseline has no learning-rate schedule",),
        command="finetricks sweep study.yaml --out results",
        ended="every cell has a result",
    )


def trial(name: str, seed: int, value: float | None, **more: object) -> Trial:
    metrics = {} if value is None else {"valid": {"accuracy": value}, "test": None}
    environment = {"python": "3.11", "tricks": {name: "finetricks 0.1.0"}}
    return Trial(
        f"{name}-{seed}",
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
    found = summary_of(replace(manifest(list(EFFECTS), 5), ended=""), trials(2))
    assert found.counts["not_run"] == 12
    assert not found.complete
    assert found.answer.startswith("So far (8 cells): ")
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
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe")]
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]  # its own, within the page
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
    assert [tag for tag, _ in page.tags].count("script") == 1
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
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert HOSTILE in page.text


def test_pictures_have_a_text_alternative_unique_ids_and_the_pages_colours() -> None:
    text = render(summary())
    pictures = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == 3
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


# -- what a recommendation, decisions and interactions add -------------------------------------------------


def rich() -> Summary:
    """Two tricks in all combinations on four seeds, one of them recommended and run on two fresh seeds."""
    names = {"baseline": ("off", "off"), "a": ("a", "off"), "b": ("off", "b"), "a + b": ("a", "b")}
    given = manifest(["baseline", "a", "b"], 4, design="factorial", strategy="sequential", equivalence=0.004)
    compared = [PlannedCell(f"{name}-{seed}", name, seed) for seed in range(4) for name in names]
    fresh = [PlannedCell(f"{name}-{seed}", name, seed, "confirm") for seed in (8, 9) for name in ("baseline", "a")]
    recommendation = {"configuration": "a", "tricks": {"a": {}}, "recipe": {"model": "minilm", "tricks": [{"a": {}}]}}
    means = {"baseline": 0.80, "a": 0.85, "b": 0.80, "a + b": 0.91}
    jitter = {name: 0.001 * index for index, name in enumerate(names)}
    cells = [*compared, *fresh]
    return summary_of(
        replace(
            given,
            configurations={name: dict(zip("ab", levels, strict=True)) for name, levels in names.items()},
            cells=tuple(cells),
            decisions=("After 2 seeds a is decided (p = 0.01), at +0.0500.",),
            recommendation=recommendation | {"seeds": [8, 9], "effect": None},
        ),
        [
            trial(
                cell.configuration,
                cell.seed,
                means[cell.configuration] + jitter[cell.configuration] * cell.seed % 0.004,
            )
            for cell in cells
        ],
    )


def test_cells_that_confirm_do_not_enter_the_comparison() -> None:
    found = rich()
    assert found.baseline.values.keys() == {0, 1, 2, 3}
    assert found.costs == {"compare": (16, 320.0), "confirm": (4, 80.0)}
    assert found.counts["finished"] == 20
    assert found.recommendation is not None
    effect = found.recommendation.effect
    assert effect is not None
    assert effect.seeds == 2
    assert effect.estimate == pytest.approx(0.0501, abs=0.001)


def test_the_report_says_what_to_use_and_what_fresh_seeds_say_of_it() -> None:
    text = " ".join(Page(render(rich())).text.split())
    assert "To use: a" in text
    assert "on 2 fresh seeds" in text
    assert "After 2 seeds a is decided (p = 0.01), at +0.0500." in text
    assert "Ended: every cell has a result." in text
    assert "within ±0.004 makes no difference that matters" in text
    assert "- a: {}" in text  # the recipe, to copy


def test_a_design_that_holds_interactions_shows_them_and_one_that_does_not_says_so() -> None:
    found = rich()
    assert [row.name for row in found.interactions] == ["a x b"]
    assert "Interactions of each two levels" in render(found)
    assert "does not tell the interactions of two levels apart" in " ".join(render(summary()).split())


def test_the_picture_of_interactions_has_room_beside_long_names(recwarn: pytest.WarningsRecorder) -> None:
    found = rich()
    long = {label: f"{label}(gamma=0.2, decay=exponential, objective=masked)" for label in "ab"}
    levels = found.manifest.configurations.items()
    renamed = {name: {key: long.get(label, label) for key, label in of.items()} for name, of in levels}
    row = replace(found.interactions[0], name=" x ".join(long.values()))
    picture = heat_map(replace(found, manifest=replace(found.manifest, configurations=renamed), interactions=(row,)))
    assert all(name in picture for name in long.values())
    assert [str(warning.message) for warning in recwarn] == []


def test_learning_curves_and_plans_are_read_from_the_studys_folder(tmp_path: Path) -> None:
    given = manifest(list(EFFECTS), 2)
    for cell in given.cells:
        place = cell_folder(tmp_path, cell.key)
        place.mkdir(parents=True, exist_ok=True)
        lines = [{"epoch": epoch, "valid": {"accuracy": epoch / 4}} for epoch in (1, 2, 3)]
        (place / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    cells = [PlannedCell(f"{n}{c.key}", c.configuration, c.seed) for n, c in enumerate(given.cells)]
    assert learning_curves(tmp_path, given, ["stlr"]) == {"stlr": {1: [0.25] * 2, 2: [0.5] * 2, 3: [0.75] * 2}}
    assert learning_curves(tmp_path, replace(given, cells=tuple(cells)), ["stlr"]) == {}  # not yet run
    plan_path(tmp_path, 1).parent.mkdir()
    plan_path(tmp_path, 1).write_text('<svg width="1"><script>alert(1)</script></svg>')
    text = render(summary_of(given, trials(2)), tmp_path)
    assert "accuracy over the epochs by configuration" in text
    assert "Learning rates and frozen layers of stlr over the run." in text
    drawn = base64.b64encode(plan_path(tmp_path, 1).read_bytes()).decode()
    assert f'src="data:image/svg+xml;base64,{drawn}"' in text  # in an image a script is not run
    assert "alert(1)" not in text


def test_long_names_are_numbered_in_pictures_and_keep_their_place() -> None:
    long = {"baseline": 0.0, "a" * 60: 0.01, "b" * 60: 0.02}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib, when a name leaves no room for the picture
        given = [trial(name, seed, BLOCKS[seed] + effect) for seed in range(3) for name, effect in long.items()]
        text = render(summary_of(manifest(list(long), 3), given))
    strips = next(svg for svg in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL) if "every finished cell" in svg)
    assert "#2" in strips
    assert "b" * 60 not in strips


def test_of_many_configurations_the_baseline_and_the_best_are_drawn() -> None:
    names = ["baseline", *(f"trick{i}" for i in range(40))]
    given = [
        trial(name, seed, 0.5 + 0.001 * index + 0.01 * seed) for seed in range(2) for index, name in enumerate(names)
    ]
    text = render(summary_of(manifest(names, 2), given))
    strips = next(svg for svg in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL) if "every finished cell" in svg)
    assert "trick39" in strips
    assert "baseline" in strips
    assert "trick0<" not in strips
    assert "17 are not" in text


# -- in a browser ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if shutil.which("chromium") is None:
        pytest.skip("no browser here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Any, path: Path, **settings: Any) -> tuple[Any, list[str]]:
    page = browser.new_page(**settings)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(path.as_uri())
    return page, messages


@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser_the_page_fits_and_logs_no_error(browser: Any, tmp_path: Path, width: int) -> None:
    page, messages = opened(browser, write_report(rich(), tmp_path), viewport={"width": width, "height": 800})
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg").count() == 4
    for picture in page.locator("figure svg").all():
        assert picture.bounding_box()["height"] > 50


def test_in_a_browser_tables_sort_by_number_and_by_text(browser: Any, tmp_path: Path) -> None:
    page, messages = opened(browser, write_report(summary(), tmp_path))
    rows, heading = page.locator("table.sorts").first.locator("tbody th"), page.locator("table.sorts").first

    def names() -> list[str]:
        return [text.strip() for text in rows.all_inner_texts()]

    heading.get_by_role("button", name="Difference").click()
    assert names() == ["decay(factor=2.6)", "cosine", "stlr"]
    heading.get_by_role("button", name="Difference").press("Enter")  # by the keyboard too
    assert names() == ["stlr", "cosine", "decay(factor=2.6)"]
    assert heading.locator("th[aria-sort=descending]").inner_text().startswith("Difference")
    heading.get_by_role("button", name="Level").click()
    assert names() == ["cosine", "decay(factor=2.6)", "stlr"]
    assert messages == []


def test_in_a_browser_the_page_is_dark_where_the_reader_wants_it_dark(browser: Any, tmp_path: Path) -> None:
    path = write_report(summary(), tmp_path)
    light, dark = (
        opened(browser, path, color_scheme=scheme)[0].evaluate(
            "[document.body, document.querySelector('svg')].map((e) => [getComputedStyle(e).backgroundColor, "
            "getComputedStyle(e).color])"
        )
        for scheme in ("light", "dark")
    )
    assert light[0] == ["rgb(255, 255, 255)", "rgb(28, 32, 36)"]
    assert dark[0] == ["rgb(22, 24, 28)", "rgb(232, 234, 237)"]
    assert dark[1][1] == "rgb(232, 234, 237)"  # the pictures' ink is the page's


def test_in_a_browser_what_is_to_be_copied_is_copied_without_the_button(browser: Any, tmp_path: Path) -> None:
    page, messages = opened(browser, write_report(summary(), tmp_path))
    page.locator("pre", has_text="finetricks sweep").get_by_role("button", name="Copy").click()
    assert page.evaluate("getSelection().toString()") == "finetricks sweep study.yaml --out results"
    assert messages == []
