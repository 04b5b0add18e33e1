"""Why decaying the learning rate is no cure for overfitting, and why regularisation comes after tuning.

python examples/explanations/overfitting.py
"""

from __future__ import annotations

from typing import Any

import torch
from common import Experiment, Split, against, digits, drawing, fit, mlp, score, table, told
from matplotlib.figure import Figure
from torch import nn

ROWS, NOISE = 300, 0.3
SHORT = "constant rate, 10 epochs"
"""As much in sum as a rate that falls to 0.9 of itself each epoch: 1 / (1 - 0.9)."""
CURES: dict[str, list[Any]] = {
    "constant rate": [],
    SHORT: [],
    "linear_decay": ["linear_decay"],
    "exponential_decay, 0.9 an epoch": [{"exponential_decay": {"gamma": 0.9}}],
    "exponential_decay, 0.5 an epoch": [{"exponential_decay": {"gamma": 0.5}}],
    "early_stopping": [{"early_stopping": {"patience": 5}}],
    "l2": [{"l2": {"strength": 0.01}}],
    "l1": [{"l1": {"strength": 1e-3}}],
    "dropout 0.5": [{"dropout": {"p": 0.5}}],
    "dropout 0.5, early_stopping": [{"dropout": {"p": 0.5}}, {"early_stopping": {"patience": 5}}],
}
IN_PICTURE = ("constant rate", "linear_decay", "exponential_decay, 0.9 an epoch", "l2", "dropout 0.5")
REGULARISERS = ("l2", "l1", "dropout 0.5")
RATE = 0.01
UNDERFIT = {"learning_rate": 1e-4, "epochs": 5}


def data(seed: int) -> tuple[Split, Split, Split]:
    """Few rows whose labels are wrong in part; the slice of them that early stopping decides on; clean valid."""
    train, valid = digits(seed)
    train = train.first(ROWS)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 10, train.y.shape, generator=generator)
    wrong = torch.rand(ROWS, generator=generator) < NOISE
    train = Split(train.x, torch.where(wrong, drawn, train.y))
    return train, Split(train.x[: ROWS // 5], train.y[: ROWS // 5]), valid


def course(tricks: list[Any], seed: int, **training: Any) -> dict[str, Any]:
    train, held, valid = data(seed)
    stops = any("early_stopping" in trick for trick in tricks)
    used = Split(train.x[ROWS // 5 :], train.y[ROWS // 5 :]) if stops else train
    seen: list[dict[str, float]] = []

    def see(model: nn.Module, epoch: int) -> dict[str, float] | None:
        seen.append(score(model, valid))
        return score(model, held) if stops and epoch else None

    net = mlp([64, 128, 10], nn.ReLU, seed, dropout=0.0)
    model = fit(net, used, tricks, seed=seed, each_epoch=see, batch_size=32, **training)
    end = score(model, valid)
    return {
        "train": score(model, used)["accuracy"],
        "accuracy": end["accuracy"],
        "loss": end["loss"],
        "losses": [one["loss"] for one in seen],
        "epochs": len(seen) - 1,
    }


def measure(seeds: int = 5, epochs: int = 60) -> dict[str, Any]:
    cures = {
        name: [
            course(tricks, seed, learning_rate=RATE, epochs=min(10, epochs) if name == SHORT else epochs)
            for seed in range(seeds)
        ]
        for name, tricks in CURES.items()
    }
    compared = ("constant rate", *REGULARISERS)
    underfit = {name: [course(CURES[name], seed, **UNDERFIT) for seed in range(seeds)] for name in compared}
    return {
        "cures": cures,
        "baselines": {
            "underfits: rate 1e-4, 5 epochs": underfit,
            f"tuned: rate {RATE:g}, {epochs} epochs": {name: cures[name] for name in compared},
        },
    }


def shown(found: dict[str, Any]) -> str:
    def of(runs: list[dict[str, Any]], what: str) -> list[float]:
        return [run[what] for run in runs]

    plain = found["cures"]["constant rate"]
    first = table(
        ["", "on its noisy train", "on clean valid", "against the constant rate", "loss on valid", "lowest on the way"],
        [
            [
                name,
                told(of(runs, "train"), 2),
                told(of(runs, "accuracy")),
                against(of(runs, "accuracy"), of(plain, "accuracy")) if runs is not plain else "",
                told(of(runs, "loss"), 2),
                told([min(run["losses"]) for run in runs], 2),
            ]
            for name, runs in found["cures"].items()
        ],
    )
    second = table(
        ["baseline", "on train", "on valid", *(f"{name}, against it" for name in REGULARISERS)],
        [
            [
                baseline,
                told(of(runs["constant rate"], "train"), 2),
                told(of(runs["constant rate"], "accuracy")),
                *(against(of(runs[name], "accuracy"), of(runs["constant rate"], "accuracy")) for name in REGULARISERS),
            ]
            for baseline, runs in found["baselines"].items()
        ],
    )
    return f"{first}\n\n{second}"


def drawn(found: dict[str, Any]) -> Figure:
    with drawing(1, width=5.4, height=3) as (figure, (axes,)):
        for name in IN_PICTURE:
            mean = torch.tensor([run["losses"] for run in found["cures"][name]]).mean(0)
            axes.plot(range(len(mean)), mean, label=name)
        stopped = found["cures"]["early_stopping"]
        epoch = sum(run["epochs"] for run in stopped) / len(stopped)
        axes.plot(
            epoch, sum(run["loss"] for run in stopped) / len(stopped), "k*", label="early_stopping, where it ends"
        )
        axes.set(xlabel="epoch", ylabel="loss on clean valid", ylim=(0, None))
        axes.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("overfitting", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
