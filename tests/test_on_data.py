"""The interval over seeds and examples, and what each example contributes to a metric."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from finetricks.tasks.metrics import METRICS, compute_metrics
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.example_values import example_values
from finetricks_tuning.manifest import PlannedCell
from finetricks_tuning.on_data import Examples

CLASSES = ("no", "yes", "maybe")


def write(path: Path, rows: list[tuple[object, ...]], classes: tuple[str, ...] = CLASSES) -> Path:
    """A predictions file: example, label, prediction, scores."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["example_id", "label", "prediction", *(f"score:{name}" for name in classes)])
        writer.writerows(rows)
    return path


def classification(path: Path, count: int = 40, seed: int = 0) -> tuple[Path, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores, truth = generator.dirichlet([1, 1, 1], count), generator.integers(0, 3, count)
    rows = [(i, CLASSES[t], CLASSES[s.argmax()], *s) for i, (s, t) in enumerate(zip(scores, truth, strict=True))]
    return write(path, rows), scores, truth


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_terms_of_a_mean_have_the_metric_as_their_mean(metric: str, tmp_path: Path) -> None:
    path, scores, truth = classification(tmp_path / "valid.csv")
    ids, values = example_values(path, metric)
    assert ids == tuple(range(40))
    assert values.mean() == pytest.approx(compute_metrics("classification", scores, truth)[metric], abs=1e-12)


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_the_values_of_other_metrics_are_the_jackknifes(metric: str, tmp_path: Path) -> None:
    path, scores, truth = classification(tmp_path / "valid.csv")
    _, values = example_values(path, metric)
    whole = compute_metrics("classification", scores, truth)[metric]
    for left_out in (0, 7, 39):
        kept = np.arange(40) != left_out
        without = compute_metrics("classification", scores[kept], truth[kept])[metric]
        assert values[left_out] == pytest.approx(40 * whole - 39 * without)


@pytest.mark.parametrize("metric", METRICS["multi_label"])
def test_of_a_multi_label_task_too(metric: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.random((30, 3)), generator.integers(0, 2, (30, 3))
    named = [json.dumps([name for name, on in zip(CLASSES, row, strict=True) if on]) for row in truth]
    path = write(tmp_path / "valid.csv", [(i, named[i], "[]", *scores[i]) for i in range(30)])
    _, values = example_values(path, metric)
    whole = compute_metrics("multi_label", scores, truth)[metric]
    kept = np.arange(30) != 4
    without = compute_metrics("multi_label", scores[kept], truth[kept])[metric]
    assert values[4] == pytest.approx(30 * whole - 29 * without)


@pytest.mark.parametrize("metric", METRICS["regression"])
def test_of_a_regression_they_give_the_metrics_own_error(metric: str, tmp_path: Path) -> None:
    """Against the delete-one jackknife, which the infinitesimal one is close to for 200 examples."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=200)
    predicted = truth + generator.normal(size=200)
    path = write(tmp_path / "valid.csv", [(i, truth[i], predicted[i]) for i in range(200)], ())
    _, values = example_values(path, metric)
    scores = predicted[:, None]
    whole = compute_metrics("regression", scores, truth)[metric]
    assert values.mean() == pytest.approx(whole, abs=0.01)
    kept = [np.arange(200) != i for i in range(200)]
    deleted = np.array([compute_metrics("regression", scores[k], truth[k])[metric] for k in kept])
    jackknife = np.sqrt(199 / 200 * np.square(deleted - deleted.mean()).sum())
    assert values.std(ddof=1) / np.sqrt(200) == pytest.approx(jackknife, rel=0.05)


def test_a_constant_prediction_correlates_with_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "valid.csv", [(i, i, 1.0) for i in range(5)], ())
    assert example_values(path, "pearson")[1].tolist() == [0] * 5


def test_examples_are_matched_by_their_ids_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(5, "no", "no", 0.9, 0.1, 0), (2, "yes", "no", 0.8, 0.2, 0)]
    assert [
        part if isinstance(part, tuple) else part.tolist()
        for part in example_values(write(tmp_path / "valid.csv", rows), "accuracy")
    ] == [(2, 5), [0, 1]]


# -- the interval ----------------------------------------------------------------------------------------

PAIR = {"with": 1.0, "base": -1.0}


def crossed(table: list[list[float]]) -> Examples:
    """Two configurations whose contrast is `table`, seeds x examples."""
    values = {("with", seed): np.array(row, dtype=float) for seed, row in enumerate(table)}
    return Examples(values | {("base", seed): np.zeros(len(row)) for seed, row in enumerate(table)})


def test_the_error_over_seeds_and_examples_by_hand() -> None:
    # Rows (1, 3, 5) and (3, 5, 10): example means 2, 4, 7.5 about 4.5, squares 6.25 + .25 + 9 = 15.5, times 2 seeds
    # over 2 degrees = 15.5. Seed means 3 and 6; residuals +-(.5, .5, -1), squares 2 (.25 + .25 + 1) = 3 over 2 = 1.5.
    # Examples add (15.5 - 1.5) / 6 = 7/3 to the seeds' own variance, here 1 with 4 degrees.
    error, freedom = crossed([[1, 3, 5], [3, 5, 10]]).with_data(PAIR, 1.0, 4) or (0, 0)
    assert error == pytest.approx(np.sqrt(1 + 7 / 3))
    assert freedom == pytest.approx((10 / 3) ** 2 / (1 / 4 + (15.5 / 6) ** 2 / 2 + (1.5 / 6) ** 2 / 2))


def test_it_is_never_below_that_over_seeds() -> None:
    assert crossed([[1, 2, 3], [3, 2, 1]]).with_data(PAIR, 0.7, 4) == (0.7, 4)


def test_one_seed_or_one_example_gives_none() -> None:
    assert crossed([[1, 2, 3]]).with_data(PAIR, 1.0, 4) is None
    assert crossed([[1], [2]]).with_data(PAIR, 1.0, 4) is None


def test_only_seeds_with_all_cells_of_a_contrast_count() -> None:
    whole = crossed([[1, 3, 5], [3, 5, 10], [9, 9, 0]])
    part = Examples({place: values for place, values in whole.values.items() if place != ("base", 2)})
    assert part.with_data(PAIR, 1.0, 4) == crossed([[1, 3, 5], [3, 5, 10]]).with_data(PAIR, 1.0, 4)


# -- reading ---------------------------------------------------------------------------------------------


def cells(tmp_path: Path, *counts: int) -> list[PlannedCell]:
    planned = [PlannedCell(f"{seed}{'0' * 63}", "with", seed) for seed in range(len(counts))]
    for cell, count in zip(planned, counts, strict=True):
        if count:
            classification(cell_folder(tmp_path, cell.key) / "predictions" / "valid.csv", count)
    return planned


def test_predictions_are_read_from_the_cells_folders(tmp_path: Path) -> None:
    found = Examples.read(tmp_path, cells(tmp_path, 10, 10), "accuracy")
    assert found.problem == ""
    assert {place: len(values) for place, values in found.values.items()} == {("with", 0): 10, ("with", 1): 10}


def test_missing_or_other_examples_are_said(tmp_path: Path) -> None:
    missing = Examples.read(tmp_path / "a", cells(tmp_path / "a", 10, 0), "accuracy")
    assert missing == Examples(problem="the predictions of with, seed 1 are not there")
    other = Examples.read(tmp_path / "b", cells(tmp_path / "b", 10, 12), "accuracy")
    assert other == Examples(problem="the cells were not scored on the same examples")
