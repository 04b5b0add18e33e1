"""A loop with Accelerate, and one of two processes that train by it; these are started by test_other_trainers.py."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

import tiny
from finetricks import Session
from finetricks.distributed import Ranks

RECIPE = tiny.recipe(tiny.Unfreeze(), tiny.Decay(), epochs=3, accumulation=4, optimizer="sgd", learning_rate=0.05)


def train(session: Session, accelerator: Accelerator) -> list[float]:
    """The loop of docs/how-to/own-loop.md; the loss of each micro-batch."""
    model = accelerator.prepare(session.model)
    model.train()
    losses = []
    for batch in session.batches():
        with contextlib.nullcontext() if session.completes_step else accelerator.no_sync(model):
            loss = session.loss(batch, model)
            losses.append(loss.item())
            session.backward(loss)
        session.step()
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    session = RECIPE.bind(tiny.bert(dropout=0.0), tiny.loader(), ranks=Ranks.current())
    losses = train(session, accelerator)
    weights = {name: value.double().sum().item() for name, value in session.model.state_dict().items()}
    path = Path(sys.argv[1]) / f"{accelerator.process_index}.json"
    path.write_text(json.dumps({"losses": losses, "weights": weights}))
    accelerator.end_training()
