"""What keeps states must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Store(Protocol):
    """The states that one part of the model gives, by the keys of the rows. Bounded in bytes."""

    def get(self, keys: Sequence[bytes]) -> list[torch.Tensor | None]:
        """The states of each row, [tokens, width], not to be written to; `None` where there are none."""

    def put(self, keys: Sequence[bytes], states: Sequence[torch.Tensor]) -> None:
        """Keep states, [tokens, width] each; a key that is there is left. What finds no room is dropped."""

    @property
    def nbytes(self) -> int:
        """Bytes of the states that lie in it."""

    def close(self) -> None:
        """Let go of everything. May be called again."""
