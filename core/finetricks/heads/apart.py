"""Which recipes cannot be trained together, told before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetricks.errors import FinetricksError

if TYPE_CHECKING:
    from finetricks.plan import Plan
    from finetricks.recipe import Recipe
    from finetricks.stack import Stack


class Apart(FinetricksError):
    """A run is not one of several that can be trained together; says why."""


def reason_of_settings(recipe: Recipe) -> str:
    """Why a recipe's settings and tricks keep it apart, before a model is loaded; empty where they do not."""
    training, stack = recipe.training, recipe.stack()
    reasons = {
        "training.streams is none: its dropout comes from the process's own random state": training.streams == "none",
        f"training.precision is {training.precision}": training.precision != "fp32",
        "training.compile is on": training.compile is not False,
        "training.gradient_checkpointing is on": training.gradient_checkpointing,
        f"training.replay keeps what the body gives in {training.replay_dtype}": (
            training.replay != "off" and training.replay_dtype != "fp32"
        ),
        "batches of one example": training.batch_size == 1,
    }
    if stack.deciders:
        reasons[f"{', '.join(stack.deciders)} decides while training"] = True
    elif watching := stack.implementing("after_backward"):
        reasons[f"{', '.join(watching)} sees the gradients of each step"] = True
    if not stack.implementing("freeze"):
        reasons["no trick freezes the body"] = True
    return next((reason for reason, holds in reasons.items() if holds), "")


def reason_of_plan(plan: Plan, stack: Stack) -> str:
    """Why a plan keeps a run apart: something below the head is trained; empty where nothing is."""
    if len(plan.stages) > 1:
        return "what is frozen changes in the course of the run"
    awake = [layer for layer in plan.layers if layer not in plan.stages[0].frozen]
    if awake == ["head"]:
        return ""
    if not awake:
        return "nothing is trained"
    names = ", ".join(stack.implementing("freeze"))
    return f"the body is trained: with {names} these layers are not frozen: {', '.join(awake)}"


def reason_apart(recipe: Recipe, plan: Plan) -> str:
    """Why `recipe`, of which `plan` is the plan, cannot be trained together with others; empty where it may be.

    What its head and its loss compute is looked at when it is run.
    """
    return reason_of_settings(recipe) or reason_of_plan(plan, recipe.stack())
