"""The order of the examples: a pure function of (data seed, epoch), so that resume can continue within an epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from finetricks.distributed import ALONE, Ranks
from finetricks.errors import CheckpointError, FinetricksError
from finetricks.streams import child, seeded


class EpochSampler(Sampler[int]):
    """A permutation of `size` examples for each epoch, drawn from `seed`; `set_epoch` chooses which."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(child(self.seed, "epoch", self.epoch))
        return iter(torch.randperm(self.size, generator=generator).tolist())


class TrainerSampler(EpochSampler):
    """The order in which a plain `transformers.Trainer` visits the examples, for `streams: none`."""

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


MEGABATCH, LEAST_MEGABATCHES = 50, 4
"""Batches among which examples of like length are found, and how many such stretches an epoch has if it can."""


class LengthSampler(EpochSampler):
    """An order in which each run of `batch_size` examples has like lengths: a function of (seed, epoch, lengths).

    The epoch's permutation is cut into stretches of up to 50 batches, each sorted by length and cut into batches. The
    batch with the longest example comes first, so that memory runs out at once or never; the others in an order drawn
    anew. Examples that fill no batch come last, as they would without grouping.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = lengths
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(child(self.seed, "epoch", self.epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        count = self.size // self.batch_size
        whole, rest = order[: count * self.batch_size], order[count * self.batch_size :]
        stretch = max(min(count // LEAST_MEGABATCHES, MEGABATCH), 1) * self.batch_size
        grouped = chain.from_iterable(
            sorted(whole[start : start + stretch], key=lambda row: -self.lengths[row])
            for start in range(0, len(whole), stretch)
        )
        batches = list(zip(*[grouped] * self.batch_size, strict=True))
        batches.sort(key=lambda rows: -self.lengths[rows[0]])
        shuffled = [0, *(1 + place for place in torch.randperm(max(count - 1, 0), generator=generator).tolist())]
        return chain(chain.from_iterable(batches[place] for place in shuffled[:count]), rest)


def first_batch(loader: Iterable[Any]) -> Any:
    """One batch to find the layers with; the loader's own random draws do not reach the caller."""
    if isinstance(loader, Iterator):
        return None  # what is taken from an iterator is gone
    with seeded(0):
        return next(iter(loader), None)


def unshuffled(loader: Any) -> Iterator[Any]:
    """The batches of a loader once; of torch's own over a map-style data set in the order of the examples in it."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        with seeded(0):
            yield from loader
        return
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1)
    yield from DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn)


class Order:
    """Gives a loader's batches epoch by epoch, in an order of its own where it can have one.

    A loader that shuffles gets an order drawn from `seed`; one that does not keeps its order. A loader whose order
    cannot be owned (over an iterable, or with a sampler of the user's) is iterated as it is, and `owned` is false.

    Args:
        loader: over the training set.
        seed: of the data stream.
        plain: behave as a plain Trainer does (`streams: none`), where `seed` is the Trainer's data seed.
        ranks: the processes among which each batch is shared out.
        lengths: of the examples of the loader's data set; those of like length then share a batch (`LengthSampler`).

    Raises:
        FinetricksError: the batches of a loader whose order cannot be owned are to be shared out, or the examples of
            one that does not shuffle are to be grouped.
    """

    def __init__(
        self,
        loader: Any,
        seed: int,
        *,
        plain: bool = False,
        ranks: Ranks = ALONE,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.loader = loader
        self.seed = seed
        self.plain = plain
        self._ranks = ranks
        self._sampler = self._own_sampler()
        self.grouping = "off"
        if lengths is not None:
            self._group(lengths)
        self.owned = self._sampler is not None
        if ranks.size > 1 and not self.owned:
            raise FinetricksError(
                "the batches of this loader cannot be shared out among processes: it is over an iterable, or has a "
                "sampler of its own. Give a loader over a map-style data set with torch's own sampler"
            )

    def _own_sampler(self) -> Sampler[int] | None:
        loader = self.loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return None
        if type(loader.batch_sampler) is not BatchSampler:
            return None
        if isinstance(loader.sampler, EpochSampler):
            return loader.sampler
        if type(loader.sampler) is RandomSampler and not loader.sampler.replacement:
            kind = TrainerSampler if self.plain else EpochSampler
            return kind(len(loader.sampler), self.seed)
        return loader.sampler if type(loader.sampler) is SequentialSampler else None

    def _group(self, lengths: Sequence[int]) -> None:
        """Let examples of like length share a batch."""
        if not isinstance(self._sampler, EpochSampler):
            raise FinetricksError(
                "training.group_by_length makes an order of its own, and this loader does not shuffle, is over an "
                "iterable or has a sampler of its own; give one over a map-style data set with shuffle=True"
            )
        if len(lengths) != len(self.loader.dataset):
            raise FinetricksError(
                f"{len(lengths)} lengths, but the loader's data set has {len(self.loader.dataset)} rows"
            )
        self._sampler = LengthSampler(lengths, self.loader.batch_size, self.seed)
        digest = hashlib.sha256(json.dumps([int(length) for length in lengths]).encode()).hexdigest()
        self.grouping = f"by lengths {digest[:16]}"

    def weight(self, index: int) -> float:
        """What this process's part of an epoch's micro-batch `index` counts; see `Ranks.weight`."""
        if not self.owned:
            return 1.0
        size = self.loader.batch_size
        return self._ranks.weight(min(size, len(self.loader.sampler) - index * size))

    def rows(self, epoch: int) -> list[list[int]]:
        """The rows of the data set in each batch of an epoch. Raises `FinetricksError` where the order is not ours."""
        if self._sampler is None:
            raise FinetricksError("the rows of this loader's batches are not known: its order is its own")
        if isinstance(self._sampler, EpochSampler):
            self._sampler.set_epoch(epoch)
        return list(BatchSampler(self._sampler, self.loader.batch_size, self.loader.drop_last))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """The batches of an epoch, without its first `skip` ones. Raises `CheckpointError` if it cannot skip."""
        if self._sampler is None:
            if skip:
                raise CheckpointError(
                    "the order of this loader is not finetricks' to continue in the middle of an epoch (it is over an "
                    "iterable, or has a sampler of its own): resume from a checkpoint at an epoch's end, or start again"
                )
            yield from self.loader
            return
        batches = self.rows(epoch)[skip:]
        batches = [list(self._ranks.part(rows)) for rows in batches]
        # The workers' seeds come from this generator; without one they would be drawn from the global state, as a plain
        # Trainer's are.
        generator = None if self.plain else torch.Generator().manual_seed(child(self.seed, "workers", epoch))
        yield from DataLoader(
            self.loader.dataset,
            batch_sampler=batches,
            collate_fn=self.loader.collate_fn,
            num_workers=self.loader.num_workers,
            pin_memory=self.loader.pin_memory,
            worker_init_fn=self.loader.worker_init_fn,
            generator=generator,
        )
