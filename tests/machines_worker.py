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
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    outcomes: dict[str, Any] = {}
    for name, training in json.loads((folder / "jobs.json").read_text()):
        try:
            outcomes[name] = machines.among_ranks(name, Ranks.current(), training)
        except Exception:
            outcomes[name] = {"error": traceback.format_exc()}
        (folder / f"rank{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
