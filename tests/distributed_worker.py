"""One of the processes that `finetricks.runner.run` trains with; started by test_runner_distributed.py.

It does one run after another in one process group, and writes down what it saw of each.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import plans
from finetricks.catalog import installed
from finetricks.distributed import Ranks
from finetricks.recipe import Recipe
from finetricks.runner import run
from finetricks.session import Session

seen: list[dict[str, Any]] = []
own_step = Session.step


def watched_step(session: Session) -> bool:
    """Step, and compare the ranks' weights to the bit."""
    drawn = session._micro_seed()
    done = own_step(session)
    weights = torch.cat([value.flatten().double() for value in session.model.state_dict().values()])
    first = weights.clone()
    dist.broadcast(first, 0)
    frozen = sorted(session.plan.stage_at(max(session.global_step - 1, 0)).frozen)
    seen.append({"equal": torch.equal(weights, first), "frozen": frozen, "dropout_seed": drawn})
    return done


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    plans.watch()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=240),
    )
    Session.step = watched_step  # type: ignore[method-assign]
    catalog = installed().with_file(Path(__file__).with_name("distributed_tricks.py"))
    outcomes = {}
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        seen.clear()
        error = result = None
        try:
            recipe = Recipe(**job["recipe"], catalog=catalog)
            result = run(recipe, job["out"], resume=job.get("resume", False))
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        outcomes[name] = {
            "error": error,
            "valid": result and result.valid,
            "steps": result and result.steps,
            "seen": list(seen),
        }
        (folder / f"rank{rank}.json").write_text(json.dumps(outcomes))
    assert Ranks.current() == Ranks(rank, size)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
