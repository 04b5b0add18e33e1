"""The order of the examples: a function of (seed, epoch), continued within an epoch, or not pretended to be."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from finetricks import CheckpointError
from finetricks.order import Order

DATA = TensorDataset(torch.arange(10))


def flat(batches) -> list[int]:
    return [int(value) for (batch,) in batches for value in batch]


def test_an_epoch_is_a_permutation_that_seed_and_epoch_determine() -> None:
    order = Order(DataLoader(DATA, batch_size=3, shuffle=True), seed=1)
    first = flat(order.epoch(0))
    assert sorted(first) == list(range(10))
    assert flat(order.epoch(0)) == first
    assert flat(order.epoch(1)) != first
    assert flat(Order(DataLoader(DATA, batch_size=3, shuffle=True), seed=2).epoch(0)) != first


def test_an_epoch_can_be_continued_and_keeps_its_last_short_batch() -> None:
    order = Order(DataLoader(DATA, batch_size=3, shuffle=True), seed=1)
    whole = [batch[0].tolist() for batch in order.epoch(4)]
    assert [len(batch) for batch in whole] == [3, 3, 3, 1]
    assert [batch[0].tolist() for batch in order.epoch(4, skip=2)] == whole[2:]


def test_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    flat(Order(DataLoader(DATA, batch_size=3, shuffle=True), seed=1).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_that_does_not_shuffle_keeps_its_order() -> None:
    assert flat(Order(DataLoader(DATA, batch_size=4), seed=1).epoch(3)) == list(range(10))


def test_plain_order_is_the_trainers() -> None:
    # accelerate's seedable sampler: a generator seeded with seed + epoch.
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(42 + 2)).tolist()
    assert flat(Order(DataLoader(DATA, batch_size=3, shuffle=True), seed=42, plain=True).epoch(2)) == expected


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(6))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream(), batch_size=2),
        DataLoader(DATA, batch_size=2, sampler=WeightedRandomSampler([1.0] * 10, 10)),
        DataLoader(DATA, batch_size=2, sampler=RandomSampler(DATA, replacement=True)),
        [1, 2, 3],
    ],
)
def test_an_order_that_is_not_ours_is_iterated_but_not_continued(loader) -> None:
    order = Order(loader, seed=0)
    assert not order.owned
    assert len(list(order.epoch(0))) == len(list(loader))
    with pytest.raises(CheckpointError, match="start again"):
        list(order.epoch(0, skip=1))
