"""Three random streams (initialisation, data order, dropout) from one seed. Rule 8."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def child(seed: int, *keys: int | str) -> int:
    """The seed of the stream that `keys` name within the stream of `seed`: 63 bits, the same on every machine."""
    words = [seed, *(_number(key) for key in keys)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def _number(key: int | str) -> int:
    if isinstance(key, int):
        return key
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Streams:
    """The seeds of a run's three random streams."""

    init: int
    data: int
    dropout: int

    @classmethod
    def derive(
        cls, seed: int, *, init: int | None = None, data: int | None = None, dropout: int | None = None
    ) -> Streams:
        """Derive all three from `seed`; a stream that is given a seed of its own derives from that instead."""
        return cls(
            init=child(seed if init is None else init, "init"),
            data=child(seed if data is None else data, "data"),
            dropout=child(seed if dropout is None else dropout, "dropout"),
        )


@contextmanager
def kept() -> Iterator[None]:
    """Put the caller's global random states (Python's, numpy's, torch's) back after the block."""
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global state for the block, and put the caller's state back afterwards."""
    import torch

    if not torch.cuda.is_initialized() and _only_cpu():
        # For each micro-batch: `torch.manual_seed` walks the stack to say who seeded devices that are not there.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(before)
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=1)
def _only_cpu() -> bool:
    """Whether torch has no accelerator here, whose random state would have to be seeded too."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) is None
