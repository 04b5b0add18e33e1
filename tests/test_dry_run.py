"""`sweep --dry-run`: the cells, what they are expected to cost, and that the sweep then runs just these."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

import tiny
from finetricks.catalog import installed
from finetricks.cli import main
from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks.runner import run, task_of
from finetricks_tuning.dry_run import dry_run, makespan
from finetricks_tuning.folder import writing
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.probe import Cost, probe
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

PLUGIN = Path(__file__).parent / "sweep_tricks.py"
CATALOG = installed().with_file(PLUGIN)
STUDY = """\
recipe:
  model: {task}/model
  data: {{train: {task}/train.csv, valid: 0.5}}
  training: {{epochs: 2, batch_size: 4, learning_rate: 1.0e-2, checkpoint: "off"}}
factors: [falling, weight_decay, failing]
design: plackett_burman
seeds: 2
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def file(task: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(task=task))
    return path


def load(file: Path, *overrides: str) -> Study:
    return Study.load(file, overrides, CATALOG)


def recipe_in(task: Path, *tricks: object, **training: object) -> Recipe:
    data = {"train": str(task / "train.csv"), "valid": 0.5}
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **training}
    return Recipe(model=str(task / "model"), data=data, training=settings, tricks=tricks, catalog=CATALOG)  # type: ignore[arg-type]


def dry(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", *arguments, "--plugin", str(PLUGIN), "--dry-run"])
    assert exit_.value.code == 0


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    dry(*arguments, "--json")
    return json.loads(capfd.readouterr().out)


# -- the cells -------------------------------------------------------------------------------------------


def test_the_sweep_runs_the_cells_that_the_dry_run_listed(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    planned = printed(capfd, str(file), "--out", str(out))
    assert not out.exists()
    assert planned["left_out"] == []
    assert (planned["done"], planned["slots"]) == (0, 2)
    assert planned["design"]["aliases"]["falling"] == {"weight_decay x failing": pytest.approx(-1)}
    assert planned["cells"][1]["tricks"] == {
        "falling": {},
        "weight_decay": planned["cells"][1]["tricks"]["weight_decay"],
    }
    each = [cell["seconds"] for cell in planned["cells"]]
    assert len(each) == 8
    assert planned["seconds"] == pytest.approx(4 * each[0])  # 8 equal cells, two at once

    summary = sweep(load(file), out)
    ledger, _ = Ledger(out / "trials.jsonl").read()
    assert {(cell["configuration"], cell["seed"]) for cell in planned["cells"]} == {
        (trial.configuration, trial.seed) for trial in ledger.values()
    }
    assert json.loads((out / "summary.json").read_text())["design"] == planned["design"]
    assert "<h2>Design</h2>" in (out / "report.html").read_text()
    assert "may be that (the most: falling with -1 weight_decay x failing)" in (out / "report.html").read_text()
    # Two of the four configurations hold the trick that fails: what is left tells no effect apart.
    assert summary.counts == {"planned": 8, "finished": 4, "failed": 4, "not_run": 0}
    assert [row.estimate for row in summary.rows] == [None, None, None]

    assert dry_run(load(file), out).to_dict()["cells"] == []
    again = dry_run(load(file, "seeds=3"), out, retry_failed=True)
    assert [(cell.configuration.name, cell.seed) for cell, _ in again.cells if cell.seed == 2] == [
        (configuration.name, 2) for configuration in load(file).configurations
    ]
    assert (len(again.cells), again.done) == (4 + 4, 4)
    assert dry_run(load(file), out, overwrite=True).done == 0


def test_what_is_left_out_is_listed_and_the_table_tells_the_total(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = ["--set", "factors=[falling, linear_decay, weight_decay]", "--set", "design=factorial"]
    planned = printed(capfd, str(file), *changes)
    assert [entry["name"] for entry in planned["left_out"]] == [
        "falling + linear_decay",
        "falling + linear_decay + weight_decay",
    ]
    assert len(planned["cells"]) == 6 * 2
    dry(str(file), *changes)
    told = capfd.readouterr()
    assert "12 cells to run, 2 at once: about " in told.out
    assert "correlate by -0.50" in " ".join(told.out.split())
    assert "left out: falling + linear_decay" in told.err


def test_another_study_in_the_folder_is_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing(out, load(file, "recipe.training.epochs=9"), overwrite=False):
        pass
    with pytest.raises(InputError, match="holds another study"):
        dry_run(load(file), out)


def test_an_address_that_does_not_answer_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match="no Ray cluster answers at 127.0.0.1:9"):
        dry_run(load(file), address="127.0.0.1:9")


def test_only_a_dry_run_needs_no_folder(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(file), "--plugin", str(PLUGIN)]) == 2
    assert "name the study's folder: --out DIR" in capfd.readouterr().err


# -- what they cost --------------------------------------------------------------------------------------


def test_cells_that_take_the_first_free_slot_by_hand() -> None:
    # Slots: 3, then 2 at 3; 1, then 4 at 1: both end at 5, and the last cell ends at 6.
    assert makespan([3, 1, 4, 2, 1], slots=2) == 6
    assert makespan([3, 1, 4], slots=1) == 8
    assert makespan([], slots=2) == 0


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        # 100 rows in batches of 10: 10 steps of 10 examples an epoch. Start 1, two epochs 20 s, each evaluated, and
        # test, twice as large as valid, once: 4 evaluations.
        ({"epochs": 2, "batch_size": 10}, 1 + 20 + 4 * 0.5),
        ({"epochs": 4, "batch_size": 10}, 1 + 40 + 6 * 0.5),
        ({"epochs": 2, "batch_size": 20}, 1 + 20 + 4 * 0.5),  # half the steps, each twice as large
        ({"epochs": 2, "batch_size": 5, "accumulation": 2}, 1 + 20 + 4 * 0.5),
        ({"epochs": 2, "batch_size": 10, "evaluate": 3}, 1 + 20 + (7 + 2) * 0.5),  # after 3, 6, ... 18 and 20 steps
    ],
)
def test_a_cells_cost_by_hand(training: dict[str, object], expected: float) -> None:
    task: Any = SimpleNamespace(splits={"train": range(100), "valid": range(10), "test": range(20)})
    cost = Cost(start=1.0, example=0.1, evaluation=0.5)
    assert cost.of(Recipe(training=training), task) == pytest.approx(expected)


def test_a_probe_foretells_the_time_of_a_run(task: Path, tmp_path: Path) -> None:
    recipe = recipe_in(task, "slow", epochs=8)  # 20 ms and more for each of 64 steps
    loaded = task_of(recipe)
    expected = probe(recipe, loaded).of(recipe, loaded)
    began = time.perf_counter()
    run(recipe, tmp_path / "run", task=loaded, save_model=False)
    assert 0.4 < expected / (time.perf_counter() - began) < 2.5
    assert expected > 64 * 0.02


@pytest.mark.parametrize("how", [{"tricks": ["predict_only"]}, {"batch_size": 64, "epochs": 1}])
def test_a_run_that_ends_before_its_parts_show_counts_as_a_whole(task: Path, how: dict[str, Any]) -> None:
    recipe = recipe_in(task, *how.pop("tricks", []), **how)
    loaded = task_of(recipe)
    cost = probe(recipe, loaded)
    assert (cost.example, cost.evaluation) == (0.0, 0.0)
    assert cost.of(recipe, loaded) == cost.start > 0
