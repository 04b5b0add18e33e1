"""The pages on the literature's arguments quote what their scripts print."""

from __future__ import annotations

import csv
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "examples" / "explanations"
sys.path.insert(0, str(SCRIPTS))
from common import END, PAGES, PICTURES, Experiment  # noqa: E402

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem not in ("common", "texts"))
ON_OTHER_DATA = {"three_states", "carry_over", "domain_gap"}
"""Their pages are about data that does not come with the project."""
NUMBER = r"[-+]?\d+\.\d+(?:e[-+]?\d+)?"


def experiment(name: str) -> Experiment:
    found: Experiment = import_module(name).EXPERIMENT
    return found


def words(figures: str) -> str:
    return re.sub(r" +", " ", re.sub(NUMBER, "N", figures))


def check_figures(told: str, printed: str) -> None:
    """Equal but for the last digits, which depend on the processor."""
    assert words(told) == words(printed)
    for one, other in zip(re.findall(NUMBER, told), re.findall(NUMBER, printed), strict=True):
        assert float(one) == pytest.approx(float(other), rel=0.15, abs=0.05), printed


def shrunk(name: str, **less: Any) -> str:
    torch.set_num_threads(1)
    found = experiment(name)
    figures = found.measure(**less)
    found.drawn(figures)
    return found.shown(figures)


def first_cells(figures: str) -> list[str]:
    return [line.split("|")[1].strip() for line in figures.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", NAMES)
def test_every_script_has_its_page_and_its_picture(name: str) -> None:
    found = experiment(name)
    text = found.page.read_text()
    assert found.name == name
    assert f"<!-- figures: python examples/explanations/{name}.py" in text
    assert f"](../../pictures/arguments/{found.page.stem}.png)" in text
    assert (PICTURES / f"{found.page.stem}.png").stat().st_size > 1000
    assert f"explanation/arguments/{found.page.name}" in (ROOT / "mkdocs.yml").read_text()
    assert f"({found.page.name})" in (PAGES / "index.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_says_of_its_figures_stands_among_them(name: str) -> None:
    """Decimals after the table are quoted from it, or are settings of the script."""
    found = experiment(name)
    figures = set(re.findall(r"\d+\.\d+", found.figures_of_page() + (SCRIPTS / f"{name}.py").read_text()))
    prose = found.page.read_text().split(END)[1]
    quoted = set(
        re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", re.sub(r"(arXiv|sections?)\s+\d+\.\d+( and \d+\.\d+)?", "", prose))
    )
    assert quoted - figures == set()


def test_figures_that_differ_are_found() -> None:
    check_figures("a 0.50 b", "a 0.52 b")
    with pytest.raises(AssertionError):
        check_figures("a 0.50 b", "a 0.70 b")
    with pytest.raises(AssertionError):
        check_figures("a 0.50 b", "c 0.50 b")


def test_step_decay_of_step_1_is_exponential_decay() -> None:
    assert shrunk("step_decay") == experiment("step_decay").figures_of_page()


def test_the_gradient_of_cross_entropy_and_of_both_squared_errors() -> None:
    of = import_module("cross_entropy")
    assert of.share_on_wrong_classes("cross-entropy", 0) == pytest.approx(0.5, abs=1e-4)
    far = torch.tensor([-8.0])  # p = sigmoid(-8) = 0.000335
    assert of.slope("cross-entropy", far).item() == pytest.approx(0.99966, abs=1e-4)
    assert of.slope("MSE of probabilities", far).item() == pytest.approx(4 * 0.99966 * 0.000335, rel=1e-2)
    assert of.slope("MSE of scores", far).item() == pytest.approx(18)  # 2 (-8 - 1)
    assert of.largest_loss("MSE of probabilities") == pytest.approx(2)


@pytest.mark.parametrize(
    ("name", "less"), [("dead_relu", {"seeds": 2, "phases": (1, 1, 1)}), ("tanh_sigmoid", {"seeds": 2, "epochs": 3})]
)
def test_a_script_runs_and_prints_the_rows_of_its_page(name: str, less: dict[str, Any]) -> None:
    assert first_cells(shrunk(name, **less)) == first_cells(experiment(name).figures_of_page())


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ON_OTHER_DATA])
def test_a_page_quotes_what_its_script_prints(name: str) -> None:
    check_figures(experiment(name).figures_of_page(), shrunk(name))


@pytest.mark.nightly
def test_the_three_states_run_on_packaged_data() -> None:
    printed = shrunk("three_states", seeds=2, rows=24, valid=0.02, epochs=1)
    assert first_cells(printed) == first_cells(experiment("three_states").figures_of_page())


@pytest.mark.nightly
def test_the_scripts_on_texts_run_on_any_files(tmp_path: Path) -> None:
    for name, ends in (("one", ("cat", "dog")), ("two", ("red", "blue"))):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = [(f"number {row} is a {ends[row % 2]}", ends[row % 2]) for row in range(40)]
            csv.writer(file).writerows([("text", "label"), *rows])
    one, two = (str(tmp_path / f"{name}.csv") for name in ("one", "two"))
    small = {"seeds": 2, "rows": 16, "valid": 20, "epochs": 1, "max_length": 12}
    for name, files in (("carry_over", {"first": one, "second": two}), ("domain_gap", {"train": one})):
        assert first_cells(shrunk(name, **files, **small)) == first_cells(experiment(name).figures_of_page())
