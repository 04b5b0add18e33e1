"""The optimizer of a plan: every parameter from the first step, once, in a named group (rule 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from finetricks.plan import Plan
    from finetricks.settings import Training


def named_groups(plan: Plan, model: nn.Module) -> list[dict[str, Any]]:
    """The plan's groups as torch's optimizers take them, each with its `name` and base rate.

    Called before anything is frozen; frozen parameters are in the groups all the same.
    """
    parameters = dict(model.named_parameters())
    return [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.parameters],
            "lr": plan.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in plan.groups
    ]


def create_optimizer(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    """The optimizer that the training settings name; AdamW is fused, as the Trainer's is."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum)
    return torch.optim.AdamW(groups, betas=training.betas, eps=training.eps, fused=True)
