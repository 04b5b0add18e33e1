"""Every built-in trick in a Trainer in bf16, with gradient checkpointing and compiled: the losses of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithPadding, set_seed

import every
import machines
from every import CASES
from finetricks import TrickTrainer
from machines import SIX_STEPS
from modes import MODES
from test_trainer import losses_of

# These decide on a slice that the Trainer holds out of other rows: see their own tests.
DECIDING = {"early_stopping"}

IN_CI = {"auxiliary_lm", "chain_thaw", "hierarchical", "lstm_orthogonal", "multi_task", "two_stage"}


def cases() -> list[Any]:
    return [
        pytest.param(name, mode, marks=[] if name in IN_CI and mode != "compile" else [pytest.mark.nightly])
        for mode in sorted(set(MODES) - {"fp16"})  # refused on a CPU: see test_precision.py
        for name in sorted(set(CASES) - DECIDING)
    ]


@pytest.mark.parametrize(("name", "mode"), cases())
def test_the_trainer_gives_the_losses_of_the_loop(name: str, mode: str, tmp_path: Path) -> None:
    own = every.recipe(name, **SIX_STEPS, **MODES[mode])
    session = every.bound(own)
    in_loop = machines.watched(session).losses
    if mode == "compile":
        torch._dynamo.reset()
    set_seed(own.training.seed)
    task = every.task_for(name)
    args = own.training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True, logging_strategy="no")
    trainer = TrickTrainer(
        recipe=own,
        model=every.model_for(name),
        args=args,
        train_dataset=task.splits["train"],
        processing_class=task.tokenizer,
        data_collator=DataCollatorWithPadding(task.tokenizer),
    )
    in_trainer = losses_of(trainer)
    if mode == "compile":
        torch._dynamo.reset()
    if session.plan.trains(0):
        assert in_trainer == pytest.approx(in_loop, abs=1e-6)
    else:
        assert (in_loop, set(in_trainer)) == ([], {0.0})
