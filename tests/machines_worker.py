"""One of two processes (gloo) that train every trick together, one after another; started by test_machines_ranks.py."""

from __future__ import annotations

import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import machines
from finetricks.distributed import Ranks


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=240)
    )
    outcomes: dict[str, Any] = {}
    jobs = json.loads((folder / "jobs.json").read_text())
    for name in jobs["names"]:
        try:
            outcomes[name] = machines.among_ranks(name, Ranks.current(), jobs["training"])
        except Exception:
            outcomes[name] = {"error": traceback.format_exc()}
        if "compile" in jobs["training"]:
            torch._dynamo.reset()
    (folder / f"rank{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
