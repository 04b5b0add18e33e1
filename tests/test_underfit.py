"""A study that compares regularisers beside a baseline that underfits is told so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import tiny
from finetricks.folder import METRICS
from finetricks.tasks import load_task
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.results import write_summary
from finetricks_tuning.study import Study
from finetricks_tuning.underfit import loss_of_the_shares, regularisers, underfit

SHARES = math.log(2)  # two classes of equal size
KEYS = ("baseline-0", "baseline-1", "l2-0", "l2-1")


def study(folder: Path, factors: list[object], *tricks: str) -> Study:
    data = {"train": str(folder / "train.csv"), "valid": 0.2}
    recipe = {"model": str(folder / "model"), "data": data, "tricks": list(tricks)}
    return Study(recipe=recipe, factors=factors, seeds=2)  # type: ignore[arg-type]


def manifest(of: Study, shares: float | None = SHARES) -> Manifest:
    return Manifest(
        study=of.to_dict(),
        configurations={"baseline": {"l2": "off"}, "l2": {"l2": "l2"}},
        cells=tuple(PlannedCell(key, key.partition("-")[0], int(key[-1])) for key in KEYS),
        left_out=(),
        greater_is_better=True,
        valid_examples=12,
        regularisers=regularisers(of),
        loss_of_the_shares=shares,
    )


def trials(*lost: str) -> dict[str, Trial]:
    metrics = {"valid": {"accuracy": 0.5}, "test": None}
    return {
        key: Trial(key, key.partition("-")[0], {}, {}, int(key[-1]), "failed" if key in lost else "finished", metrics)
        for key in KEYS
    }


def write_losses(folder: Path, losses: dict[str, list[float | None]]) -> None:
    for key, values in losses.items():
        place = cell_folder(folder, key)
        place.mkdir(parents=True)
        lines = [json.dumps({"epoch": epoch, "train_loss": loss, "valid": {}}) for epoch, loss in enumerate(values, 1)]
        (place / METRICS).write_text("\n".join(lines) + "\n")


def test_the_regularisers_of_a_study_are_told_by_their_hook_or_their_name(tmp_path: Path) -> None:
    tiny.write_task(tmp_path)
    factors = [
        "stlr",
        "l2",
        {"dropout": {"p": {"values": [0.1, 0.3]}}},
        {"one_of": ["weight_decay", "l1"]},
        "gradual_unfreezing",
    ]
    assert regularisers(study(tmp_path, factors)) == ("l2", "dropout", "weight_decay", "l1")


def test_the_loss_of_the_shares_is_the_entropy_of_the_labels_in_train(tmp_path: Path) -> None:
    of = study(tiny.write_task(tmp_path), ["l2"])
    assert of.recipe.data is not None
    task = load_task(str(of.recipe.model), of.recipe.data)
    counts = [list(task.splits["train"]["labels"]).count(label) for label in (0, 1)]
    assert counts == [24, 24]  # four fifths of thirty and thirty
    assert loss_of_the_shares(of, task) == pytest.approx(SHARES)
    for trick in ("label_smoothing", "mse", "l1"):  # the training loss is then no cross-entropy alone
        assert loss_of_the_shares(study(tmp_path, ["l2"], trick), task) is None


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ({"baseline-0": [0.69, 0.4], "baseline-1": [0.69, 0.44]}, "ended at 0.42"),  # above half of 0.69
        ({"baseline-0": [0.69, 0.4], "baseline-1": [0.69, 0.2]}, None),  # 0.30 in the mean
        ({"baseline-0": [0.69, None], "l2-0": [0.69, 0.69]}, None),  # nothing is known of the baseline
    ],
)
def test_a_baseline_underfits_whose_last_loss_is_above_half_of_it(
    tmp_path: Path, losses: dict[str, list[float | None]], told: str | None
) -> None:
    write_losses(tmp_path, losses)
    of = study(tiny.write_task(tmp_path), ["l2"])
    found = underfit(tmp_path, manifest(of), trials())
    assert len(found) == (told is not None)
    if told:
        assert told in found[0]
        assert "gives 0.69; beside it l2 can only look useless or harmful" in found[0]


def test_only_finished_cells_of_a_study_that_compares_regularisers_say_so(tmp_path: Path) -> None:
    write_losses(tmp_path, {"baseline-0": [0.69], "baseline-1": [0.1]})
    tiny.write_task(tmp_path)
    of = study(tmp_path, ["l2"])
    assert underfit(tmp_path, manifest(of), trials("baseline-0")) == []
    assert len(underfit(tmp_path, manifest(of), trials("baseline-1"))) == 1
    assert underfit(tmp_path, manifest(of, shares=None), trials("baseline-1")) == []
    assert underfit(tmp_path, manifest(study(tmp_path, ["stlr"])), trials("baseline-1")) == []


def test_the_summary_and_the_report_say_it(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_losses(folder, {key: [0.69, 0.6] for key in KEYS})
    manifest(study(tiny.write_task(tmp_path), ["l2"])).write(folder)
    for trial in trials().values():
        Ledger(folder / "trials.jsonl").append(trial)
    summary = write_summary(folder)
    assert summary.warnings[0].startswith("the baseline underfits: its training loss ended at 0.60")
    assert summary.warnings[0] in (folder / "report.html").read_text().replace("&#x27;", "'").replace("&#39;", "'")
