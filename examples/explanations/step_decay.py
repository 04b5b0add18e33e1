"""`step_decay` of step 1 is `exponential_decay`: two plans, compared step by step.

python examples/explanations/step_decay.py
"""

from __future__ import annotations

from typing import Any

from common import Experiment, digits, drawing, mlp, table
from matplotlib.figure import Figure
from torch import nn

import finetricks as ft

SCHEDULES: dict[str, dict[str, Any]] = {
    "exponential_decay(gamma=0.5)": {"exponential_decay": {"gamma": 0.5}},
    "step_decay(step_size=1, gamma=0.5)": {"step_decay": {"step_size": 1, "gamma": 0.5}},
    "step_decay(step_size=2, gamma=0.25)": {"step_decay": {"step_size": 2, "gamma": 0.25}},
    "multistep_decay(milestones=[1, 2, 3, 4, 5], gamma=0.5)": {
        "multistep_decay": {"milestones": [1, 2, 3, 4, 5], "gamma": 0.5}
    },
}


def rates(trick: dict[str, Any], **more: Any) -> list[float]:
    """The learning rate of each step of six epochs, from the plan: nothing is trained."""
    model = mlp([64, 16, 10], nn.Tanh, 0)
    values = {name: {**given, **more} for name, given in trick.items()}
    recipe = ft.Recipe(tricks=[values], layers=model.layers, training={"epochs": 6, "learning_rate": 1.0})
    (line, *others) = recipe.bind(model, digits(0)[0].first(256).loader(32)).plan.to_dict()["learning_rate"].values()
    assert all(line == other for other in others)
    return list(line)


def measure() -> dict[str, Any]:
    by_epoch = {name: rates(trick) for name, trick in SCHEDULES.items()}
    gradual = {  # the same fall over an epoch, a little after every step
        "exponential_decay(gamma=0.5^(1/8), by=step)": rates({"exponential_decay": {"gamma": 0.5**0.125}}, by="step"),
        "step_decay(step_size=1, gamma=0.5^(1/8), by=step)": rates(
            {"step_decay": {"step_size": 1, "gamma": 0.5**0.125}}, by="step"
        ),
    }
    return by_epoch | gradual


def shown(found: dict[str, Any]) -> str:
    first = found["exponential_decay(gamma=0.5)"]
    rows = [
        [f"`{name}`", *(f"{line[epoch * 8]:.4g}" for epoch in range(6)), "yes" if line == first else "no"]
        for name, line in found.items()
    ]
    gradual = [line for name, line in found.items() if "by=step" in name]
    same = "equal" if gradual[0] == gradual[1] else "not equal"
    head = ["schedule", *(f"epoch {epoch}" for epoch in range(6)), "all 48 steps equal to the first row"]
    return f"{table(head, rows)}\n\nCounted in steps, the last two are {same}, at all 48 steps, bit for bit."


def drawn(found: dict[str, Any]) -> Figure:
    styles = {
        "exponential_decay(gamma=0.5)": ("C0", "-", 3.5),
        "step_decay(step_size=1, gamma=0.5)": ("C1", "--", 1.4),
        "step_decay(step_size=2, gamma=0.25)": ("C2", "-", 1.0),
        "exponential_decay(gamma=0.5^(1/8), by=step)": ("C3", "-", 1.0),
    }
    with drawing(1, width=5) as (figure, (axes,)):
        for name, line in found.items():
            if name not in styles:
                continue
            color, style, width = styles[name]
            axes.step(range(len(line)), line, style, color=color, linewidth=width, where="post", label=name)
        axes.set(xlabel="optimizer step (8 an epoch)", ylabel="factor on the rate")
        axes.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("step_decay", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
