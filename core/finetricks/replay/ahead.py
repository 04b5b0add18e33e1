"""States that will be asked for in batches of another length, where their last bits are others.

A row whose last block of keys is cut short by the batch's end has other bits than in longer batches (see `keys`). Where
it comes first with the one, a later epoch asks for the other: then nearly every batch would hold a row or two that are
missing. They are computed in whole batches instead, once an epoch has shown which lengths there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from finetricks.replay.keys import Rows, keys_at_once

MOST = 10_000
"""Rows that are remembered at most, with their inputs."""

LENGTHS = 2
"""A row that has more kinds of state than this is left to come when it comes: batches of any length."""


class Ahead:
    """The rows of an epoch whose states depend on the batch's length, and the lengths of its batches."""

    def __init__(self) -> None:
        self._rows: list[tuple[range, int, dict[str, torch.Tensor]]] = []  # of it: lengths, where it came, arguments
        self._known: set[bytes] = set()
        self._in_tokens: frozenset[str] = frozenset()
        self._lengths: set[int] = set()
        self._size = 0
        self._padded_on_the_left = False

    def note(self, rows: Rows, given: Mapping[str, Any]) -> bool:
        """Remember the rows of a batch, and how long it is; whether any are remembered."""
        if rows.mask is None or rows.spans is None or self._padded_on_the_left:
            return False
        if self._rows and rows.per_row != self._rows[0][2].keys():
            return False
        if any(start for start, _ in rows.spans):
            self._padded_on_the_left, self._rows = True, []
            return False
        size, length = rows.mask.shape
        self._size, self._in_tokens = max(self._size, size), rows.in_tokens
        self._lengths.add(length)
        block = keys_at_once(rows.mask.device)
        for row, (_, end) in enumerate(rows.spans):
            whole = -(-end // block) * block
            if end < whole and len(self._rows) < MOST and rows.keys[row] not in self._known:
                self._known.add(rows.keys[row])
                own = {name: given[name][row] for name in rows.per_row}
                cut = {name: value[:end] if name in rows.in_tokens else value for name, value in own.items()}
                self._rows.append((range(end, whole), length, cut))
        return bool(self._rows)

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """The rows that were noted, at each other length at which they may come, once."""
        lengths, rows = sorted(self._lengths), self._rows
        self._lengths, self._rows = set(), []
        wanted = [_wanted(short, came, lengths) for short, came, _ in rows]
        for length in lengths:
            some = [own for (_, _, own), at in zip(rows, wanted, strict=True) if length in at]
            for start in range(0, len(some), self._size):
                part = some[start : start + self._size]
                yield {name: torch.stack([self._padded(name, own[name], length) for own in part]) for name in part[0]}

    def _padded(self, name: str, value: torch.Tensor, length: int) -> torch.Tensor:
        if name not in self._in_tokens:
            return value
        return F.pad(value, [0, 0] * (value.ndim - 1) + [0, length - len(value)])


def _wanted(short: range, came: int, lengths: list[int]) -> set[int]:
    """The lengths that give a row's states other bits than it has: each of the short ones, and one of the others."""
    others = [length for length in lengths if length >= short.stop][:1]
    kinds = {length for length in lengths if length in short}.union(others)
    return kinds - ({came} if came in short else set(others)) if len(kinds) <= LENGTHS else set()
