"""What one run may leave behind in a process, and how the next one starts clean: warm and cold give the same bits."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Flags:
    """The global switches of torch that a trick may have turned."""

    dtype: torch.dtype
    deterministic: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    matmul_precision: str
    grad: bool
    threads: int

    @classmethod
    def now(cls) -> Flags:
        return cls(
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
        )

    def set(self) -> None:
        torch.set_default_dtype(self.dtype)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.set_grad_enabled(self.grad)
        torch.set_num_threads(self.threads)


def settle() -> None:
    """Take what a process holds by now (libraries, data) out of the garbage collector's sight, for good.

    Looking through it costs 0.2 s a cell, and none of it is garbage.
    """
    gc.collect()
    gc.freeze()


def clean(flags: Flags) -> None:
    """Put a process in the state in which a run starts: `flags`, fresh random state, the last run's memory free."""
    flags.set()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
