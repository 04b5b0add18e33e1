"""What studies need of an installation: libraries, and a Ray that starts. A check of `finetricks doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from finetricks.doctor import Finding, ok, wrong
from finetricks.doctor.versions import unmet_versions
from finetricks.errors import FinetricksError
from finetricks_tuning.loopback import keep_to_this_machine

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

SECONDS = 120.0
"""How long a process of Ray's has to answer."""


def check_ray(catalog: Catalog) -> Iterator[Finding]:
    """Whether the extra `tune` is whole, and a Ray of one's own computes on this machine."""
    if find_spec("ray") is None:
        yield ok("not installed; studies need it: pip install 'finetricks[tune]'")
        return
    unmet = list(unmet_versions("tune"))
    yield from unmet
    keep_to_this_machine()
    import ray

    from finetricks_tuning.engine import QUIET, cluster, environment

    try:
        with environment(QUIET), redirect_stdout(sys.stderr), cluster(None, 1):
            there = ray.cluster_resources()
            process = ray.get(ray.remote(num_cpus=1)(_process).remote(), timeout=SECONDS)
    except (FinetricksError, ray.exceptions.RayError) as error:
        yield wrong(
            f"Ray {version('ray')} does not compute: {error}",
            "look at /tmp/ray/session_latest/logs; Ray needs room in /tmp and /dev/shm, and ports on 127.0.0.1",
        )
        return
    if process == os.getpid():
        yield wrong("Ray computes in this process, not in one of its own", "unset RAY_LOCAL_MODE")
    elif not unmet:
        yield ok(f"Ray {version('ray')} starts, with {there['CPU']:g} CPUs and {there.get('GPU', 0):g} GPUs")


def _process() -> int:
    return os.getpid()
