"""Ray Tune as the engine of a study: cells in warm actors, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from finetricks.errors import FinetricksError, InputError
from finetricks_tuning.interrupts import first_interrupt
from finetricks_tuning.searcher import CellSearcher
from finetricks_tuning.worker import STOP, CellWorker, Plugins

if TYPE_CHECKING:
    from finetricks.tasks import Task

MAX_LOST = 2
"""How often a cell is tried again whose worker was lost. Its own errors are results, and are not tried again."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints its configuration even when it is told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is the truth; a snapshot costs time that grows with the study
}


@dataclass(frozen=True)
class Resources:
    """What one cell takes, and how many fit at once is the cluster's affair."""

    cpus: int
    gpus: float

    def slots(self, cluster: Mapping[str, float]) -> int:
        """How many cells run at once. Raises `InputError` when not even one could ever run."""
        there = {"CPU": cluster.get("CPU", 0.0), "GPU": cluster.get("GPU", 0.0)}
        for kind, wanted in (("CPU", self.cpus), ("GPU", self.gpus)):
            if wanted > there[kind]:
                raise InputError(
                    f"a cell needs {wanted:g} {kind}s and there are {there[kind]:g}; lower {kind.lower()}s_per_cell"
                )
        by_gpu = int(there["GPU"] / self.gpus) if self.gpus else int(there["CPU"])
        return min(int(there["CPU"] / self.cpus), by_gpu)


def count_slots(resources: Resources, address: str | None = None) -> int:
    """How many cells would run at once on this machine, or on the cluster at `address`.

    Raises:
        InputError: the cluster does not answer, or can never run a cell.
    """
    with _environment(QUIET), redirect_stdout(sys.stderr), _cluster(address, resources.cpus):
        return resources.slots(ray.cluster_resources())


def run_cells(
    searcher: CellSearcher,
    folder: Path,
    *,
    plugins: Plugins,
    tasks: Mapping[str, Task],
    device: str,
    resources: Resources,
    address: str | None = None,
) -> None:
    """Run all that the searcher gives out; returns when it has no more, or after an interrupt.

    Ctrl-C once lets the running cells finish, twice raises `KeyboardInterrupt`.

    Raises:
        InputError: the cluster does not answer, or can never run a cell.
        FinetricksError: workers cannot be started, or are lost one after another.
    """
    stop = folder / STOP
    stop.unlink(missing_ok=True)
    with (
        _environment(QUIET),
        _quiet("ray.tune"),
        redirect_stdout(sys.stderr),  # Ray tells of lost workers on stdout, which is for results
        tempfile.TemporaryDirectory(prefix="finetricks-") as scratch,
        _cluster(address, resources.cpus),
    ):
        searcher.slots = slots = resources.slots(ray.cluster_resources())
        worker = tune.with_resources(
            tune.with_parameters(CellWorker, folder=str(folder), plugins=plugins, tasks=dict(tasks), device=device),
            tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": resources.gpus}]),
        )

        def finish_running() -> None:
            searcher.stop()
            stop.touch()

        # As many may wait as can run: an actor that ends a cell is kept warm only while another cell waits for it.
        with _environment({"TUNE_MAX_PENDING_TRIALS_PG": str(slots)}), first_interrupt(finish_running):
            tuner = tune.Tuner(
                worker,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=scratch,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a cell keeps its own
                    failure_config=tune.FailureConfig(max_failures=MAX_LOST),
                ),
            )
            try:
                tuner.fit()
            finally:
                stop.unlink(missing_ok=True)
    if searcher.workers_fail:
        raise FinetricksError(
            "one worker after another was lost, so the study was stopped; what they said is in the logs of Ray's last "
            "session (session_latest/logs in its temporary folder). --resume --retry-failed goes on"
        )


@contextmanager
def _cluster(address: str | None, cpus: int) -> Iterator[None]:
    """A Ray that runs for the block: the one that is running in this process, the one at `address`, or a local one."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local",  # without it Ray would join any cluster that it finds
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cpus), "TOKENIZERS_PARALLELISM": "false"}},
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise FinetricksError(f"Ray does not start on this machine: {error}") from error
        raise InputError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger for the block: what becomes of a cell stands in the ledger."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and put the caller's back afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
