"""A row known by what the model is given for it.

A row's key is a hash of its own inputs without padding, so that it is the same whatever stands beside it in a batch.
What a frozen layer gives for it is the same then, too, but for two things. Attention sums over the keys in blocks, and
the last bits of a row whose last block is cut short by the batch's end differ: a row whose blocks are whole has one
key, and another for each length that it was padded to where they are not. And matrices of few rows are multiplied
otherwise: a pass of few tokens is not replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

KEYS_AT_ONCE = 16
"""Keys that attention sums at once: as many as the widest registers of a CPU hold (fp32; of half precision twice)."""

ANY_LENGTH = 32
"""At an odd length below this, heads of 8 dimensions sum otherwise (torch 2.13)."""

TOKENS_OF_A_THREAD = 16
"""A pass with fewer tokens for each thread may be multiplied otherwise; seen below 12 in all."""

MASK = "attention_mask"

SAYS_ONLY = frozenset({"output_hidden_states", "return_dict", "use_cache", "labels", "num_items_in_batch"})
"""Arguments that the states do not depend on."""


Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rows:
    """The rows of a batch.

    Attributes:
        keys: one a row.
        spans: where each row's own tokens stand, from and to; `None` where rows are not padded.
        mask: [rows, tokens] of real tokens; `None` where rows are not padded.
        per_row: the arguments that hold one thing a row, `in_tokens` those of them with a place for each token.
    """

    keys: tuple[bytes, ...]
    spans: Spans | None
    mask: torch.Tensor | None
    per_row: frozenset[str]
    in_tokens: frozenset[str]

    def cut(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Each row's own of [rows, tokens, width]."""
        if self.spans is None:
            return list(states.unbind())
        return [state[start:end] for state, (start, end) in zip(states.unbind(), self.spans, strict=True)]

    def padded(self, states: list[torch.Tensor], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The rows' own states as one tensor, zero where there is padding."""
        if self.spans is None or self.mask is None:
            return torch.stack([state.to(device, dtype) for state in states])
        together = torch.zeros((*self.mask.shape, states[0].shape[-1]), dtype=dtype, device=device)
        for row, state, (start, end) in zip(together.unbind(), states, self.spans, strict=True):
            row[start:end] = state
        return together


def rows_of(given: Mapping[str, Any], tokens: int = 0) -> Rows | None:
    """The rows of the arguments of a trunk's forward pass; `None` where they cannot be told.

    Args:
        given: by name; a `None` is left out.
        tokens: of a row, where there is no mask that tells.
    """
    named = {name: value for name, value in sorted(given.items()) if name not in SAYS_ONLY}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in named.items() if name not in tensors}
    if not _are_plain(tensors, others):
        return None
    mask = tensors.get(MASK)
    mask = mask if mask is not None and mask.ndim == 2 else None
    first = next(iter(tensors.values())) if mask is None else mask
    size, length = len(first), 0 if mask is None else mask.shape[1]
    per_row = {name: tensor for name, tensor in tensors.items() if tensor.ndim and len(tensor) == size}
    shared = {name: tensor for name, tensor in tensors.items() if name not in per_row}
    if any(tensor.ndim and len(tensor) != 1 for tensor in shared.values()):
        return None
    if size * (length or tokens) < TOKENS_OF_A_THREAD * torch.get_num_threads():
        return None
    common = hashlib.blake2b(repr((sorted(others.items()), _autocast(first.device))).encode(), digest_size=32)
    for name, tensor in shared.items():
        common.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        common.update(_array(tensor).tobytes())
    in_tokens = frozenset(
        name for name, tensor in per_row.items() if mask is not None and tensor.ndim >= 2 and tensor.shape[1] == length
    )
    cut: list[NDArray[Any]] = []
    whole: list[NDArray[Any]] = []
    for name, tensor in per_row.items():
        each = name in in_tokens
        common.update(f"{name} {tensor.dtype} {list(tensor.shape[2 if each else 1 :])}".encode())
        (cut if each else whole).append(_array(tensor).reshape(size, length if each else 1, -1))
    spans, tags = _spans(mask)
    keys = tuple(
        _key(
            common.copy(),
            [array[row] for array in whole],
            [array[row, slice(*spans[row])] for array in cut] if spans else [],
            tags[row] if spans else b"",
        )
        for row in range(size)
    )
    return Rows(keys, spans, mask, frozenset(per_row), in_tokens)


def _are_plain(tensors: Mapping[str, torch.Tensor], others: Mapping[str, Any]) -> bool:
    """Whether a hash tells all of the arguments, and no gradient flows to them."""
    values = tensors.values()
    if not tensors or any(tensor.requires_grad for tensor in values) or not all(tensor.ndim for tensor in values):
        return False
    return all(isinstance(value, bool | int | float | str) for value in others.values())


def _key(digest: Any, whole: Sequence[NDArray[Any]], cut: Sequence[NDArray[Any]], tag: bytes) -> bytes:
    """The hash of one row's arguments, those with a place for each token cut to the row's own."""
    digest.update(tag)
    for array in (*whole, *cut):
        digest.update(array.ravel())
    found: bytes = digest.digest()
    return found


def _spans(mask: torch.Tensor | None) -> tuple[Spans | None, tuple[bytes, ...]]:
    """Where each row's tokens stand, and what beside them its states depend on."""
    if mask is None:
        return None, ()
    real = mask.detach().cpu().numpy() != 0
    length = real.shape[1]
    block = keys_at_once(mask.device)
    starts = real.argmax(axis=1)
    ends = length - real[:, ::-1].argmax(axis=1)
    counts = real.sum(axis=1)
    spans, tags = [], []
    for first, last, count in zip(starts.tolist(), ends.tolist(), counts.tolist(), strict=True):
        # Where there are none at all, or gaps, all of it counts.
        start, end = (first, last) if count == last - first else (0, length)
        whole_blocks = start == 0 and length >= block * -(-end // block) and (length % 2 == 0 or length >= ANY_LENGTH)
        spans.append((start, end))
        tags.append(b"" if whole_blocks else f"{start} {length}".encode())
    return tuple(spans), tuple(tags)


def keys_at_once(device: torch.device) -> int:
    """Keys that attention sums at once, as things are."""
    return KEYS_AT_ONCE * (2 if torch.is_autocast_enabled(device.type) else 1)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _autocast(device: torch.device) -> str:
    kind = device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
