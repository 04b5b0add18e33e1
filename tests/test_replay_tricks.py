"""With every built-in trick a run that replays is the run that does not; else the trick says `changes_frozen`."""

from __future__ import annotations

import pytest

import every
from finetricks import installed

FREEZING = {"chain_thaw", "feature_based", "gradual_unfreezing", "last_layer", "predict_only", "sequential_unfreezing"}


@pytest.mark.parametrize("names", every.together(), ids=lambda names: names[0])
def test_replay_changes_nothing(names: tuple[str, ...]) -> None:
    _same(*names)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(every.CASES))
def test_replay_changes_nothing_beside_a_frozen_body(name: str) -> None:
    """The trick over a body that is frozen all along, which is replayed unless the trick forbids it."""
    names = (name,) if name in FREEZING or not every.suit((name, "last_layer")) else (name, "last_layer")
    _same(*names)


def _same(*names: str) -> None:
    settings = {"epochs": 4, "batch_size": 6}
    plain = every.bound(every.recipe(*names, replay="off", **settings))
    replayed = every.bound(every.recipe(*names, replay="auto", **settings))
    assert every.train(plain) == every.train(replayed)
    assert every.same(plain.finish().state_dict(), replayed.finish().state_dict())
    assert not any(installed().get(name).changes_frozen for name in names) or not replayed.replay["hits"]
