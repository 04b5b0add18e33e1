"""A cell on several workers: processes that train it together and stay for the next one, in one placement group.

The actor that Ray Tune gives a cell to is rank 0, and starts the others in the bundles beside its own: on its own node
where they fit, on others where not. Their process group (gloo; NCCL between GPUs) is kept from cell to cell.

A failure ends within seconds and leaves nobody waiting. One that all ranks can agree on (`Ranks.together`) is raised on
all. A rank that fails where the others already wait for it (no memory for its gradients) says so by its answer; a rank
that dies, by its death. Rank 0 then ends the group, and with it the waiting; the next cell gets a new group.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

import psutil  # type: ignore[import-untyped]
import ray
import torch.distributed as dist
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from finetricks.distributed import TIMEOUT, Ranks, backend, describe, leave
from finetricks.errors import Diverged, FinetricksError
from finetricks.runner import run
from finetricks_tuning.cell_run import CellOrder, WorkerLost, study_of
from finetricks_tuning.sharing import sharing_of
from finetricks_tuning.workplace import Workplace

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.runner import Result
    from finetricks.stems import Sharing
    from finetricks.tasks import Task
    from finetricks_tuning.worker import Plugins

logger = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that ranks which agree may end apart. After these the ones that have not ended are taken to wait for ever."""

LONGEST_END = 60.0
"""Seconds that rank 0 has to notice that it waits for nothing: it may be writing, or scoring. Then it is ended."""

BETWEEN_LOOKS = 0.2  # seconds

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class Answer:
    """What became of a cell on another rank.

    Attributes:
        error: what ended it, in words; `None` if nothing did.
        ended: whether it has ended; it may be waiting.
        lost: whether its process is gone.
    """

    error: str | None = None
    ended: bool = True
    lost: bool = False


class WorkerGroup:
    """The other ranks of the cells that this process runs.

    Args:
        bundles: of this actor's placement group, its own first: the CPUs and GPUs of each rank.
        plugins, tasks: see `Workplace`.
    """

    def __init__(self, bundles: Sequence[Mapping[str, float]], plugins: Plugins, tasks: Mapping[str, Task]) -> None:
        self._bundles = bundles
        self._size = len(bundles)
        self._kept = ray.put((plugins, dict(tasks)))
        self._members = self._started()  # they import what they need while this process does

    def run(
        self,
        order: CellOrder,
        recipe: Recipe,
        out: Path,
        *,
        task: Task,
        resume: bool = False,
        save_model: bool = False,
        upto: float = 1.0,
        sharing: Sharing | None = None,
    ) -> Result:
        """Train `recipe`, the one of `order`, on all ranks. Arguments and errors as of `finetricks.runner.run`.

        Raises:
            WorkerLost: the process of another rank is gone; what is saved of the run stays.
            FinetricksError: another rank failed.
        """
        if not dist.is_initialized():
            self._join()
        answers = [member.run.remote(order.to_dict(), str(out), resume) for member in self._members]
        watch = _Watch(answers, self._kill)
        try:
            with watch:
                with Ranks.current().together():
                    pass  # the others have prepared the cell
                result = run(recipe, out, resume=resume, task=task, save_model=save_model, upto=upto, sharing=sharing)
        except Exception as failure:
            cause = self._cause(failure, _read(answers, GRACE), broken=watch.broken)
            if cause is failure:
                raise
            raise cause from failure
        if _read(answers, GRACE) != [Answer()] * len(answers):
            self.end()
        return result

    def _cause(self, failure: Exception, answers: Sequence[Answer], *, broken: bool) -> Exception:
        """What the cell failed of. The group is ended, unless all ranks came to the same result.

        Args:
            failure: of this rank.
            broken: whether it was made to fail, since another had failed before.
        """
        if not (isinstance(failure, Diverged) and all(answer == Answer(describe(failure)) for answer in answers)):
            self.end()
        failed = [(rank, a.error) for rank, a in enumerate(answers, start=1) if a.error is not None and not a.lost]
        if broken and failed:
            rank, error = failed[0]
            return FinetricksError(f"rank {rank} of {self._size} failed: {error}")
        if broken or any(answer.lost for answer in answers):
            return WorkerLost(f"one of the cell's {self._size} workers was lost")
        return failure

    def _started(self) -> list[Any]:
        placement = get_current_placement_group()
        member = ray.remote(Member)
        members = []
        for rank, bundle in enumerate(self._bundles[1:], start=1):
            beside = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle["GPU"], "scheduling_strategy": beside}
            members.append(member.options(**options).remote(self._kept))
        return members

    def _join(self) -> None:
        """Make the process group."""
        self._members = self._members or self._started()
        try:
            ray.get([member.ready.remote() for member in self._members])
            with socket.create_server((ray.util.get_node_ip_address(), 0)) as server:
                host, port = server.getsockname()[:2]
                joined = [m.join.remote(host, port, rank, self._size) for rank, m in enumerate(self._members, start=1)]
                with _Watch(joined, self._kill):
                    _join(host, port, 0, self._size, listens=server.detach())
            ray.get(joined)
        except (ray.exceptions.RayError, RuntimeError) as error:
            self.end()
            raise WorkerLost(f"one of the cell's {self._size} workers was lost before it began") from error

    def _kill(self) -> None:
        for member in self._members:
            with suppress(ray.exceptions.RayError):
                ray.kill(member)

    def end(self) -> None:
        """End the other ranks. The next cell starts new ones."""
        self._kill()
        self._members = []
        leave()


class _Watch(Thread):
    """While this rank is at work, looks whether another has failed; then ends this one's waiting for it.

    Args:
        answers: the futures of the others.
        kill: ends them.

    Attributes:
        broken: whether it did so.
    """

    def __init__(self, answers: Sequence[Any], kill: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._answers = answers
        self._kill = kill
        self._over = Event()
        self.broken = False

    def run(self) -> None:
        while all(answer.error is None for answer in _read(self._answers)):
            if self._over.wait(BETWEEN_LOOKS):
                return
        if self._over.wait(GRACE):  # it was told too
            return
        self.broken = True
        self._kill()  # gloo raises when a connection is closed
        if not self._over.wait(LONGEST_END):
            logger.error("this worker waits for one that has failed, and ends itself; the cell is tried again")
            os._exit(1)  # NCCL waits on

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self.join()


class Member:
    """The actor of a rank above 0."""

    def __init__(self, kept: tuple[Plugins, Mapping[str, Task]]) -> None:
        self._workplace = Workplace(*kept)

    def ready(self) -> None:
        """Returns when what a run needs is imported."""

    def join(self, host: str, port: int, rank: int, size: int) -> None:
        """Join the process group whose rank 0 listens at `host`."""
        _join(host, port, rank, size)

    def run(self, order: Mapping[str, Any], out: str, resume: bool) -> str | None:
        """Do this rank's part of a cell. Gives the error that ended it, in words."""
        self._workplace.tidy()
        try:
            with Ranks.current().together():
                cell = CellOrder(**order)
                recipe, task = self._workplace.prepare(cell)
            sharing = sharing_of(cell, study_of(Path(out)), self._workplace.recipe)
            run(recipe, out, resume=resume, task=task, save_model=cell.save_model, upto=cell.upto, sharing=sharing)
        except Exception as failure:
            return describe(failure)
        return None


def _read(answers: Sequence[Any], seconds: float = 0.0) -> list[Answer]:
    """What became of the cell on the other ranks by now, or within some seconds."""
    ended, _ = ray.wait(list(answers), num_returns=len(answers), timeout=seconds)
    return [_answer(answer) if answer in ended else Answer(ended=False) for answer in answers]


def _answer(future: Any) -> Answer:
    try:
        return Answer(ray.get(future))
    except ray.exceptions.RayError as error:
        return Answer(str(error), lost=True)


def _join(host: str, port: int, rank: int, size: int, listens: int | None = None) -> None:
    """Make the process group; rank 0 serves its store on the socket `listens`."""
    interface = _interface(ray.util.get_node_ip_address())
    if interface is not None:
        for variable in INTERFACES:
            os.environ.setdefault(variable, interface)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, size, rank == 0, TIMEOUT, wait_for_workers=False, master_listen_fd=listens
    )
    dist.init_process_group(backend(), store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _interface(address: str) -> str | None:
    """The network interface that has an address. By itself gloo takes what the host's name resolves to."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return str(name)
    return None
