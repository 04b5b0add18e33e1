"""Studies on a simulated cluster: a node that is not fit is refused, and nodes that are lost take nothing with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.errors import InputError
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep
from recorded import EVERY, STEPS, Run, alive, equals_undisturbed, hold_of, may_mount, runs_of, study, wait_until

pytestmark = pytest.mark.waits

cluster_utils = pytest.importorskip("ray.cluster_utils")

DEAD_AFTER_A_SECOND = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2_000,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two more nodes, each with one CPU."""
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": DEAD_AFTER_A_SECOND}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


# -- preflight -------------------------------------------------------------------------------------------


@contextmanager
def node_apart(address: str, hidden: Path, path: Path) -> Iterator[None]:
    """A node named `apart` that sees an empty folder in place of `hidden`, and looks for packages in `path` first."""
    ray = Path(sys.executable).parent / "ray"
    node_command = f"{ray} start --address={address} --node-ip-address=127.0.0.1 --num-cpus=1 --node-name=apart --block"
    mount = f"mount -t tmpfs tmpfs {hidden} && exec {node_command}"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # an earlier study has kept this process to loopback
    log = path / "node.log"  # what it says stands with the failure, where the test fails
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as node:
        try:
            yield
        except AssertionError as failure:
            failure.add_note(log.read_text())
            raise
        finally:
            node.terminate()


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace")
def test_a_node_that_is_not_fit_is_named_with_all_that_is_wrong(cluster: Any, task: Path, tmp_path: Path) -> None:
    shared, path = tmp_path / "shared", tmp_path / "path"
    shutil.copytree(task, shared / "task")
    (path / "transformers-0.0.1.dist-info").mkdir(parents=True)
    (path / "transformers-0.0.1.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 0.0.1\n")
    (path / "finetricks-0.0.9.dist-info").mkdir()  # announces no trick
    (path / "finetricks-0.0.9.dist-info" / "METADATA").write_text("Name: finetricks\nVersion: 0.0.9\n")
    with node_apart(cluster.address, shared, path):
        wait_until(lambda: len(nodes_of(cluster)) == 4)
        with pytest.raises(InputError) as refused:
            sweep(study(shared / "task", tmp_path / "record"), shared / "out", address=cluster.address)
    wait_until(lambda: len(nodes_of(cluster)) == 3)
    said = {problem.place: problem.message for problem in refused.value.problems}
    assert (
        "is not shared: what this process writes there is not seen on apart;"
        in said[f"the study's folder {shared}/out"]
    )
    assert said[str(shared / "task" / "model")].startswith("not found on apart;")
    assert said["transformers"] == f"{version('transformers')} here; 0.0.1 on apart"
    assert said["finetricks"] == f"{version('finetricks')} here; 0.0.9 on apart"
    assert said["trick stlr"].endswith("here; not there on apart")
    assert set(said) == {
        *(f"the study's folder {shared}/out", str(shared / "task" / "model")),
        *("versions", "transformers", "finetricks", "trick stlr"),
    }
    assert not (shared / "out" / LEDGER).exists()
    assert not list((shared / "out").glob(".preflight*"))


def nodes_of(cluster: Any) -> list[Any]:
    return [node for node in cluster.global_state.node_table() if node["Alive"]]


# -- losing nodes ----------------------------------------------------------------------------------------


class Losses(threading.Thread):
    """Takes nodes away, each while a cell is at work on it that has saved a checkpoint, after some cells have ended."""

    def __init__(self, cluster: Any, record: Path, ledger: Path) -> None:
        super().__init__(daemon=True)
        self._cluster, self._record, self._ledger = cluster, record, ledger
        self.nodes: list[Any] = list(cluster.worker_nodes)
        self.ledgers: list[str] = []
        """What stood in the ledger when each was lost."""

    def run(self) -> None:
        for node, graceful in zip(self.nodes, (True, False), strict=True):
            wait_until(lambda node=node: self._is_at_work(node))  # type: ignore[misc]
            hold_of(self._record).touch()  # its cell must not end before the node does
            worker = self._runs_on(node)[-1].process
            self._cluster.remove_node(node, allow_graceful=graceful)
            wait_until(lambda worker=worker: not alive(worker))  # type: ignore[misc]
            hold_of(self._record).unlink()

    def _is_at_work(self, node: Any) -> bool:
        if not self._ledger.exists():
            return False
        ledger = self._ledger.read_text()
        there = self._runs_on(node)
        if len(ledger.splitlines()) < 2 or not there or not EVERY < there[-1].steps[-1] < STEPS - 2:
            return False
        self.ledgers.append(ledger)
        return True

    def _runs_on(self, node: Any) -> list[Run]:
        return [run for run in runs_of(self._record) if run.node == node.node_id]


def test_a_study_that_loses_two_of_three_nodes_equals_an_undisturbed_one(
    cluster: Any, task: Path, tmp_path: Path
) -> None:
    record, out = tmp_path / "record", tmp_path / "out"
    of = study(task, record, seconds=0.2, seeds=4)
    cells = 8
    losses = Losses(cluster, record, out / LEDGER)
    losses.start()
    summary = sweep(of, out, address=cluster.address)
    losses.join()
    assert summary.complete
    assert dict(summary.counts) == {"planned": cells, "finished": cells, "not_run": 0}

    # No finished cell ran again: every cell has one line, and those that were there stand as they were.
    lines = (out / LEDGER).read_text()
    assert len(losses.ledgers) == 2
    assert all(lines.startswith(before) for before in losses.ledgers)
    assert len(lines.splitlines()) == cells

    # Both times a cell was lost, and went on from its checkpoint.
    runs = [run.steps for run in runs_of(record)]
    assert all(steps == list(range(steps[0], steps[-1] + 1)) and steps[0] % EVERY == 0 for steps in runs)
    assert [steps[0] > 0 for steps in runs].count(True) == 2
    assert len(runs) == cells + 2
    equals_undisturbed(of, out, tmp_path / "undisturbed")
