"""Why tanh converges faster than sigmoid: its values are centred at zero, and its slope is four times as steep.

python examples/explanations/tanh_sigmoid.py
"""

from __future__ import annotations

from typing import Any

import torch
from common import Experiment, Net, digits, drawing, fit, score, table, told
from matplotlib.figure import Figure
from torch import Tensor, nn


class Centred(nn.Module):
    """The sigmoid, moved down: centred, with the sigmoid's slope."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() - 0.5


class Steep(nn.Module):
    """The sigmoid of 2x, times 2: tanh's slope, not centred (tanh(x) + 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * (2 * x).sigmoid()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "sigmoid - 1/2 (centred)": Centred,
    "tanh + 1 (steep)": Steep,
    "tanh (both)": nn.Tanh,
}
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
SPARE = (100, 101)
"""Seeds that only choose the rate."""
DEPTHS = (1, 3)
WANTED = 0.9


def net(activation: str, depth: int, seed: int) -> Net:
    """Glorot's weights, no biases to begin with: equal for all activations."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(64 if number == 0 else 32, 32), ACTIVATIONS[activation]()]
    model = Net(*layers, nn.Linear(32, 10))
    for layer in model.body:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def course(activation: str, depth: int, rate: float, seed: int, epochs: int) -> list[float]:
    """The loss on train before the first and after each epoch, with plain SGD."""
    train, _ = digits(seed)
    seen: list[float] = []
    fit(
        net(activation, depth, seed),
        train,
        seed=seed,
        epochs=epochs,
        learning_rate=rate,
        optimizer="sgd",
        each_epoch=lambda model, epoch: seen.append(score(model, train)["loss"]),
    )
    return seen


def first_gradient(activation: str, depth: int, seed: int) -> float:
    """Norm of the gradient of the lowest layer's weights before the first step."""
    train, _ = digits(seed)
    model = net(activation, depth, seed)
    model(train.x, train.y)["loss"].backward()
    return float(model.body[0].weight.grad.norm())


def measure(seeds: int = 5, epochs: int = 15) -> dict[str, Any]:
    found: dict[str, Any] = {"courses": {}, "rates": {}, "gradients": {}}
    for depth in DEPTHS:
        for name in ACTIVATIONS:
            rate = min(RATES, key=lambda rate: sum(course(name, depth, rate, seed, epochs)[-1] for seed in SPARE))
            found["rates"][depth, name] = rate
            found["courses"][depth, name] = [course(name, depth, rate, seed, epochs) for seed in range(seeds)]
            found["gradients"][depth, name] = [first_gradient(name, depth, seed) for seed in range(seeds)]
    return found


def shown(found: dict[str, Any]) -> str:
    rows = [
        [
            str(depth),
            name,
            f"{found['rates'][depth, name]:g}",
            told([one[3] for one in found["courses"][depth, name]]),
            told([one[-1] for one in found["courses"][depth, name]]),
            told(found["gradients"][depth, name], 4),
        ]
        for depth in DEPTHS
        for name in ACTIVATIONS
    ]
    return table(
        [
            "hidden layers",
            "activation",
            "best rate",
            "loss on train after 3 epochs",
            "at the end",
            "gradient of the lowest layer before the first step",
        ],
        rows,
    )


def drawn(found: dict[str, Any]) -> Figure:
    with drawing(1 + len(DEPTHS)) as (figure, axes):
        x = torch.linspace(-5, 5, 200)
        for name, kind in ACTIVATIONS.items():
            axes[0].plot(x, kind()(x), label=name)
            for place, depth in enumerate(DEPTHS, start=1):
                mean = torch.tensor(found["courses"][depth, name]).mean(0)
                axes[place].semilogy(range(len(mean)), mean)
        axes[0].set(title="activation")
        axes[0].legend(fontsize=7)
        for place, depth in enumerate(DEPTHS, start=1):
            axes[place].set(
                xlabel="epoch", title=f"loss on train, {depth} hidden {'layer' if depth == 1 else 'layers'}"
            )
    return figure


EXPERIMENT = Experiment("tanh_sigmoid", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
