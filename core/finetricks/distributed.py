"""Several processes that train one model together, each on its part of every batch.

The recipe's batch is the whole one, whatever the number of processes. A process counts for as much as it has examples,
so the loss that is differentiated is the mean over the batch, also where the batch cannot be shared out evenly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from finetricks.errors import FinetricksError, InputError, in_words

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another that is alive and does not answer. One that ended is noticed at once."""


class OtherRankFailed(FinetricksError):
    """What ended a process of the group has ended this one too. Names the first that failed, and its error."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, and which of them this is; by default it is alone.

    All of them call each method that exchanges something, in the same order.

    Attributes:
        rank: from 0; rank 0 alone writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of torch's default process group, if there is one.

        Raises:
            InputError: the group cannot exchange what lies in main memory (NCCL alone).
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        if "cpu:" not in (backends := dist.get_backend_config()):
            raise InputError(
                f"the process group has the backends {backends}, none of them for the CPU, by which the processes "
                'agree: init_process_group(backend="cpu:gloo,cuda:nccl")'
            )
        return cls(dist.get_rank(), dist.get_world_size())

    # -- who computes what -------------------------------------------------------------------------------

    def part(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows of a batch: every `size`-th. Never none: one without its own repeats the first."""
        return rows[self.rank :: self.size] or rows[:1]

    def weight(self, rows: int) -> float:
        """What the mean loss of this process's part of a batch counts: its share of the `rows`, times `size`.

        The mean of the weighted losses over the processes is the mean over the batch. 1 where the parts are equal, and
        0 for a process that only repeats a row.
        """
        return self.size * len(range(self.rank, rows, self.size)) / rows

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes. They all begin with the weights of rank 0.

        Do it while everything is trainable (rule 9). Weights without a gradient are allowed: tricks freeze, and some
        architectures have weights that their loss does not reach.
        """
        return model if self.size == 1 else DistributedDataParallel(model, find_unused_parameters=True)

    # -- what they tell one another ----------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something on all processes; if it fails on one, it fails on all, instead of leaving the others waiting.

        Raises:
            OtherRankFailed: it failed on another one. Where it failed, its own error is raised.
        """
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if not self.mean(float(failure is not None)):
            return
        told = self.gather(None if failure is None else describe(failure))
        if failure is not None:
            raise failure
        rank = next(rank for rank, text in enumerate(told) if text is not None)
        raise OtherRankFailed(f"rank {rank} of {self.size} failed: {told[rank]}")

    def mean(self, value: float) -> float:
        """The mean of the processes' values; the same bits on all of them."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.size

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers that rank 0's model has.

        Running statistics of a batch norm are of a process's own rows. DistributedDataParallel does the same at the
        beginning of each forward pass, which leaves them apart where a model is evaluated.
        """
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_first(self, give: Callable[[], T]) -> T:
        """What `give` gives on rank 0, which alone calls it: to write, or to decide for all.

        Raises:
            OtherRankFailed: it failed there.
        """
        if self.size == 1:
            return give()
        given: list[Any] = [None]
        with self.together():
            if self.rank == 0:
                given = [give()]
        dist.broadcast_object_list(given)
        return given[0]  # type: ignore[no-any-return]


ALONE = Ranks()


def describe(failure: Exception) -> str:
    """An error in words, with its notes: which trick it came from."""
    notes = "".join(f"\n{note}" for note in getattr(failure, "__notes__", ()))
    return f"{failure if isinstance(failure, FinetricksError) else in_words(failure)}{notes}"


def backend() -> str:
    """The backends of a process group on this machine, for `init_process_group`."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def launched() -> Iterator[Ranks]:
    """The process group that `torchrun` asks for, for the block; this process alone where nothing does.

    Raises:
        InputError: there are GPUs, and more processes on this machine than GPUs.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield ALONE
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {gpus} GPUs; each needs one of its own: "
                f"torchrun --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(backend(), timeout=TIMEOUT)
    try:
        yield Ranks.current()
    except BaseException:
        leave()
        raise
    dist.destroy_process_group()


def leave() -> None:
    """End the process group, if there is one, without waiting for what the other processes still owe."""
    if (group := dist.group.WORLD) is not None:
        group.abort()
        dist.destroy_process_group()
