"""On what a run's bits depend beside recipe and versions, and what can still move them: part of a run's record.

On a CPU the same recipe, versions, number of threads and instruction set give the same bits. On CUDA some kernels add
in whatever order their threads arrive; which of them are left to do so follows from a few settings of torch.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = (":4096:8", ":16:8")


@dataclass(frozen=True)
class Facts:
    """What the bits depend on.

    Attributes:
        device: `cpu` or `cuda`.
        device_name: of the GPU; the instruction set that torch uses on a CPU.
        threads: of torch within an operation, on the CPU.
        deterministic_algorithms: `on`, `warn_only` or `off`: `torch.use_deterministic_algorithms`.
        cudnn_deterministic: `torch.backends.cudnn.deterministic`.
        cudnn_benchmark: `torch.backends.cudnn.benchmark`.
        cublas_workspace: the environment's `CUBLAS_WORKSPACE_CONFIG`.
        tf32: whether matrix products of float32 may be rounded to TF32: fewer bits, though always the same.
        ranks: the processes that train together.
    """

    device: str
    device_name: str
    threads: int
    deterministic_algorithms: str = "off"
    cudnn_deterministic: bool = False
    cudnn_benchmark: bool = False
    cublas_workspace: str | None = None
    tf32: bool = False
    ranks: int = 1


def facts(ranks: int = 1) -> Facts:
    """Those of this process, now, one of so many that train together."""
    cuda = torch.cuda.is_available()
    wanted = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    return Facts(
        device="cuda" if cuda else "cpu",
        device_name=torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        ranks=ranks,
        deterministic_algorithms=("warn_only" if lenient else "on") if wanted else "off",
        cudnn_deterministic=torch.backends.cudnn.deterministic,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        cublas_workspace=os.environ.get(CUBLAS),
        tf32=torch.backends.cuda.matmul.allow_tf32,
    )


def not_deterministic(of: Facts) -> list[str]:
    """The known sources of differences between two runs with these facts, a sentence each; none on a CPU.

    After torch's notes on reproducibility and on `torch.use_deterministic_algorithms`.
    """
    if of.device != "cuda":
        return []
    left = []
    if of.deterministic_algorithms == "off":
        left.append(
            "sums by atomic additions: the gradients of index_select and gather, scatter_add, index_add, nll_loss over "
            "positions, cumsum; torch.use_deterministic_algorithms(True) replaces or refuses them"
        )
        left.append(
            "the backward pass of memory-efficient attention; torch.use_deterministic_algorithms(True) makes it "
            "deterministic"
        )
    if of.deterministic_algorithms == "warn_only":
        left.append(
            "operations without a deterministic kernel, and the backward pass of memory-efficient attention: they are "
            "warned of and run (warn_only)"
        )
    if of.cublas_workspace not in CUBLAS_DETERMINISTIC:
        left.append(
            f"cuBLAS and the LSTMs of cuDNN with several streams; set {CUBLAS} to {' or '.join(CUBLAS_DETERMINISTIC)} "
            "before the start"
        )
    if of.deterministic_algorithms == "off" and not of.cudnn_deterministic:
        left.append("the gradients of cuDNN's convolutions; torch.backends.cudnn.deterministic = True")
    if of.cudnn_benchmark:
        left.append("cuDNN chooses its algorithms by timing them; torch.backends.cudnn.benchmark = False")
    return left


def record(ranks: int = 1) -> dict[str, Any]:
    """The facts of this process, and `not_deterministic`, as JSON values."""
    here = facts(ranks)
    return {**asdict(here), "not_deterministic": not_deterministic(here)}
