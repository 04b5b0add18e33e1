"""Three random streams from one seed: independent, reproducible, and the caller's state is left alone (rule 8)."""

from __future__ import annotations

import pytest
import torch

from finetricks.streams import Streams, child, seeded


def test_streams_are_the_same_on_every_machine() -> None:
    # Written down once: a change of these numbers is a change of every run ever recorded.
    assert Streams.derive(0) == Streams(init=4998479019404603764, data=4551906273675907479, dropout=7280014844773221900)


def test_streams_differ_from_one_another_and_from_seed_to_seed() -> None:
    seen = [value for seed in range(100) for value in vars(Streams.derive(seed)).values()]
    assert len(set(seen)) == 300


def test_one_stream_can_be_varied_alone() -> None:
    base, varied = Streams.derive(5), Streams.derive(5, data=6)
    assert (base.init, base.dropout) == (varied.init, varied.dropout)
    assert base.data != varied.data


def test_a_child_stream_is_named_by_all_its_keys() -> None:
    assert child(1, "a", 2) == child(1, "a", 2)
    assert len({child(1, "a", 2), child(1, "a", 3), child(1, "b", 2), child(2, "a", 2), child(1, 2, "a")}) == 5
    assert 0 <= child(0, "x") < 2**63


def test_seeding_a_block_leaves_the_callers_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(7):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(7):
        assert torch.equal(torch.rand(3), inside)


def test_a_seeded_block_draws_what_torch_draws_and_an_error_puts_the_state_back_too() -> None:
    with seeded(7):
        inside = torch.rand(3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="out"), seeded(7):
        raise ValueError("out")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), inside)
    assert child(7, "dropout", 3) == 8982768760139921539  # the streams of runs that are recorded
