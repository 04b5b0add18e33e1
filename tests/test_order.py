"""The order of the examples: a function of (seed, epoch), continued within an epoch, or not pretended to be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from finetricks import CheckpointError, FinetricksError
from finetricks.distributed import Ranks
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


# -- examples of like length together ----------------------------------------------------------------------

LENGTHS = [(7 * row) % 101 for row in range(1001)]
ROWS = TensorDataset(torch.arange(1001))


def grouped(epoch: int = 0, *, seed: int = 1, skip: int = 0, drop_last: bool = False, **options) -> list[list[int]]:
    loader = DataLoader(ROWS, batch_size=10, shuffle=True, drop_last=drop_last)
    order = Order(loader, seed, **{"lengths": LENGTHS} | options)
    return [batch.tolist() for (batch,) in order.epoch(epoch, skip)]


def test_every_example_is_seen_once_beside_others_of_its_length() -> None:
    batches = grouped()
    assert sorted(row for batch in batches for row in batch) == list(range(1001))
    assert [len(batch) for batch in batches] == [10] * 100 + [1]
    spans = [max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch) for batch in batches[:-1]]
    # A quarter of the epoch, 250 rows of lengths 0 to 100, in 25 batches: each spans about a 25th of the lengths.
    assert sum(spans) / len(spans) < 5
    alone = grouped(lengths=None)
    assert sum(max(LENGTHS[row] for row in batch) for batch in alone) > 1.6 * sum(
        max(LENGTHS[row] for row in batch) for batch in batches
    )


def test_the_longest_comes_first_and_the_others_in_no_order_of_length() -> None:
    longest = [max(LENGTHS[row] for row in batch) for batch in grouped()[:-1]]
    assert longest[0] == 100
    rest = longest[1:]
    # Of an order drawn at random half of the neighbours rise; of a sorted one few or none.
    assert 30 < sum(before < after for before, after in itertools.pairwise(rest)) < 70


def test_grouping_is_a_function_of_seed_epoch_and_lengths_alone() -> None:
    assert grouped(3) == grouped(3)
    assert len({str(grouped(epoch, seed=seed)) for epoch in (0, 1) for seed in (1, 2)}) == 4
    assert grouped(3, lengths=[2 * length for length in LENGTHS]) == grouped(3)  # only which is longer
    assert grouped(3, skip=37) == grouped(3)[37:]
    assert grouped(3, drop_last=True) == grouped(3)[:-1]
    before = torch.get_rng_state()
    grouped()
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_a_group_evenly() -> None:
    whole = grouped()
    parts = [grouped(ranks=Ranks(rank, 2)) for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*parts, strict=True)][:-1] == [sorted(rows) for rows in whole][
        :-1
    ]
    assert all(
        max(LENGTHS[r] for r in one) - max(LENGTHS[r] for r in other) < 5 for one, other in zip(*parts, strict=True)
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_examples_can_be_grouped(rows: int) -> None:
    loader = DataLoader(TensorDataset(torch.arange(rows)), batch_size=3, shuffle=True)
    assert sorted(flat(Order(loader, seed=1, lengths=[5] * rows).epoch(0))) == list(range(rows))


@pytest.mark.parametrize(
    ("loader", "lengths", "message"),
    [
        (DataLoader(DATA, batch_size=2), range(10), "this loader does not shuffle.*shuffle=True"),
        (DataLoader(DATA, batch_size=2, shuffle=True), range(9), "9 lengths, but the loader's data set has 10 rows"),
        ([1, 2, 3], range(3), "shuffle=True"),
    ],
)
def test_what_cannot_be_grouped_is_refused(loader, lengths, message: str) -> None:
    with pytest.raises(FinetricksError, match=message):
        Order(loader, seed=0, lengths=lengths)


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
