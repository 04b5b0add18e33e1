"""What dropout does to weights, that it averages networks, and how to choose p.

python examples/explanations/dropout_averages.py
"""

from __future__ import annotations

from typing import Any

import torch
from common import Experiment, Net, Split, against, digits, drawing, fit, mlp, score, table, told
from matplotlib.figure import Figure
from torch import nn

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MASKS = (1, 3, 10, 30, 100)
SIZES = (100, 1000)


def trained(p: float, rows: int, seed: int, epochs: int) -> tuple[Net, Split, Split]:
    train, valid = digits(seed)
    train = train.first(rows)
    model = mlp([64, 128, 128, 10], nn.ReLU, seed, dropout=0.0)
    steps = epochs * max(1, 1000 // rows)  # as many for any number of rows
    fit(model, train, [{"dropout": {"p": p}}], seed=seed, epochs=steps, learning_rate=3e-3)
    return model, train, valid


@torch.no_grad()
def averaged(model: Net, split: Split, masks: int, seed: int) -> float:
    """Accuracy of the mean of the probabilities of so many thinned networks."""
    torch.manual_seed(seed)
    model.train()
    mean = sum(model(split.x)["logits"].softmax(-1) for _ in range(masks)) / masks
    model.eval()
    return (mean.argmax(-1) == split.y).float().mean().item()


@torch.no_grad()
def weights(model: Net, split: Split) -> dict[str, float]:
    """Of the hidden units: the norm of what comes in, how alike two of them are, and how many are at work at once."""
    linear = [layer for layer in model.body if isinstance(layer, nn.Linear)]
    hidden = model.body[:2](split.x)
    alive = hidden[:, hidden.std(0) > 1e-6]
    likeness = torch.corrcoef(alive.T)
    others = ~torch.eye(len(likeness), dtype=torch.bool)
    return {
        "norm": linear[1].weight.norm(dim=1).mean().item(),
        "alike": likeness[others].abs().mean().item(),
        "active": (hidden > 0).float().mean().item(),
    }


def measure(seeds: int = 5, epochs: int = 15) -> dict[str, Any]:
    found: dict[str, Any] = {"valid": {}, "train": {}, "weights": {}, "masks": {}}
    for rows in SIZES:
        for p in RATES:
            nets = [trained(p, rows, seed, epochs) for seed in range(seeds)]
            found["valid"][rows, p] = [score(model, valid)["accuracy"] for model, _, valid in nets]
            found["train"][rows, p] = [score(model, train)["accuracy"] for model, train, _ in nets]
            found["weights"][rows, p] = [weights(model, valid) for model, _, valid in nets]
            if p == 0.5:
                found["masks"][rows] = {
                    masks: [averaged(model, valid, masks, seed) for seed, (model, _, valid) in enumerate(nets)]
                    for masks in MASKS
                }
    return found


def shown(found: dict[str, Any]) -> str:
    rows = []
    for (size, p), values in found["valid"].items():
        of = found["weights"][size, p]
        rows.append(
            [
                str(size),
                f"{p:g}",
                told(found["train"][size, p]),
                told(values),
                against(values, found["valid"][size, 0.0]) if p else "",
                *(f"{sum(one[name] for one in of) / len(of):.2f}" for name in ("norm", "alike", "active")),
            ]
        )
    first = table(
        ["rows", "p", "train", "valid", "against none", "norm of weights", "likeness of units", "active"], rows
    )
    second = table(
        [
            "at p = 0.5",
            *(f"{masks} masks" if masks > 1 else "1 mask" for masks in MASKS),
            "no mask (weights as they are)",
        ],
        [
            [f"{size} rows", *(f"{sum(of[m]) / len(of[m]):.3f}" for m in MASKS), f"{sum(whole) / len(whole):.3f}"]
            for size, of in found["masks"].items()
            for whole in [found["valid"][size, 0.5]]
        ],
    )
    return f"{first}\n\n{second}"


def drawn(found: dict[str, Any]) -> Figure:
    with drawing(2) as (figure, (left, right)):
        for color, size in zip(("C0", "C1"), SIZES, strict=True):
            for name, style in (("train", ":"), ("valid", "-")):
                means = [sum(found[name][size, p]) / len(found[name][size, p]) for p in RATES]
                left.plot(RATES, means, style, color=color, marker=".", label=f"{size} rows, {name}")
            of, whole = found["masks"][size], found["valid"][size, 0.5]
            right.semilogx(
                MASKS, [sum(of[m]) / len(of[m]) for m in MASKS], color=color, marker=".", label=f"{size} rows"
            )
            right.axhline(
                sum(whole) / len(whole), color=color, linestyle="--", linewidth=0.8, label=f"{size} rows, the whole net"
            )
        left.set(xlabel="p", ylabel="accuracy", ylim=(0.7, 1.01))
        right.set(xlabel="thinned nets averaged", ylabel="accuracy on valid", title="p = 0.5")
        left.legend(fontsize=7)
        right.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("dropout_averages", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
