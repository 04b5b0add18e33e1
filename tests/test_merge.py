"""Studies that were run apart are joined, or refused with what keeps them apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.errors import InputError
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.folder import check_folder, writing
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.merge import merge
from finetricks_tuning.prepare import prepare
from finetricks_tuning.rounds import Rounds
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER

ENVIRONMENT = {"libraries": {"torch": "2.13"}, "device": "cpu", "threads": 1, "data": "f" * 64}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def study(task: Path, factors: list[str], seeds: list[int], **more: Any) -> Study:
    recipe = {"model": str(task / "model"), "data": {"train": str(task / "train.csv"), "valid": 0.5}}
    return Study(recipe=recipe, factors=factors, seeds=seeds, **{"confirm": 0, **more})


def accuracy(configuration: str, seed: int) -> float:
    effects = {"baseline": 0.0, "stlr": 0.1, "weight_decay": -0.1, "label_smoothing": 0.0}
    return round(0.5 + sum(effects[part] for part in configuration.split(" + ")) + seed / 100, 4)


def write(of: Study, folder: Path, environment: dict[str, Any] = ENVIRONMENT, **changed: float) -> Path:
    """A study's folder as a sweep leaves it, with results that nothing was trained for."""
    prepared = prepare(of)
    rounds = Rounds(of, prepared.make, greater_is_better=True)
    cells = rounds.next({})
    with writing(folder, of, overwrite=False):
        configurations = {c.name: c.levels for c in of.configurations}
        Manifest(of.to_dict(), configurations, tuple(rounds.planned), (), True, 30).write(folder)
        for cell in cells:
            name = cell.configuration.name
            value = changed.get(f"{name}_{cell.seed}", accuracy(name, cell.seed))
            metrics = {"valid": {"accuracy": value}}
            trial = Trial(cell.key, name, cell.configuration.levels, {}, cell.seed, "finished", metrics, 1.0)
            Ledger(folder / LEDGER).append(Trial(**{**vars(trial), "environment": environment}))
            predictions = cell_folder(folder, cell.key) / "predictions"
            predictions.mkdir(parents=True)
            (predictions / "valid.csv").write_text(f"{name} {cell.seed}\n")
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]


def test_other_seeds_that_were_run_elsewhere(task: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(task, tmp_path / "elsewhere")  # the data lie at another place there
    write(study(task, ["stlr"], [0, 1]), tmp_path / "a")
    write(study(elsewhere, ["stlr"], [1, 2]), tmp_path / "b")
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert merged.notes == ()
    assert merged.summary.counts["not_run"] == 0
    assert merged.summary.counts["finished"] == 6
    assert dict(merged.summary.configurations[1].values) == {0: 0.6, 1: 0.61, 2: 0.62}
    assert (merged.summary.rows[0].estimate, merged.summary.rows[0].seeds) == (pytest.approx(0.1), 3)
    assert len(lines(tmp_path / "out")) == 6
    for line in lines(tmp_path / "out"):
        kept = cell_folder(tmp_path / "out", line["key"]) / "predictions" / "valid.csv"
        assert kept.read_text() == f"{line['configuration']} {line['seed']}\n"
    assert (tmp_path / "out" / "report.html").exists()


def test_a_joined_study_is_resumed_as_any_other(task: Path, tmp_path: Path) -> None:
    write(study(task, ["stlr"], [0]), tmp_path / "a")
    write(study(task, ["weight_decay"], [0, 1]), tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    of = study(task, ["stlr", "weight_decay"], [0, 1])
    check_folder(tmp_path / "out", of, resume=True, overwrite=False)
    trials, _ = Ledger(tmp_path / "out" / LEDGER).read()
    missing = Rounds(of, prepare(of).make, greater_is_better=True).next(trials)
    assert [(cell.configuration.name, cell.seed) for cell in missing] == [("stlr", 1)]


def test_a_cell_that_came_out_otherwise_is_said_and_the_first_kept(task: Path, tmp_path: Path) -> None:
    write(study(task, ["stlr"], [0, 1]), tmp_path / "a")
    write(study(task, ["stlr"], [1, 2]), tmp_path / "b", stlr_1=0.7)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    (note,) = merged.notes
    assert note.startswith(
        f"stlr, seed 1, has other results in {tmp_path / 'b'} than in {tmp_path / 'a'}, which are kept"
    )
    assert merged.summary.configurations[1].values[1] == 0.61


def test_a_cell_that_only_the_second_could_finish_is_taken_from_it(task: Path, tmp_path: Path) -> None:
    write(study(task, ["stlr"], [0]), tmp_path / "a")
    write(study(task, ["stlr"], [0]), tmp_path / "b")
    ledger = tmp_path / "a" / LEDGER
    failed = [line | {"status": "failed", "metrics": {}} for line in lines(tmp_path / "a")]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in failed))
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert merged.summary.counts["finished"] == 2


# -- refused ---------------------------------------------------------------------------------------------


def refusal(task: Path, tmp_path: Path, other: Study, environment: dict[str, Any] = ENVIRONMENT) -> str:
    write(study(task, ["stlr"], [0, 1]), tmp_path / "a")
    write(other, tmp_path / "b", environment)
    with pytest.raises(InputError) as refused:
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def test_another_metric_or_design_is_another_study(task: Path, tmp_path: Path) -> None:
    other = study(task, ["stlr"], [2], metric="macro_f1", design="factorial")
    assert "are not parts of one study: they differ in design, metric" in refusal(task, tmp_path, other)


def test_the_same_cell_of_other_data_is_refused(task: Path, tmp_path: Path) -> None:
    other = shutil.copytree(task, tmp_path / "other")
    (other / "train.csv").write_text((other / "train.csv").read_text().replace("wing", "nest", 3))
    told = refusal(task, tmp_path, study(other, ["stlr"], [1, 2]))
    assert "has another cell 'baseline', seed 1, than the studies before it: data, model" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "NVIDIA H200"}, "another device in"),
        ({"data": "0" * 64}, "another data set in"),
        ({"libraries": {"torch": "2.14"}}, "another torch in"),
    ],
)
def test_other_seeds_run_under_other_circumstances_are_refused(
    task: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    assert told in refusal(task, tmp_path, study(task, ["stlr"], [2]), ENVIRONMENT | change)


def test_factors_that_a_design_cannot_take_together_are_refused(task: Path, tmp_path: Path) -> None:
    write(study(task, ["stlr", "weight_decay"], [0], design="leave_one_out"), tmp_path / "a")
    write(study(task, ["stlr", "label_smoothing"], [0], design="leave_one_out"), tmp_path / "b")
    with pytest.raises(InputError, match="studies of this design can be joined when their factors are the same"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_it_joins_at_least_two_studies_into_a_new_folder(task: Path, tmp_path: Path) -> None:
    write(study(task, ["stlr"], [0]), tmp_path / "a")
    with pytest.raises(InputError, match="at least two"):
        merge([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "a")
    with pytest.raises(InputError, match="holds no study"):
        merge([tmp_path / "a", tmp_path], tmp_path / "out")
