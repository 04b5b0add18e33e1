"""How ReLU collapses where the wanted output is near zero and ELU does not: a memory that should be released.

python examples/explanations/dead_relu.py
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from common import Experiment, Net, Split, drawing, fit, table, told
from matplotlib.figure import Figure
from torch import nn

from finetricks_plugins.build.activations import MAKE

LINEAR_BELOW = ("relu", "leaky_relu", "prelu", "rrelu")
CURVED_BELOW = ("elu", "selu", "celu", "gelu", "silu", "softplus")
TRIED = ("relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "softplus")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "learning_rate": 0.3},
    "AdamW": {"optimizer": "adamw", "learning_rate": 0.01},
}
CELLS, ROWS = 32, 512


def inputs_and_contents(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [rows, 8], and what the cells should hold, [rows, cells], not negative."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(ROWS, 8, generator=generator)
    return x, (x @ torch.randn(8, CELLS, generator=generator) / 8**0.5 + 1).clamp(min=0)


def course(activation: str, optimizer: str, seed: int, phases: tuple[int, int, int]) -> dict[str, Any]:
    """The cells h = activation(W x + b) are to hold the contents, then zero, then the contents again.

    Gives, after each phase, the error as a share of the contents' variance, and the share of dead cells, which have one
    value for all inputs, and PReLU's slope; and the mean size of the cells by epoch.
    """
    x, contents = inputs_and_contents(seed)
    torch.manual_seed(seed)
    model = Net(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, CELLS), nn.ReLU())
    tricks: list[Any] = [] if activation == "relu" else [{"activation": {"to": activation}}]
    seen: dict[str, list[float]] = {"left": [], "dead": [], "size": [], "slope": []}

    @torch.no_grad()
    def size(model: nn.Module, epoch: int) -> None:
        if epoch:
            seen["size"].append(model(x)["logits"].abs().mean().item())

    for phase, epochs in enumerate(phases):
        wanted = torch.zeros_like(contents) if phase == 1 else contents
        fit(
            model,
            Split(x, wanted),
            [*tricks, "mse"],
            seed=seed,
            epochs=epochs,
            each_epoch=size,
            **OPTIMIZERS[optimizer],
        )
        tricks = []  # the model has the new activation
        with torch.no_grad():
            cells = model(x)["logits"]
        seen["left"].append(((cells - wanted).square().mean() / contents.var()).item())
        seen["dead"].append((cells.std(0) < 1e-6).float().mean().item())
        seen["slope"] += [module.weight.item() for module in model.modules() if isinstance(module, nn.PReLU)]
    return seen


def measure(seeds: int = 5, phases: tuple[int, int, int] = (15, 15, 15)) -> dict[str, Any]:
    return {
        "phases": phases,
        "courses": {
            (activation, optimizer): [course(activation, optimizer, seed, phases) for seed in range(seeds)]
            for activation in TRIED
            for optimizer in OPTIMIZERS
        },
    }


def shown(found: dict[str, Any]) -> str:
    rows = []
    for (activation, optimizer), courses in found["courses"].items():
        first, _, again = ([one["left"][phase] for one in courses] for phase in range(3))
        dead = [one["dead"][1] for one in courses]
        after = [f"{value:.3f}" for value in (min(again), statistics.median(again), max(again))]
        rows.append([activation, optimizer, told(first), told(dead, 2), *after])
    head = ["activation", "optimizer", "error before", "dead cells after the release"]
    head += ["error after: best seed", "median", "worst seed"]
    slopes = [[one["slope"][phase] for one in found["courses"]["prelu", "AdamW"]] for phase in range(3)]
    learnt = ", ".join(told(of, sign=True) for of in slopes)
    return f"{table(head, rows)}\n\nThe slope that prelu has learnt after each phase, with AdamW: {learnt}."


def drawn(found: dict[str, Any]) -> Figure:
    x = torch.linspace(-4, 2, 300)
    with drawing(3) as (figure, axes):
        for place, names in ((axes[0], LINEAR_BELOW), (axes[1], CURVED_BELOW)):
            for name in names:
                with torch.no_grad():
                    place.plot(x, MAKE[name]().eval()(x), "--" if name in ("rrelu", "celu") else "-", label=name)
            place.set(ylim=(-2, 2))
            place.axhline(0, color="0.8", linewidth=0.6, zorder=0)
            place.legend(fontsize=7, loc="lower right")
        axes[0].set(title="linear below zero")
        axes[1].set(title="curved below zero")
        for name in ("relu", "leaky_relu", "elu", "gelu"):
            sizes = torch.tensor([one["size"] for one in found["courses"][name, "AdamW"]]).mean(0)
            axes[2].plot(range(1, len(sizes) + 1), sizes, label=name)
        held, released, _ = found["phases"]
        axes[2].axvspan(held, held + released, color="0.93")
        axes[2].set(title="cells, released in grey (AdamW)", xlabel="epoch", ylabel="mean size")
        axes[2].legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("dead_relu", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
