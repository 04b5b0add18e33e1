"""Are the GPUs seen, and do they compute?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.errors import in_words

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def check_gpu(catalog: Catalog) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _computes(index)
        return
    there = sorted(path.name for path in DEVICES.glob("nvidia[0-9]*"))
    if not there:
        yield ok("no NVIDIA GPU on this machine; torch computes on the CPU")
    elif VISIBLE in os.environ:
        yield look(
            f"{', '.join(there)} on this machine, hidden by {VISIBLE}={os.environ[VISIBLE]!r}",
            f"unset {VISIBLE}, if that is not meant",
        )
    elif torch.version.cuda is None and torch.version.hip is None:
        yield wrong(
            f"{', '.join(there)} on this machine, and torch {torch.__version__} is built for the CPU",
            "install a torch that is built for CUDA",
        )
    else:
        yield wrong(
            f"{', '.join(there)} on this machine, and torch (built for CUDA {torch.version.cuda}) does not see it",
            "look at what `nvidia-smi` says of the driver, and install one that is new enough for this CUDA",
        )


def _computes(index: int) -> Finding:
    """Whether a GPU multiplies: one that torch sees may be of a kind that torch is not built for."""
    import torch

    name = f"GPU {index}, {torch.cuda.get_device_name(index)}"
    try:
        ones = torch.ones(8, 8, device=f"cuda:{index}")
        right = bool((ones @ ones == 8).all())
        free, total = torch.cuda.mem_get_info(index)
    except Exception as error:  # torch raises several kinds of its own, by what has failed
        return wrong(f"{name}, does not compute: {in_words(error)}", "install a torch that is built for this GPU")
    if not right:
        return wrong(f"{name}, computes wrongly", "use another GPU, and look at what `nvidia-smi -q` says of this one")
    return ok(f"{name}, computes; {free / 2**30:.0f} of {total / 2**30:.0f} GiB are free")
