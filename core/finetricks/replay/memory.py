"""States in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Budget:
    """Bytes that several stores share."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Take `size` bytes, if there are as many left."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size


class MemoryStore:
    """Keeps states where they are, on the CPU or a GPU, as long as `budget` has room. See `Store`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._states: dict[bytes, torch.Tensor] = {}
        self._size = 0

    def get(self, keys: Sequence[bytes]) -> list[torch.Tensor | None]:
        return [self._states.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], states: Sequence[torch.Tensor]) -> None:
        for key, state in zip(keys, states, strict=True):
            if key not in self._states and self._budget.take(state.nbytes):
                self._size += state.nbytes
                self._states[key] = state

    @property
    def nbytes(self) -> int:
        return self._size

    def close(self) -> None:
        self._states = {}
        self._budget.give_back(self._size)
        self._size = 0
