"""Cross-entropy or mean squared error for classes: the four usual arguments, one by one.

python examples/explanations/cross_entropy.py
"""

from __future__ import annotations

from typing import Any

import torch
from common import Experiment, Net, Split, against, digits, drawing, fit, mlp, score, table, told
from matplotlib.figure import Figure
from torch import Tensor, nn

LOSSES: dict[str, list[Any]] = {
    "cross-entropy": [],
    "MSE of probabilities": [{"mse": {"compare": "probabilities"}}],
    "MSE of scores": ["mse"],
}
RATES = (1e-3, 3e-3, 1e-2)
NOISE = 0.4
SATURATED = 40.0
"""Factor on the first scores of a net that is to begin certain and wrong."""


def net(seed: int) -> Net:
    return mlp([64, 64, 10], nn.ReLU, seed)


def saturated(seed: int) -> Net:
    model = net(seed)
    with torch.no_grad():
        model.body[-1].weight.mul_(SATURATED)
    return model


def noisy(split: Split, seed: int) -> Split:
    """A share of the labels drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 10, split.y.shape, generator=generator)
    changed = torch.rand(split.y.shape, generator=generator) < NOISE
    return Split(split.x, torch.where(changed, drawn, split.y))


def accuracy(loss: str, rate: float, seed: int, epochs: int, noise: bool = False) -> float:
    """On clean labels; with noise, from 400 rows that are seen five times as often: enough to learn them by heart."""
    train, valid = digits(seed)
    data = noisy(train.first(400), seed) if noise else train
    epochs = 5 * epochs if noise else epochs
    return score(fit(net(seed), data, LOSSES[loss], seed=seed, epochs=epochs, learning_rate=rate), valid)["accuracy"]


def best_rate(loss: str, epochs: int, noise: bool) -> float:
    """Chosen on two seeds that are not used again."""
    return max(RATES, key=lambda rate: sum(accuracy(loss, rate, seed, epochs, noise) for seed in (100, 101)))


def value(loss: str, scores: Tensor, wanted: Tensor) -> Tensor:
    """The loss summed over examples and classes, of scores [examples, classes] and one-hot labels."""
    if loss == "cross-entropy":
        return -(scores.log_softmax(-1) * wanted).sum()
    compared = scores.softmax(-1) if loss == "MSE of probabilities" else scores
    return (compared - wanted).square().sum()


def share_on_wrong_classes(loss: str, seed: int) -> float:
    """Of the gradient in the scores of an untrained net, in absolute values."""
    train, _ = digits(seed)
    wanted = nn.functional.one_hot(train.y, 10).float()
    scores = net(seed)(train.x)["logits"].detach().requires_grad_()
    value(loss, scores, wanted).backward()
    size = scores.grad.abs()
    return ((size * (1 - wanted)).sum() / size.sum()).item()


def largest_loss(loss: str) -> float:
    """The loss of one example whose wrong class is ahead by 100."""
    return value(loss, torch.tensor([[0.0, 100.0]]), torch.tensor([[1.0, 0.0]])).item()


def as_numbers(seed: int, epochs: int, one_hot: bool, order: list[int]) -> float:
    """Accuracy of MSE where class k stands for the number `order[k]`, which one output gives; or for its own output."""
    train, valid = digits(seed)
    place = torch.tensor(order)
    if one_hot:
        shuffled = [Split(split.x, place[split.y]) for split in (train, valid)]
        model = fit(net(seed), shuffled[0], ["mse"], seed=seed, epochs=epochs, learning_rate=3e-3)
        return score(model, shuffled[1])["accuracy"]
    values = Split(train.x, place[train.y].float())
    model = fit(mlp([64, 64, 1], nn.ReLU, seed), values, ["mse"], seed=seed, epochs=3 * epochs, learning_rate=1e-2)
    with torch.no_grad():
        nearest = model(valid.x)["logits"].squeeze(-1).round().clamp(0, 9).long()
    return (nearest == place[valid.y]).float().mean().item()


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "clip": 1.0},
    "adamw": {"optimizer": "adamw", "learning_rate": 3e-3},
}


def course(loss: str, optimizer: str, seed: int, epochs: int) -> list[float]:
    """Accuracy on train before the first and after each epoch, from a net that begins certain and wrong."""
    train, _ = digits(seed)
    seen: list[float] = []
    fit(
        saturated(seed),
        train,
        LOSSES[loss],
        seed=seed,
        epochs=epochs,
        **OPTIMIZERS[optimizer],
        each_epoch=lambda model, epoch: seen.append(score(model, train)["accuracy"]),
    )
    return seen


def slope(loss: str, margins: Tensor) -> Tensor:
    """The size of the gradient in the right one of two scores, which is ahead of the other by the margin."""
    ahead = margins.clone().requires_grad_()
    scores = torch.stack([ahead, torch.zeros_like(ahead)], -1)
    value(loss, scores, torch.tensor([1.0, 0.0])).backward()
    return ahead.grad.abs()


def measure(seeds: int = 5, epochs: int = 12) -> dict[str, Any]:
    plain, noise = (
        {loss: [accuracy(loss, rate, seed, epochs, noisy) for seed in range(seeds)] for loss, rate in rates.items()}
        for noisy, rates in (
            (noisy, {loss: best_rate(loss, epochs, noisy) for loss in LOSSES}) for noisy in (False, True)
        )
    )
    counted, mixed = list(range(10)), [3, 8, 0, 6, 1, 9, 4, 7, 2, 5]
    return {
        "share": {loss: [share_on_wrong_classes(loss, seed) for seed in range(seeds)] for loss in LOSSES},
        "largest": {loss: largest_loss(loss) for loss in LOSSES},
        "plain": plain,
        "noise": noise,
        "numbers": {
            name: [as_numbers(seed, epochs, one_hot, order) for seed in range(seeds)]
            for name, one_hot, order in (
                ("one-hot", True, counted),
                ("one-hot, classes renumbered", True, mixed),
                ("as a number", False, counted),
                ("as a number, classes renumbered", False, mixed),
            )
        },
        "courses": {
            (loss, optimizer): [course(loss, optimizer, seed, epochs) for seed in range(seeds)]
            for loss in LOSSES
            for optimizer in OPTIMIZERS
        },
    }


def shown(found: dict[str, Any]) -> str:
    plain, noise = found["plain"], found["noise"]
    ends = {place: [one[-1] for one in courses] for place, courses in found["courses"].items()}
    first = table(
        [
            "loss",
            "share of the gradient on wrong classes",
            "most that one example can cost",
            "accuracy",
            "noisy labels",
        ],
        [
            [
                loss,
                told(found["share"][loss], 2),
                "2" if found["largest"][loss] <= 2 else "no bound",
                told(plain[loss]),
                told(noise[loss]),
            ]
            for loss in LOSSES
        ],
    )
    second = table(
        ["against cross-entropy", "accuracy", "noisy labels"],
        [[loss, *(against(of[loss], of["cross-entropy"]) for of in (plain, noise))] for loss in list(LOSSES)[1:]],
    )
    third = table(
        ["begun certain and wrong: accuracy on train", "SGD", "AdamW"],
        [[loss, told(ends[loss, "sgd"]), told(ends[loss, "adamw"])] for loss in LOSSES],
    )
    fourth = table(["MSE where a class is", "accuracy"], [[k, told(v)] for k, v in found["numbers"].items()])
    return "\n\n".join((first, second, third, fourth))


def drawn(found: dict[str, Any]) -> Figure:
    margins = torch.linspace(-8, 4, 200)
    with drawing(2) as (figure, (left, right)):
        for loss in LOSSES:
            left.plot(margins, slope(loss, margins), label=loss)
            mean = torch.tensor(found["courses"][loss, "sgd"]).mean(0)
            right.plot(range(len(mean)), mean)
        left.set(xlabel="score of the right class, minus the other's", ylabel="size of its gradient", ylim=(0, 3))
        right.set(xlabel="epoch of SGD", title="begun certain and wrong", ylabel="accuracy on train", ylim=(0, 1))
        left.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("cross_entropy", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main()
