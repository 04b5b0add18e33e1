"""Files that finetricks wrote and that something has changed: ledgers, plans, results, predictions, checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.checkpoint import MANIFEST
from finetricks.folder import METRICS, RECIPE, RESULT, VERSIONS
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.manifest import FILE as PLAN
from finetricks_tuning.summary import LEDGER
from inputs import CURVE, PREDICTIONS, SEEDS, TARGETS, command, good_ledger, little_memory, study_folder


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with little_memory():
        yield


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_folder(tmp_path)


GOOD = json.loads(good_ledger()[0].to_json())
"""A line of the ledger."""


def line(**changed: Any) -> str:
    return json.dumps(GOOD | changed)


LEDGERS: dict[str, tuple[str | bytes, str]] = {
    "a torn last line": (line()[:-5], "trials.jsonl:7 was cut off while it was written"),
    "a torn line before others": (line()[:40] + "\n" + line() + "\n", "trials.jsonl:7 is not a trial"),
    "two lines in one": (line() + line() + "\n", "trials.jsonl:7 is not a trial"),
    "a blank line": ("\n", "trials.jsonl:7 is not a trial"),
    "a line of NULs": (b"\0" * 100 + b"\n", "trials.jsonl:7 is not a trial"),
    "bytes that are no text": (b"\xff\xfe\n", "trials.jsonl:7 is not a trial"),
    "a list": ("[1]\n", "trials.jsonl:7 is not a trial"),
    "null": ("null\n", "trials.jsonl:7 is not a trial"),
    "an empty object": ("{}\n", "trials.jsonl:7 is not a trial (key: field required)"),
    "a key that is a list": (
        line(key=["a"]) + "\n",
        "trials.jsonl:7 is not a trial (key: input should be a valid string)",
    ),
    "a seed in words": (line(seed="one") + "\n", "(seed: input should be a valid integer)"),
    "a seed of true": (line(seed=True) + "\n", "(seed: input should be a valid integer)"),
    "seconds in words": (line(seconds="1 s") + "\n", "(seconds: input should be a valid number)"),
    "metrics that are a number": (line(metrics=5) + "\n", "is not a trial (metrics"),
    "a metric in words": (line(metrics={"valid": {"accuracy": "high"}}) + "\n", "is not a trial (metrics.valid"),
    "a metric of infinity": (
        line(metrics={"valid": {"accuracy": float("inf")}}) + "\n",
        "is not a trial (metrics.valid",
    ),
    "a metric of NaN": (line(metrics={"valid": {"accuracy": float("nan")}}) + "\n", "is not a trial (metrics.valid"),
    "a metric beyond numbers": (line(metrics={"valid": {"accuracy": -1e308}}) + "\n", "is not a trial (metrics.valid"),
    "negative seconds": (line(seconds=-1) + "\n", "is not a trial (seconds"),
    "seconds of infinity": (line(seconds=float("inf")) + "\n", "is not a trial (seconds"),
    "metrics of a list": (line(metrics={"valid": [0.5]}) + "\n", "is not a trial (metrics.valid"),
    "factors that are a list": (line(factors=["stlr"]) + "\n", "is not a trial (factors"),
    "warnings that are a word": (line(warnings="none") + "\n", "is not a trial (warnings"),
    "an environment of nothing": (line(environment=None) + "\n", "is not a trial (environment"),
    "a status that is a number": (line(status=1) + "\n", "is not a trial (status"),
    "very deep": ("[" * 100_000 + "\n", "trials.jsonl:7 is not a trial"),
    "an integer of 5,000 digits": (line(seed=0).replace('"seed": 0', '"seed": ' + "1" * 5000) + "\n", "trials.jsonl:7"),
}


@pytest.mark.parametrize("what", LEDGERS)
def test_a_line_of_the_ledger_that_is_no_trial_is_told_and_the_rest_counts(
    what: str, study: Path, record_property: Callable[[str, object], None]
) -> None:
    added, told = LEDGERS[what]
    path = study / LEDGER
    path.write_bytes(path.read_bytes() + (added if isinstance(added, bytes) else added.encode()))
    answer = command("report", study, "--format", "json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    counted = [warning for warning in summary["warnings"] if told in warning]
    assert counted or any(told in warning for warning in summary["warnings"]), summary["warnings"]
    assert all(len(warning) < 1000 for warning in summary["warnings"])
    assert summary["counts"]["finished"] == 6
    record_property("inputs tried", 1)


@pytest.mark.parametrize("values", [(1e100, -1e100, 1e100), (1e100, 1e100, 1e100), (5e-324, 0.0, -5e-324)])
def test_metrics_at_the_ends_of_numbers_are_summarised(values: tuple[float, ...], study: Path) -> None:
    trials = [
        json.loads(trial.to_json()) | {"metrics": {"valid": {"accuracy": values[(index + index // 2) % 3]}}}
        for index, trial in enumerate(good_ledger())
    ]
    (study / LEDGER).write_text("".join(f"{json.dumps(trial)}\n" for trial in trials))
    answer = command("report", study, "--format", "json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["counts"]["finished"] == 6
    assert command("report", study).code == 0


def test_a_ledger_of_nothing_is_a_study_that_has_not_begun(study: Path) -> None:
    (study / LEDGER).write_text("")
    summary = json.loads(command("report", study, "--format", "json").out)
    assert summary["counts"] == {"planned": 6, "not_run": 6}
    assert summary["warnings"] == []


PLANS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "nothing": ("", ("cells.json cannot be read", "sweep --resume")),
    "half": (SEEDS["plan"][0].decode()[:300], ("cells.json cannot be read",)),
    "a list": ([], ("cells.json cannot be read",)),
    "an empty object": ({}, ("cells.json cannot be read", "field required")),
    "no cells": ({"cells": None}, ("cells.json cannot be read (cells",)),
    "a cell of numbers": ({"cells": [{"key": 1, "configuration": 2, "seed": "x"}]}, ("(cells.0.key: input should be",)),
    "a cell of no configuration": (
        {"cells": [{"key": "k", "configuration": "none", "seed": 1}]},
        ("it has cells of 'none', which is none of its configurations",),
    ),
    "a recommendation of something else": (
        {"recommendation": {"a": 1}},
        ("cells.json cannot be read (configuration: field required)",),
    ),
    "a recommendation of the baseline": (
        {"recommendation": {"configuration": "baseline", "tricks": {}, "recipe": {}, "seeds": [7]}},
        ("it recommends the baseline",),
    ),
    "no configurations": ({"configurations": {}, "cells": []}, ("it names no configuration",)),
    "configurations that are no comparison": (
        {"configurations": {"baseline": {"stlr": "off"}, "stlr": {"l2": "l2"}}},
        ("the configuration 'stlr' has other factors than the first",),
    ),
    "a study of nothing": ({"study": {}}, ("cells.json cannot be read (seeds: field required)",)),
    "a study with another alpha": (
        {"study": {"seeds": [0], "metric": "m", "alpha": 7, "design": "ablation"}},
        ("(alpha",),
    ),
    "a design that is none": (
        {"study": {"seeds": [0, 1, 2], "metric": "accuracy", "alpha": 0.1, "design": "none"}},
        ("design: no such design",),
    ),
    "a strategy that is none": (
        {"study": {"seeds": [0, 1, 2], "metric": "accuracy", "alpha": 0.1, "design": "ablation", "strategy": 3}},
        ("strategy: no such strategy",),
    ),
    "very deep": ("[" * 100_000, ("cells.json cannot be read",)),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_is_none_is_refused(what: str, study: Path, record_property: Callable[[str, object], None]) -> None:
    given, told = PLANS[what]
    if isinstance(given, dict) and given:
        given = json.loads(SEEDS["plan"][0]) | given
    (study / PLAN).write_text(given if isinstance(given, str) else json.dumps(given))
    command("report", study).refuses(*told)
    assert not (study / "report.html").exists()
    record_property("inputs tried", 1)


def test_a_combination_that_only_the_fresh_seeds_ran_is_no_mistake(study: Path) -> None:
    given = json.loads(SEEDS["plan"][0])
    given["recommendation"] = {
        "configuration": "stlr + l2",
        "tricks": {},
        "recipe": {},
        "seeds": [7, 8],
        "effect": None,
    }
    cells = [
        {"key": f"{name}-{seed}", "configuration": name, "seed": seed}
        for name in ("baseline", "stlr + l2")
        for seed in (7, 8)
    ]
    given["cells"] += [cell | {"phase": "confirm"} for cell in cells]
    (study / PLAN).write_text(json.dumps(given))
    with (study / LEDGER).open("a") as ledger:
        ledger.writelines(f"{json.dumps(GOOD | cell)}\n" for cell in cells)
    summary = json.loads(command("report", study, "--format", "json").out)
    assert summary["recommendation"]["effect"]["seeds"] == 2


def test_a_folder_that_holds_no_study(tmp_path: Path) -> None:
    command("report", tmp_path).refuses("holds no study")
    command("report", tmp_path / "none").refuses("holds no study")
    (tmp_path / "file").write_text("")
    command("report", tmp_path / "file").refuses("holds no study")
    command("report", tmp_path / ("a" * 300)).refuses("holds no study")
    command("predict", tmp_path / ("a" * 300), tmp_path / "file").refuses("holds no run")
    command("merge", tmp_path, tmp_path, "--out", tmp_path / "out").refuses("holds no study")


PREDICTED: dict[str, str | bytes] = {
    "nothing": "",
    "a header": "example_id,label,prediction,score:a,score:b\n",
    "another header": "a,b\n1,2\n",
    "a label of no class": PREDICTIONS.replace("0,a,a", "0,z,a"),
    "a score in words": PREDICTIONS.replace("0.9", "high"),
    "ids in words": PREDICTIONS.replace("0,a,a", "first,a,a"),
    "an id twice": PREDICTIONS.replace("1,b,a", "0,b,a"),
    "a row less": PREDICTIONS.rpartition("3,a")[0],
    "bytes that are no text": b"\xff\xfe\x00",
    "NULs": b"\0" * 100,
    "an id of infinity": PREDICTIONS.replace("0,a,a", "inf,a,a"),
    "a quote that stays open": PREDICTIONS + '"',
}


@pytest.mark.parametrize("what", PREDICTED)
def test_predictions_that_are_none_leave_a_report_without_that_interval(
    what: str, study: Path, record_property: Callable[[str, object], None]
) -> None:
    content = PREDICTED[what]
    path = cell_folder(study, "stlr-1") / "predictions" / "valid.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = command("report", study, "--format", "json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert any("no interval over the examples is given" in warning for warning in summary["warnings"])
    assert summary["counts"]["finished"] == 6
    record_property("inputs tried", 1)


CURVES = {
    "nothing": "",
    "a torn line": json.dumps(CURVE[0])[:-4],
    "a list": "[]\n",
    "an epoch in words": json.dumps(CURVE[0] | {"epoch": "one"}),
    "metrics of nothing": json.dumps(CURVE[0] | {"valid": None}),
    "a metric in words": json.dumps(CURVE[0] | {"valid": {"accuracy": "x"}}),
    "very deep": "[" * 100_000,
}


def test_metrics_that_are_none_leave_a_report_without_that_curve(
    study: Path, record_property: Callable[[str, object], None]
) -> None:
    for number, content in enumerate(CURVES.values()):
        key = good_ledger()[number % 6].key
        (cell_folder(study, key) / METRICS).write_text(content)
    assert command("report", study).code == 0
    assert "<html" in (study / "report.html").read_text()
    record_property("inputs tried", len(CURVES))


# -- a run's folder --------------------------------------------------------------------------------------

RUN = "data: {train: train.csv, text: text}\ntraining: {epochs: 1}\ntricks: []\nmodel: m\n"
RESULT_TEXT = SEEDS["result"][0].decode()
FOLDERS: dict[str, tuple[str, str | bytes, tuple[str, ...]]] = {
    "a result of nothing": (RESULT, "", ("result.json", "is no result of a run")),
    "a torn result": (RESULT, RESULT_TEXT[:20], ("result.json", "is no result of a run")),
    "a result that is a list": (RESULT, "[]", ("result.json", "is no result of a run")),
    "a result without metrics": (RESULT, "{}", ("result.json", "valid: field required")),
    "a result in words": (RESULT, RESULT_TEXT.replace("0.5", '"high"'), ("result.json", "valid.accuracy")),
    "a result of bytes": (RESULT, b"\xff\xfe\x00", ("result.json:1", "UTF-16")),
    "a recipe of nothing": (RECIPE, "", ("recipe.yaml:1", "is no recipe of a run")),
    "a recipe that is a list": (RECIPE, "- 1\n", ("recipe.yaml:1", "is no recipe of a run")),
    "a recipe without data": (RECIPE, "training: {}\n", ("made weights for other recipes", "labels nothing")),
    "a recipe with empty data": (RECIPE, "data: {}\ntraining: {}\n", ("recipe.yaml data.train", "is missing")),
    "a recipe of code": (RECIPE, "!!python/object/apply:os.system [ls]\n", ("recipe.yaml:1", "is not known here")),
    "a recipe with an unknown trick": (RECIPE, RUN.replace("[]", "[nonesuch]"), ("tricks.0.nonesuch", "unknown trick")),
    "a recipe with a bad column": (RECIPE, RUN.replace("text: text", "text: 5"), ("recipe.yaml data.text", "got 5")),
    "a recipe with bad training": (RECIPE, RUN.replace("epochs: 1", "epochs: -1"), ("training.epochs", "got -1")),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_runs_folder_that_something_changed_is_refused(
    what: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    name, content, told = FOLDERS[what]
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / RECIPE).write_text(RUN)
    (run / RESULT).write_text(RESULT_TEXT)
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "new.csv").write_text("text\na\n")
    command("predict", run, tmp_path / "new.csv").refuses(*told)
    record_property("inputs tried", 1)


def test_a_run_whose_records_something_changed_is_not_resumed(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)
    (task / "recipe.yaml").write_text("model: model\ndata: {train: train.csv, valid: 0.25}\ntraining: {epochs: 1}\n")
    run = tmp_path / "run"
    run.mkdir()
    for content, told in (("[]", "is no recipe of a run"), ("data: {}\ntraining: {}\n", "of another recipe")):
        (run / RECIPE).write_text(content)
        (run / VERSIONS).write_text('{"libraries": {}, "tricks": {}}')
        command("train", task / "recipe.yaml", "--out", run, "--resume").refuses(told)
        assert set(os.listdir(run)) == {RECIPE, VERSIONS}


def test_a_place_that_can_be_no_folder_is_refused(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)
    (task / "recipe.yaml").write_text("model: model\ndata: {train: train.csv, valid: 0.25}\ntraining: {epochs: 1}\n")
    for place, told in {
        "/dev/null": "is a file; name a folder",
        str(task / "train.csv"): "is a file; name a folder",
        str(task / "train.csv" / "run"): "cannot be made: Not a directory; name another folder",
        str(task / ("a" * 300)): "cannot be made: File name too long",
    }.items():
        command("train", task / "recipe.yaml", "--out", place).refuses(told)


MANIFESTS = {
    "nothing": b"",
    "half": b'{"model.safetensors": {"bytes"',
    "a list": b"[]",
    "null": b"null",
    "a word": b'"x"',
    "a number": b"5",
    "an empty object": b"{}",
    "another checksum": SEEDS["manifest"][0],
    "bytes that are no text": b"\xff\xfe",
    "very deep": b"[" * 100_000,
    "a key that is a list": b'{"model.safetensors": [1, 2]}',
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_checkpoint_whose_manifest_says_otherwise_is_passed_over(
    what: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    TARGETS["manifest"](MANIFESTS[what], tmp_path)  # asserts that the one before is used
    assert (tmp_path / "checkpoints" / "step-00000002" / MANIFEST).read_bytes() == MANIFESTS[what]
    record_property("inputs tried", 1)
