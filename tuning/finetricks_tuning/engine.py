"""Ray Tune as the engine of a study: cells in warm actors, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from finetricks.errors import FinetricksError, InputError
from finetricks.storage import StorageError
from finetricks_tuning import preflight
from finetricks_tuning.interrupts import first_interrupt
from finetricks_tuning.loggers import CellLoggers
from finetricks_tuning.preflight import Needs, Node
from finetricks_tuning.searcher import CellSearcher
from finetricks_tuning.worker import STOP, CellWorker, Plugins

if TYPE_CHECKING:
    from finetricks.tasks import Task
    from finetricks_tuning.study import Study

logger = logging.getLogger(__name__)

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
    """What each worker of a cell takes, and how many there are; how many fit at once is the cluster's affair."""

    cpus: int
    gpus: float
    workers: int = 1

    @classmethod
    def of(cls, study: Study, gpus: float) -> Resources:
        """What the cells of a study take, with so many GPUs, or such a share of one, a worker."""
        return cls(study.threads, gpus, study.settings.workers_per_cell)

    def slots(self, there: Iterable[Node]) -> int:
        """How many cells run at once. Raises `InputError` when not even one could ever run."""
        workers = preflight.count_slots(there, self.cpus, self.gpus)
        if self.workers > 1 and self.gpus % 1:
            raise InputError(
                f"a worker has {self.gpus:g} GPUs and a cell {self.workers} workers, which need whole ones between "
                "them; set gpus_per_cell to 1 or workers_per_cell to 1"
            )
        if workers < self.workers:
            raise InputError(
                f"a cell needs {self.workers} workers of {self.cpus} CPUs and {self.gpus:g} GPUs, and there is room "
                f"for {workers}; lower workers_per_cell"
            )
        return workers // self.workers

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What a cell is placed in: a bundle for each worker, none of which spans two nodes."""
        return [{"CPU": self.cpus, "GPU": self.gpus} for _ in range(self.workers)]


def count_slots(resources: Resources, address: str | None = None) -> int:
    """How many cells would run at once on this machine, or on the cluster at `address`.

    Raises:
        InputError: the cluster does not answer, or can never run a cell.
    """
    with environment(QUIET), redirect_stdout(sys.stderr), cluster(address, resources.cpus):
        return resources.slots(preflight.nodes())


def run_cells(
    searcher: CellSearcher,
    folder: Path,
    *,
    plugins: Plugins,
    tasks: Mapping[str, Task],
    device: str,
    resources: Resources,
    needs: Needs,
    isolation: str,
    cell_minutes: float | None = None,
    loggers: Sequence[str] = (),
    address: str | None = None,
) -> None:
    """Run all that the searcher gives out; returns when it has no more, or after an interrupt.

    Ctrl-C once lets the running cells finish, twice raises `KeyboardInterrupt`.

    Args:
        needs: what the cells take from the nodes of a cluster.
        isolation: `warm`: a process runs one cell after another; `process`: each cell has its own.
        cell_minutes: how long a cell may take.
        loggers: where else the cells are logged.

    Raises:
        InputError: the cluster does not answer, can never run a cell, or its nodes are not fit for the study.
        StorageError: results cannot be written.
        FinetricksError: workers cannot be started, or are lost one after another.
    """
    stop = folder / STOP
    stop.unlink(missing_ok=True)
    with (
        environment(QUIET),
        _quiet("ray.tune"),
        redirect_stdout(sys.stderr),  # Ray tells of lost workers on stdout, which is for results
        tempfile.TemporaryDirectory(prefix="finetricks-") as scratch,
        cluster(address, resources.cpus),
    ):
        there = preflight.nodes()
        searcher.slots = slots = resources.slots(there)
        if address is not None:
            fit = [node for node in there if node.slots(resources.cpus, resources.gpus)]
            preflight.check_nodes(fit, folder, needs)
        worker = tune.with_resources(
            tune.with_parameters(
                CellWorker,
                folder=str(folder),
                plugins=plugins,
                tasks=dict(tasks),
                device=device,
                bundles=resources.bundles,
                cell_minutes=cell_minutes,
            ),
            tune.PlacementGroupFactory(resources.bundles, strategy="PACK"),  # on one node, if they fit there
        )

        def finish_running() -> None:
            logger.warning("interrupted: the running cells end, no other begins; Ctrl-C again stops now")
            searcher.stop()
            with suppress(OSError):  # workers only begin what they were given already
                stop.touch()

        # As many may wait as can run: an actor that ends a cell is kept warm only while another cell waits for it.
        with environment({"TUNE_MAX_PENDING_TRIALS_PG": str(slots)}), first_interrupt(finish_running):
            tuner = tune.Tuner(
                worker,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=isolation == "warm",
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_MakeRoom(searcher), *([CellLoggers(folder, loggers)] if loggers else [])],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a cell keeps its own
                    failure_config=tune.FailureConfig(max_failures=MAX_LOST),
                ),
            )
            try:
                tuner.fit()
            finally:
                stop.unlink(missing_ok=True)
    if searcher.problem:
        raise StorageError(folder, searcher.problem)
    if searcher.workers_fail:
        raise FinetricksError(
            "one worker after another was lost, so the study was stopped; what they said is in the logs of Ray's last "
            "session (session_latest/logs in its temporary folder). --resume --retry-failed goes on"
        )


class _MakeRoom(tune.Callback):  # type: ignore[misc]
    """Lets a cell that has lost its worker begin again before workers that have no cell."""

    def __init__(self, searcher: CellSearcher) -> None:
        self._searcher = searcher

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.release()


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[None]:
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
def environment(variables: Mapping[str, str]) -> Iterator[None]:
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
