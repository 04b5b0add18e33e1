"""Cells on two workers, each on a node of its own: their results, what ends them, and that nothing is left running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

import tiny
from finetricks.catalog import installed
from finetricks.errors import InputError
from finetricks_tuning.cell_run import CellOrder, cell_folder
from finetricks_tuning.engine import Resources, run_cells
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.preflight import Needs, Node
from finetricks_tuning.prepare import prepare
from finetricks_tuning.searcher import CellSearcher
from finetricks_tuning.study import Study
from finetricks_tuning.worker import Plugins

pytestmark = pytest.mark.waits

cluster_utils = pytest.importorskip("ray.cluster_utils")

PLUGIN = Path(__file__).parent / "distributed_tricks.py"
KILLED_AT, EVERY = 5, 2


def notes_in(folder: Path) -> list[tuple[str, int, int]]:
    """The node, the process and the step of every micro-batch, in order."""
    lines = [line.split() for line in (folder / "notes").read_text().splitlines()]
    return [(node, int(process), int(step)) for node, process, step in lines]


@dataclass(frozen=True)
class Finished:
    folder: Path
    trials: dict[str, Trial]

    def predictions(self, name: str) -> Path:
        return cell_folder(self.folder, self.trials[name].key) / "predictions" / "valid.csv"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each: a cell of two workers spans them. Afterwards no process is left."""
    cluster = cluster_utils.Cluster(
        initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    started = psutil.Process().children(recursive=True)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []


@pytest.fixture(scope="module")
def finished(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Cells that work, fail, diverge, and lose a worker, one after another in the same two workers."""
    folder = tmp_path_factory.mktemp("study")
    task = tiny.write_task(tmp_path_factory.mktemp("task"))
    (folder / "kill").write_text("1")
    catalog = installed().with_file(PLUGIN)
    study = Study(
        recipe={
            "model": str(task / "model"),
            "data": {"train": str(task / "train.csv"), "valid": 0.5},
            # Replay's check computes some losses twice, and each would be noted.
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "checkpoint": EVERY, "replay": "off"},
            "tricks": [{"noted": {"file": str(folder / "notes")}}],
        },
        factors=[
            "infinite_on_one",
            "fails_in_backward",
            {"killed": {"file": str(folder / "kill"), "at": KILLED_AT}},
            "gradual_unfreezing",
        ],
        seeds=1,
        workers_per_cell=2,
        catalog=catalog,
    )
    prepared = prepare(study)
    orders = [CellOrder.of(prepared.make(configuration, 0)) for configuration in study.configurations]
    rounds = iter([orders, []])
    searcher = CellSearcher(lambda trials: next(rounds), Ledger(folder / "trials.jsonl"), folder / ".hold")
    run_cells(
        searcher,
        folder,
        plugins=Plugins.of(study.catalog),
        tasks=prepared.tasks,
        device="cpu",
        resources=Resources(1, 0.0, workers=2),
        needs=Needs(),
        isolation="warm",
    )
    trials, problems = Ledger(folder / "trials.jsonl").read()
    assert problems == []
    assert set(trials) == {order.key for order in orders}
    return Finished(folder, {trial.configuration.partition("(")[0]: trial for trial in trials.values()})


def test_every_cell_has_its_result_whatever_came_of_it(finished: Finished) -> None:
    assert {name: trial.status for name, trial in finished.trials.items()} == {
        "baseline": "finished",
        "infinite_on_one": "diverged",
        "fails_in_backward": "failed",
        "killed": "finished",
        "gradual_unfreezing": "finished",
    }


def test_the_two_workers_of_a_cell_were_on_two_nodes(finished: Finished) -> None:
    processes = {process: node for node, process, _ in notes_in(finished.folder)}
    assert len(set(processes.values())) == 2
    # One pair for the first three cells; its second worker is replaced after it has failed; then comes a pair for the
    # cell that lost one, since Tune starts it anew, which runs the last cell too.
    assert len(processes) == 5


def test_a_failure_says_which_rank_failed_of_what(finished: Finished) -> None:
    error = finished.trials["fails_in_backward"].error or ""
    assert error.startswith("rank 1 of 2 failed: MemoryError: no memory for the gradients")
    diverged, where = (finished.trials["infinite_on_one"].error or "").splitlines()
    assert diverged == "diverged at step 2: the loss is not finite"
    assert where.startswith("the first value that is not finite is what trick 'infinite_on_one' of ")


def test_a_cell_that_lost_a_worker_went_on_from_its_checkpoint_to_the_same_bits(finished: Finished) -> None:
    assert not (finished.folder / "kill").exists()  # it was killed, once
    before: dict[int, int] = {}
    begun_at = []
    for _, process, step in notes_in(finished.folder):
        if step != before.get(process, -2) + 1:
            begun_at.append(step)
        before[process] = step
    # Five cells on two workers each, and the lost one again.
    assert sorted(begun_at) == [0] * 10 + [KILLED_AT - KILLED_AT % EVERY] * 2
    assert finished.predictions("killed").read_bytes() == finished.predictions("baseline").read_bytes()


def test_a_cell_that_does_not_fit_is_refused_before_it_waits_for_ever() -> None:
    nodes = [Node(name, name, {"CPU": 4.0, "GPU": 1.0}) for name in ("one", "two")]
    assert Resources(2, 0.0, workers=2).slots(nodes) == 2
    assert Resources(2, 1.0, workers=2).slots(nodes) == 1
    assert Resources(3, 0.0, workers=2).slots(nodes) == 1  # 3 + 3 of 8 CPUs: none spans the nodes
    with pytest.raises(InputError, match="needs 3 workers of 1 CPUs and 1 GPUs, and there is room for 2"):
        Resources(1, 1.0, workers=3).slots(nodes)
    with pytest.raises(InputError, match=r"a worker has 0\.5 GPUs and a cell 2 workers, which need whole ones"):
        Resources(1, 0.5, workers=2).slots(nodes)
