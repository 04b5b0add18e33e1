"""One of two processes that train a model together, with replay and without; started by test_replay_loops.py."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from finetricks.distributed import Ranks
from test_replay import bound
from test_replay_loops import trained

torch.set_num_threads(1)


def told(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    result: dict[str, dict[str, object]] = {"loop": {}, "trainer": {}, "hits": {}}
    for replay in ("off", "auto"):
        session = bound(replay, "gradual_unfreezing", ranks=Ranks.current())
        wrapped = Ranks.current().wrap(session.model)
        losses = []
        for batch in session.batches():
            loss = session.loss(batch, wrapped)
            losses.append(loss.item())
            session.backward(loss)
            session.step()
        result["loop"][replay] = [losses, told(session.finish())]
        result["hits"]["loop"] = session.replay["hits"]
    for replay in ("off", "auto"):
        losses, model, record = trained(folder / "runs", replay, "gradual_unfreezing", "l2")
        result["trainer"][replay] = [losses, told(model)]
        result["hits"]["trainer"] = record["hits"]
    if dist.get_rank() == 0:
        (folder / "result.json").write_text(json.dumps(result))
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
