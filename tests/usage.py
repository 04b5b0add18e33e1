"""What a process holds, in counts that are exact, and whether it grows."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What is alive after a collection of garbage.

    Attributes:
        tensors: live tensors.
        tensor_bytes: in them.
        objects: that the garbage collector knows.
        files: open file descriptors.
        threads: of the process, native ones too.
        resident: bytes of memory, whole pages.
    """

    tensors: int
    tensor_bytes: int
    objects: int
    files: int
    threads: int
    resident: int


def usage() -> Usage:
    gc.collect()
    objects = gc.get_objects()
    # By the type, not by isinstance: of a lazy proxy that would run its code; what a compiler traces with has no bytes.
    alive = [thing for thing in objects if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return Usage(
        tensors=len(alive),
        tensor_bytes=sum(tensor.nbytes for tensor in alive),
        objects=len(objects) - len(alive),
        files=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
        resident=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
    )


def growth(samples: Sequence[Usage]) -> dict[str, float]:
    """By how much each count grows from one sample to the next: the slope of a line through them (least squares)."""
    middle = (len(samples) - 1) / 2
    squares = sum((place - middle) ** 2 for place in range(len(samples)))
    return {
        field.name: sum((place - middle) * getattr(sample, field.name) for place, sample in enumerate(samples))
        / squares
        for field in fields(Usage)
    }
