"""Why unsupervised pretraining helped deep nets: where training stalls, where labels are few, and where neither.

python examples/explanations/pretraining.py
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from common import Experiment, Net, against, digits, drawing, fit, interval, score, table, told
from matplotlib.figure import Figure
from torch import nn

import finetricks as ft

DEPTHS = (1, 3)
NETS: dict[str, type[nn.Module]] = {"sigmoid, small weights": nn.Sigmoid, "ReLU, He's weights": nn.ReLU}
RATES = (0.1, 0.3)
LABELLED = (100, 1000)
SPARE = 100
"""A seed that only chooses the rate."""


def net(kind: str, depth: int, seed: int) -> Net:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), NETS[kind]()]
    model = Net(*layers, nn.Linear(64, 10))
    for layer in model.body:
        if isinstance(layer, nn.Linear):
            if kind.startswith("ReLU"):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            else:  # as was the custom before Glorot & Bengio 2010
                nn.init.uniform_(layer.weight, -(layer.in_features**-0.5), layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return model


@cache
def begun(kind: str, depth: int, pretrained: bool, seed: int, epochs: int) -> Net:
    """A net before it sees a label; pretrained on all of train, without labels."""
    model = net(kind, depth, seed)
    if pretrained:
        trick = {"greedy_pretraining": {"epochs": epochs, "learning_rate": 3e-3}}
        loader = digits(seed)[0].loader(64)
        ft.Recipe(tricks=[trick], layers=model.layers, training={"seed": seed}).bind(model, loader)
    return model


def finished(model: Net, rows: int, rate: float, seed: int, steps: int) -> tuple[float, float]:
    """Accuracy on train and valid after so many steps of SGD with momentum on `rows` labelled examples."""
    train, valid = digits(seed)
    train = train.first(rows)
    epochs = steps / -(-rows // 50)
    how: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "clip": 1.0, "batch_size": 50}
    model = fit(copy.deepcopy(model), train, seed=seed, epochs=epochs, learning_rate=rate, **how)
    return score(model, train)["accuracy"], score(model, valid)["accuracy"]


def measure(seeds: int = 5, epochs: int = 20, steps: int = 200, depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in NETS:
        for depth in depths:
            for rows in LABELLED:
                for pretrained in (False, True):
                    spare = begun(kind, depth, pretrained, SPARE, epochs)
                    rate = max(RATES, key=lambda rate: finished(spare, rows, rate, SPARE, steps)[0])
                    found[kind, depth, rows, pretrained] = [
                        finished(begun(kind, depth, pretrained, seed, epochs), rows, rate, seed, steps)
                        for seed in range(seeds)
                    ]
    return found


def shown(found: dict[str, Any]) -> str:
    rows = []
    for kind, depth, labelled, pretrained in found:
        if pretrained:
            continue
        plain, other = (found[kind, depth, labelled, which] for which in (False, True))
        trains = [told([one[0] for one in of], 2) for of in (plain, other)]
        valids = [[one[1] for one in of] for of in (plain, other)]
        rows.append(
            [kind, str(depth), str(labelled), *trains, *(told(of) for of in valids), against(valids[1], valids[0])]
        )
    head = ["net", "hidden layers", "labels", "train", "train, pretrained", "valid", "valid, pretrained", "difference"]
    return table(head, rows)


def drawn(found: dict[str, Any]) -> Figure:
    places = [(kind, depth) for kind in NETS for depth in sorted({depth for _, depth, _, _ in found})]
    names = [f"{kind.split(',')[0]}, {depth}" for kind, depth in places]
    with drawing(len(LABELLED)) as (figure, axes):
        for panel, rows in zip(axes, LABELLED, strict=True):
            for shift, pretrained in ((-0.2, False), (0.2, True)):
                bounds = [interval([one[1] for one in found[kind, depth, rows, pretrained]]) for kind, depth in places]
                means = [mean for mean, _, _ in bounds]
                panel.bar(
                    [number + shift for number in range(len(places))],
                    means,
                    0.36,
                    yerr=[mean - low for mean, low, _ in bounds],
                    error_kw={"linewidth": 0.8},
                    label="pretrained" if pretrained else "not pretrained",
                )
            panel.set(title=f"{rows} labels", ylim=(0, 1.2), xticks=range(len(places)))
            panel.set_xticklabels(names, fontsize=7)
        axes[0].set_ylabel("accuracy on valid")
        axes[-1].legend(fontsize=7, loc="upper center", ncols=2)
    return figure


EXPERIMENT = Experiment("pretraining", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
