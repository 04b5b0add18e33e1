"""Studies from end to end, on a real Ray: run, killed, interrupted, resumed, extended, and refused."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

import tiny
from finetricks.catalog import Catalog, installed
from finetricks.cli import main
from finetricks.errors import InputError
from finetricks.hooks import hookimpl
from finetricks.progress import Progress
from finetricks.runner import run
from finetricks.trick import Trick
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.hygiene import Flags, clean
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.status import Status
from finetricks_tuning.study import Study
from finetricks_tuning.summary import Summary
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

PLUGIN = Path(__file__).parent / "sweep_tricks.py"
SEEDS = 3


class Stepped(Trick):
    """A trick of the program that runs the study: no file, no entry point."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 1.0 if progress.fraction < 0.5 else 0.1


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for the studies of this file that do not start their own."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


def catalog() -> Catalog:
    return installed().with_file(PLUGIN)


def study(task: Path, factors: list[object], seeds: int = SEEDS, **training: object) -> Study:
    recipe = {
        "model": str(task / "model"),
        "data": {"train": str(task / "train.csv"), "test": str(task / "test.csv"), "valid": 0.5},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, **training},
    }
    return Study(recipe=recipe, factors=factors, seeds=seeds, catalog=catalog())  # type: ignore[arg-type]


def trials(folder: Path) -> dict[tuple[str, int], Trial]:
    found, problems = Ledger(folder / "trials.jsonl").read()
    assert problems == []
    return {(trial.configuration, trial.seed): trial for trial in found.values()}


@dataclass(frozen=True)
class Finished:
    study: Study
    folder: Path
    summary: Summary
    updates: list[Status]


@pytest.fixture(scope="module")
def finished(task: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study with tricks that work, fail, diverge and leave a mess."""
    of = study(task, ["falling", Stepped(), "failing", "diverging", "untidy", "weight_decay"])
    folder = tmp_path_factory.mktemp("sweep") / "study"
    updates: list[Status] = []
    return Finished(of, folder, sweep(of, folder, on_update=updates.append), updates)


def test_every_cell_has_its_line_whatever_came_of_it(finished: Finished) -> None:
    found = trials(finished.folder)
    assert set(found) == {(c.name, seed) for c in finished.study.configurations for seed in range(SEEDS)}
    assert len((finished.folder / "trials.jsonl").read_text().splitlines()) == 7 * SEEDS
    expected = {"failing": "failed", "diverging": "diverged"}
    for (name, _), trial in found.items():
        assert trial.status == expected.get(name, "finished")
    failed, diverged, good = found["failing", 0], found["diverging", 1], found["falling", 2]
    assert (failed.error or "").startswith("ValueError: a bad <b>value</b>\nraised by trick 'failing'")
    assert "sweep_tricks.py" in (failed.error or "")
    assert "diverged at step" in (diverged.error or "")
    assert set(good.metrics) == {"valid", "test"}
    assert "accuracy" in (good.metrics["valid"] or {})
    assert good.tricks == {"falling": {}}
    assert good.factors["falling"] == "falling"
    assert good.seconds > 0
    assert good.environment["threads"] == 1
    assert good.environment["tricks"]["falling"] == str(PLUGIN)
    assert finished.summary.counts == {"planned": 21, "finished": 15, "failed": 3, "diverged": 3, "not_run": 0}


def test_warm_and_cold_give_the_same_bits(finished: Finished, tmp_path: Path) -> None:
    found = trials(finished.folder)
    warm = [key for key, trial in found.items() if trial.status == "finished"]
    assert len(warm) == 15  # on two workers: most of them were not the first cell of theirs
    flags = Flags.now()
    for name, seed in warm:
        configuration = next(c for c in finished.study.configurations if c.name == name)
        recipe = configuration.recipe(finished.study.recipe, seed)
        cold = run(recipe, tmp_path / name / str(seed), save_model=False)
        clean(flags)
        assert found[name, seed].metrics == {"valid": cold.valid, "test": cold.test}
        place = cell_folder(finished.folder, found[name, seed].key)
        for split in ("valid", "test"):
            path = Path("predictions") / f"{split}.csv"
            assert (place / path).read_bytes() == (cold.folder / path).read_bytes()


def test_a_cells_folder_keeps_its_predictions_but_no_weights(finished: Finished) -> None:
    place = cell_folder(finished.folder, trials(finished.folder)["baseline", 0].key)
    assert {path.name for path in place.iterdir()} == {
        *("recipe.yaml", "versions.json", "metrics.jsonl", "result.json", "predictions")
    }


def test_the_studys_folder_holds_what_is_promised_and_nothing_of_the_engine(finished: Finished) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        *(".lock", "study.yaml", "cells.json", "trials.jsonl", "summary.json", "report.html", "cells", "plans")
    }
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert [row["name"] for row in summary["rows"]] == [c.name for c in finished.study.configurations[1:]]
    assert summary["warnings"][0].startswith("the baseline has no learning-rate schedule")
    planned = json.loads((finished.folder / "cells.json").read_text())
    assert planned["regularisers"] == ["failing", "diverging", "weight_decay"]  # the first two by their hook
    assert planned["loss_of_the_shares"] == pytest.approx(math.log(2))  # as many birds as fish
    assert "<h2>Verdicts</h2>" in (finished.folder / "report.html").read_text()


def test_who_watches_sees_the_study_move(finished: Finished) -> None:
    first, last = finished.updates[0], finished.updates[-1]
    assert (first.done, first.planned, last.done) == (0, 21, 21)
    assert [row.finished + row.lost for row in last.configurations] == [SEEDS] * 7
    assert last.configurations[0].mean == finished.summary.baseline.mean


def test_the_workers_leave_this_process_alone(finished: Finished) -> None:
    assert "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS" not in os.environ
    assert ray.is_initialized()  # it was there before the study, and is not the study's to end


def test_resuming_a_finished_study_runs_nothing(finished: Finished) -> None:
    before = (finished.folder / "trials.jsonl").read_bytes()
    again = sweep(finished.study, finished.folder, resume=True)
    assert (finished.folder / "trials.jsonl").read_bytes() == before
    assert again.to_dict() == finished.summary.to_dict()


# -- a notebook ------------------------------------------------------------------------------------------

NOTEBOOK = """
import ray
from finetricks import Progress, Recipe, Trick, hookimpl, installed
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep

class Mine(Trick):
    "Falls to zero."
    power: float = 1.0

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return (1 - progress.fraction) ** self.power

recipe = {{"model": "{task}/model", "data": {{"train": "{task}/train.csv"}}, "training": {{"epochs": 2}}}}
catalog = installed().with_file("{plugin}")
sweep(Study(recipe=recipe, factors=["failing"], seeds=1, catalog=catalog), "{out}")
more = Study(recipe=recipe, factors=["failing", Mine(power=2), "killing"], seeds=1, catalog=catalog)
summary = sweep(more, "{out}", resume=True, retry_failed=True)
assert not ray.is_initialized()
print(dict(summary.counts))
"""


@pytest.fixture(scope="module")
def notebook(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that a program of its own has run, and then extended by tricks."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "notebook.py").write_text(NOTEBOOK.format(task=task, plugin=PLUGIN, out=folder / "out"))
    command = [sys.executable, str(folder / "notebook.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'planned': 4, 'finished': 2, 'failed': 2, 'not_run': 0}"
    return folder / "out"


def test_a_class_that_nobody_can_import_is_shipped_to_the_workers(notebook: Path) -> None:
    trial = trials(notebook)["mine(power=2)", 0]
    assert (trial.status, trial.tricks) == ("finished", {"mine": {"power": 2.0}})


def test_an_extended_study_runs_what_is_new_and_on_request_what_failed(notebook: Path) -> None:
    lines = [json.loads(line)["configuration"] for line in (notebook / "trials.jsonl").read_text().splitlines()]
    assert sorted(lines[:2]) == ["baseline", "failing"]
    assert sorted(lines[2:]) == ["failing", "killing", "mine(power=2)"]


def test_a_worker_that_is_lost_again_and_again_is_a_failed_cell_and_the_study_goes_on(notebook: Path) -> None:
    trial = trials(notebook)["killing", 0]
    assert trial.status == "failed"
    assert "worker process was lost" in (trial.error or "")


# -- killed and interrupted ------------------------------------------------------------------------------

STUDY = """\
recipe:
  model: {task}/model
  data: {{train: {task}/train.csv, valid: 0.5}}
  training: {{epochs: 2, batch_size: 4, learning_rate: 1.0e-2, checkpoint: 2}}
  tricks: [slow]
factors: [falling, weight_decay]
seeds: 4
"""


def start(task: Path, tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    (tmp_path / "study.yaml").write_text(STUDY.format(task=task))
    program = "import sys; from finetricks.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["sweep", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--plugin", str(PLUGIN), *more]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.nightly  # `test_survival` does as much, and more
def test_killed_then_interrupted_then_resumed_equals_undisturbed(task: Path, local_ray: None, tmp_path: Path) -> None:
    ledger = tmp_path / "out" / "trials.jsonl"
    with start(task, tmp_path) as killed:
        wait_for_lines(ledger, 2)
        killed.send_signal(signal.SIGKILL)
    after_kill = ledger.read_text()
    assert len(after_kill.splitlines()) < 12

    with start(task, tmp_path, "--resume") as interrupted:
        wait_for_lines(ledger, len(after_kill.splitlines()) + 1)
        interrupted.send_signal(signal.SIGINT)
        _, messages = interrupted.communicate(timeout=300)
        assert interrupted.returncode == 130
        assert messages.count("interrupted: the running cells end, no other begins; Ctrl-C again stops now") == 1
        assert "stopped before the end; this goes on: finetricks sweep" in messages
    after_interrupt = ledger.read_text()
    assert after_interrupt.startswith(after_kill)
    assert "So far (" in json.loads((tmp_path / "out" / "summary.json").read_text())["answer"]

    of = Study.load(tmp_path / "study.yaml", ["seeds=5"], catalog())  # and extended by a seed
    summary = sweep(of, tmp_path / "out", resume=True)
    assert summary.complete
    assert ledger.read_text().startswith(after_interrupt)
    assert len(ledger.read_text().splitlines()) == len(trials(tmp_path / "out")) == 15  # no cell ran twice

    for (name, seed), trial in trials(tmp_path / "out").items():
        recipe = next(c for c in of.configurations if c.name == name).recipe(of.recipe, seed)
        undisturbed = run(recipe, tmp_path / "undisturbed" / name / str(seed), save_model=False)
        assert trial.metrics["valid"] == undisturbed.valid
        assert not (cell_folder(tmp_path / "out", trial.key) / "checkpoints").exists()


# -- refused before anything starts ----------------------------------------------------------------------


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.data.train=nowhere.csv", "--set recipe.data.train: no such file"),
        ("recipe.data.label=kind", "kind"),
        ("seeds=0", "--set seeds: a number of seeds, at least 1"),
        ("metric=pearson", "no metric 'pearson' for classification"),
        ("factors=[slow]", "slow is in the recipe already"),
        ("factors=[fallin]", "unknown trick 'fallin' (did you mean 'falling'?)"),
        ("cpus_per_cell=1000", "a cell needs 1000 CPUs and there are"),
    ],
)
def test_bad_input_is_said_with_exit_code_2(
    task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.format(task=task))
    options = ["--out", str(tmp_path / "out"), "--plugin", str(PLUGIN), "--set", change]
    assert main(["sweep", str(tmp_path / "study.yaml"), *options]) == 2
    said = capfd.readouterr().err
    assert message in re.sub(r"\s+", " ", said)
    assert "Traceback" not in said


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_an_address_that_does_not_answer_is_refused_before_anything_is_written(
    task: Path, tmp_path: Path, address: str
) -> None:
    with pytest.raises(InputError, match=re.escape(address)):
        sweep(study(task, ["falling"]), tmp_path / "out", address=address)
    assert not (tmp_path / "out").exists()
