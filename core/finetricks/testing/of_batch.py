"""What a trick gives for a micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetricks.session import Session
from finetricks.testing.check import Wrong, check
from finetricks.testing.of_plan import FIRST
from finetricks.testing.subject import Subject, finite

ROWS = (1, 2, 4)
"""Examples of a micro-batch: an epoch's last may have a single one."""


@check("loss", after=FIRST)
def check_loss(subject: Subject) -> None:
    """Its loss is a finite scalar with a finite gradient, also for a batch of a single example."""
    for rows in ROWS:
        session = subject.bound()
        session.model.train()
        batch = {name: column[:rows] for name, column in next(session.batches()).items()}
        _look(session, session.loss(batch), f"for {rows} example{'s' * (rows > 1)} the loss")


@check("regularize", after=FIRST)
def check_penalty(subject: Subject) -> None:
    """Its penalty is a finite scalar with a finite gradient, also where weights are zero, as those of a new head."""
    for zero in (False, True):
        session = subject.bound()
        if zero:
            with torch.no_grad():
                for parameter in session.model.parameters():
                    parameter.zero_()
        session.enter(0)
        penalty = session.penalty()
        if penalty is not None:
            _look(session, penalty, f"{'with all weights at zero ' if zero else ''}the penalty")


def _look(session: Session, value: Tensor, what: str) -> None:
    if value.dim() or not finite(value):
        raise Wrong(f"{what} is {_shown(value)}; give a finite scalar")
    if not session.plan.trains(0):
        return
    if not value.requires_grad:
        raise Wrong(f"{what} depends on nothing that is trained; compute it from the outputs or from the weights")
    value.backward()
    for name, parameter in session.model.named_parameters():
        if parameter.grad is not None and not finite(parameter.grad):
            raise Wrong(f"{what} is {value.item():g}, but its gradient at {name!r} is not finite; keep clear of 0 / 0")


def _shown(value: Tensor) -> Any:
    return f"of shape {tuple(value.shape)}" if value.dim() else value.item()
