"""Do threads outnumber the cores? They then wait for one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.doctor.finding import Finding, look, ok

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

OMP = "OMP_NUM_THREADS"
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use: microseconds of computing, and of the time in which."""


def check_threads(catalog: Catalog) -> Iterator[Finding]:
    import torch

    there, threads = cores(), torch.get_num_threads()
    given = os.environ.get(OMP, "")
    wanted = given.partition(",")[0].strip()  # a number for each level of nesting
    if given and not (wanted.isdigit() and int(wanted)):
        yield look(f"{OMP} is {given!r}, which is no number of threads", f"set {OMP}={there}, or unset it")
    elif wanted and int(wanted) > there:
        yield look(f"{OMP} is {wanted}, and this process may use {there} cores", f"set {OMP}={there}, or fewer")
    elif threads > there:
        yield look(
            f"torch computes with {threads} threads, and this process may use {there} cores",
            f"set {OMP}={there}, or `training.threads: {there}` in the recipe",
        )
    else:
        yield ok(f"torch computes with {threads} threads; this process may use {there} cores")


def cores() -> int:
    """How many this process may use, by its affinity and by its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
        return allowed
