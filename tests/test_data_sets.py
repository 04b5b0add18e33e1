"""One study on several data sets: how it is written, run and resumed, and what is said across them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from finetricks.errors import InputError, RecipeError
from finetricks_tuning.across import Across
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.study import Study
from finetricks_tuning.summary import Summary, summary_of
from finetricks_tuning.sweep import sweep
from finetricks_tuning.sweep_each import sweep_each

pytestmark = pytest.mark.waits

# -- how it is written -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,x\nb,y\n")
    return tmp_path


def written(folder: Path, data_sets: str, data: str = "  data: {train: one.csv, text: text}\n") -> Study:
    (folder / "study.yaml").write_text(
        f"recipe:\n  model: minilm\n{data}factors: [stlr]\nseeds: 2\ndata_sets:\n{data_sets}", encoding="utf-8"
    )
    return Study.load(folder / "study.yaml")


def test_each_data_set_replaces_keys_of_the_recipes_data_with_paths_relative_to_the_study(folder: Path) -> None:
    data = "  data: {train: one.csv, valid: 0.3, rows: 7}\n"
    study = written(folder, "  one: {}\n  two: {train: two.csv, rows: 5}\n", data)
    found = {name: one.recipe.data for name, one in study.data_sets.items()}
    assert {name: (d.train, d.valid, d.rows) for name, d in found.items() if d} == {
        "one": (str(folder / "one.csv"), 0.3, 7),
        "two": (str(folder / "two.csv"), 0.3, 5),
    }
    assert Study(**study.to_dict()).to_dict() == study.to_dict()


def test_a_study_of_data_sets_needs_no_data_in_its_recipe(folder: Path) -> None:
    study = written(folder, "  a: {train: one.csv}\n  b: {train: two.csv}\n", data="")
    assert list(study.data_sets) == ["a", "b"]
    assert [c.name for c in study.data_sets["b"].configurations] == ["baseline", "stlr"]


@pytest.mark.parametrize(
    ("data_sets", "told"),
    [
        ("  one: {train: one.csv}\n", "at least two"),
        ("  one: {train: one.csv}\n  ../two: {train: two.csv}\n", "it names a folder"),
        ("  one: {train: one.csv}\n  two: two.csv\n", "keys of a recipe's `data`"),
        ("  one: {train: one.csv}\n  two: {trane: two.csv}\n", r"data_sets.two.trane: unknown key 'trane'"),
        ("  one: {train: one.csv}\n  two: {train: no.csv}\n", r"data_sets.two.train: no such file"),
    ],
)
def test_what_is_no_data_set_is_refused_with_its_place(folder: Path, data_sets: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        written(folder, data_sets)


# -- how it is run ---------------------------------------------------------------------------------------


def test_each_data_set_has_a_study_of_its_own_and_all_have_one_answer(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)
    data = {"train": str(task / "train.csv"), "valid": 0.5}
    study = Study(
        recipe={
            "model": str(task / "model"),
            "data": data,
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2},
        },
        factors=["stlr"],
        seeds=2,
        confirm=0,
        data_sets={"whole": {}, "part": {"rows": 12}},
    )
    with pytest.raises(InputError, match="sweep_each"):
        sweep(study, tmp_path / "out")
    across = sweep_each(study, tmp_path / "out")
    assert across.complete
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["stlr"]
    estimates = [record["data_sets"][name]["rows"][0]["estimate"] for name in ("whole", "part")]
    assert record["rows"][0]["estimate"] == pytest.approx(sum(estimates) / 2)
    assert "whole" in (tmp_path / "out" / "report.html").read_text()

    ledger = tmp_path / "out" / "data_sets" / "part" / "trials.jsonl"
    assert len(Ledger(ledger).read()[0]) == 4
    before = ledger.read_bytes()
    again = sweep_each(study, tmp_path / "out", resume=True)
    assert (again.answer, ledger.read_bytes()) == (across.answer, before)


# -- across them -----------------------------------------------------------------------------------------


def summary(differences: list[float], greater_is_better: bool = True) -> Summary:
    """A baseline of 0.5 in every seed, and `stlr` beside it."""
    seeds = range(len(differences))
    names = ("baseline", "stlr")
    manifest = Manifest(
        study={"recipe": {}, "factors": ["stlr"], "design": "ablation", "seeds": list(seeds)}
        | {"metric": "accuracy", "alpha": 0.05, "correction": "holm"},
        configurations={"baseline": {"stlr": "off"}, "stlr": {"stlr": "stlr"}},
        cells=tuple(PlannedCell(f"{name}-{seed}", name, seed) for seed in seeds for name in names),
        left_out=(),
        greater_is_better=greater_is_better,
        valid_examples=50,
        ended="every cell has a result",
    )
    values = {("baseline", seed): 0.5 for seed in seeds} | {("stlr", s): 0.5 + differences[s] for s in seeds}
    return summary_of(
        manifest,
        [
            Trial(f"{name}-{seed}", name, {}, {}, seed, "finished", {"valid": {"accuracy": value}})
            for (name, seed), value in values.items()
        ],
    )


def test_the_mean_over_data_sets_has_the_interval_of_welch_and_satterthwaite() -> None:
    """Differences .12 +- .02/sqrt(3) and .04 +- .02/sqrt(3), 2 degrees of freedom each: .08 +- .008165, 4 degrees.

    t(.975, 4) = 2.7764, so .08 +- .02267; Q = 2 (.04)^2 / (.02^2 / 3) = 24.
    """
    across = Across.of({"a": summary([0.10, 0.12, 0.14]), "b": summary([0.02, 0.04, 0.06])})
    (row,) = across.rows
    assert row.estimate == pytest.approx(0.08)
    assert row.standard_error == pytest.approx(0.0081650, abs=1e-7)
    assert row.ci == pytest.approx((0.05733, 0.10267), abs=1e-5)
    assert row.verdict == "helps"
    assert "a +0.1200, b +0.0400" in row.note
    assert "differ by more than chance (p = 9.6e-07)" in row.note
    assert across.answer == "On average over a, b: stlr helps (+0.080) (accuracy on valid)."


def test_data_sets_that_agree_are_not_said_to_differ() -> None:
    across = Across.of({"a": summary([0.10, 0.12, 0.14]), "b": summary([0.11, 0.12, 0.13])})
    assert "differ" not in across.rows[0].note


def test_less_can_be_better() -> None:
    parts = {name: summary([0.10, 0.12, 0.14], greater_is_better=False) for name in ("a", "b")}
    assert Across.of(parts).rows[0].verdict == "hurts"


@pytest.mark.parametrize(("by", "row"), [(-1, "lost_without"), (1, "lost")])
def test_what_one_side_lost_on_any_data_set_is_not_said_to_be_better_or_worse(by: int, row: str) -> None:
    parts = {name: summary([by * d for d in (0.10, 0.12, 0.14)]) for name in ("a", "b")}
    assert Across.of(parts).rows[0].verdict == ("helps" if by > 0 else "hurts")
    parts["b"] = replace(parts["b"], rows=tuple(replace(r, **{row: 2}) for r in parts["b"].rows))
    (found,) = Across.of(parts).rows
    assert (found.verdict, getattr(found, row)) == ("undecided", 2)
    assert found.note.endswith(f"so it is not said to {'help' if by > 0 else 'hurt'}")


def test_a_data_set_without_an_estimate_is_named_and_one_seed_gives_no_verdict() -> None:
    across = Across.of({"a": summary([0.1, 0.12, 0.14]), "b": summary([])})
    assert "no estimate on b" in across.rows[0].note
    single = Across.of({"a": summary([0.1]), "b": summary([0.2])})
    assert (single.rows[0].estimate, single.rows[0].ci) == (pytest.approx(0.15), None)
    assert single.rows[0].verdict == "no verdict"
    assert "a data set gives no interval" in single.rows[0].note
