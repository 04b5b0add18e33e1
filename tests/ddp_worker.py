"""One of two processes that train a model together; started by test_ddp.py through torch.distributed.run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import default_data_collator

import plans
import tiny
from finetricks import CheckpointError, TrickTrainer

torch.set_num_threads(1)
plans.watch()


def spread(model: torch.nn.Module) -> float:
    """The largest difference between the ranks' weights."""
    worst = 0.0
    for value in model.state_dict().values():
        others = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(others, value.contiguous())
        worst = max(worst, (others[0] - others[1]).abs().max().item())
    return worst


def in_loop() -> dict[str, Any]:
    """The hand-written loop: each rank takes its half of each batch."""
    dist.init_process_group("gloo")
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.TwicePass(), epochs=4, optimizer="sgd", learning_rate=0.05)
    session = recipe.bind(tiny.bert(dropout=0.0), tiny.loader(drop_last=True))
    wrapped = DistributedDataParallel(session.model, find_unused_parameters=True)  # while everything is trainable
    losses, spreads = [], []
    for batch in session.batches():
        half = {name: value[dist.get_rank() :: 2] for name, value in batch.items()}
        loss = session.loss(half, wrapped)
        session.backward(loss)
        session.step()
        both = loss.detach().clone()
        dist.all_reduce(both)
        losses.append(both.item() / 2)
        spreads.append(spread(session.model))
    return {"losses": losses, "spread": max(spreads), "stages": len(session.plan.stages)}


def tear(folder: str, *names: str) -> None:
    dist.barrier()
    if dist.get_rank() == 0:
        for path in (path for name in names for path in Path(folder).glob(name)):
            os.truncate(path / "optimizer.pt", 100)
    dist.barrier()


def in_trainer(folder: str) -> dict[str, Any]:
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.TwicePass(), epochs=4, optimizer="sgd", learning_rate=0.05, batch_size=2)
    args = recipe.training_arguments(
        folder,
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=6,
        use_cpu=True,
        logging_steps=1,
        ddp_backend="gloo",
    )

    def new() -> TrickTrainer:
        return TrickTrainer(
            recipe=recipe,
            model=tiny.bert(dropout=0.0),
            args=args,
            train_dataset=tiny.rows(20),
            data_collator=default_data_collator,
        )

    trainer = new()
    trainer.train()
    tear(folder, "checkpoint-18", "checkpoint-20")
    resumed = new()
    resumed.train(resume_from_checkpoint=True)
    begun = resumed._checkpoint.name
    tear(folder, "checkpoint-*")
    try:
        refused = new().train(resume_from_checkpoint=True)
    except CheckpointError as error:
        refused = str(error)
    told: list[Any] = [None, None]
    dist.all_gather_object(told, refused)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "losses": losses,
        "spread": spread(trainer.model),
        "stages": len(trainer.session.plan.stages),
        "resumed": {"from": begun, "equal": tiny.equal(resumed.model, trainer.model), "refused": told},
        "find_unused": trainer.args.ddp_find_unused_parameters,
    }


if __name__ == "__main__":
    result = in_loop() if sys.argv[1] == "loop" else in_trainer(sys.argv[2])
    if dist.get_rank() == 0:
        Path(sys.argv[2], "result.json").write_text(json.dumps(result))
    dist.destroy_process_group()
