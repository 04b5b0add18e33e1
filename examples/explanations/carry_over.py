"""Whether good settings carry over from task to task, and whether the gap between domains matters.

python examples/explanations/carry_over.py --first questions/train.csv --second sarcasm/train.csv
"""

from __future__ import annotations

import csv
import math
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Experiment, against, drawing, interval, table, told
from matplotlib.figure import Figure
from scipy import stats

import finetricks as ft

TRICKS: dict[str, list[Any]] = {
    "full": [],
    "discriminative_lr": [{"discriminative_lr": {"decay": 1.3}}],
    "gradual_unfreezing": [{"gradual_unfreezing": {"over": "run"}}],
    "feature_based": ["feature_based"],
}
RATES = (5e-5, 3e-4, 2e-3)
SHARES = (0.0, 0.3, 0.6, 1.0)
"""Of the vocabulary that stands in cipher: how far the texts are from what the model was pretrained on."""
METHODS: dict[str, tuple[list[Any], float]] = {"frozen": (["feature_based"], 2e-3), "fine-tuned": ([], 3e-4)}


# ----------------------------------------------------------------------------------------------------
# Tasks
# ----------------------------------------------------------------------------------------------------


def ciphered(text: str, share: float) -> str:
    """The text with a share of all words replaced, each always by the same: its letters moved along the alphabet."""

    def word(found: re.Match[str]) -> str:
        plain = found[0].lower()
        if random.Random(plain).random() >= share:
            return plain
        return "".join(chr((ord(letter) - 97 + 7) % 26 + 97) for letter in plain)

    return re.sub("[A-Za-z]+", word, text)


def gap(texts: list[str], others: list[str]) -> float:
    """Jensen-Shannon divergence of the distributions of words, in bits: 0 for equal ones, 1 for no common word."""
    one, other = (Counter(word for text in of for word in re.findall("[a-z]+", text.lower())) for of in (texts, others))
    p, q = (np.array([counts[word] for word in one | other], dtype=float) for counts in (one, other))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def divergence(of: np.ndarray) -> float:
        there = of > 0
        return float((of[there] * np.log2(of[there] / middle[there])).sum())

    return (divergence(p) + divergence(q)) / 2


@contextmanager
def written(rows: list[dict[str, str]]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        yield str(path)


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return [{"text": row["text"], "label": row["label"]} for row in csv.DictReader(file)]


# ----------------------------------------------------------------------------------------------------
# Runs
# ----------------------------------------------------------------------------------------------------


def data_of(path: str, rows: int, valid: int) -> dict[str, Any]:
    return {"train": path, "rows": rows, "valid": valid / len(rows_of(path))}


def accuracy(task: ft.Task, data: dict[str, Any], setting: tuple[list[Any], float], *, seed: int, epochs: int) -> float:
    tricks, rate = setting
    training = {
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": rate,
        "max_length": task.max_length,
        "checkpoint": "off",
        "evaluate": 10**6,
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    recipe = ft.Recipe(model="minilm", data=data, training=training, tricks=[*tricks, "linear_decay"])
    with tempfile.TemporaryDirectory() as folder:
        return ft.run(recipe, folder, task=task, save_model=False, overwrite=True).valid["accuracy"]


def loaded(data: dict[str, Any], max_length: int) -> ft.Task:
    recipe = ft.Recipe(data=data)
    assert recipe.data is not None
    return ft.load_task("minilm", recipe.data, max_length=max_length)


def measure(
    first: str, second: str, *, seeds: int = 2, rows: int = 200, valid: int = 200, epochs: int = 2, max_length: int = 24
) -> dict[str, Any]:
    settings = {f"{name}, {rate:g}": (tricks, rate) for name, tricks in TRICKS.items() for rate in RATES}
    scores: dict[str, dict[str, list[float]]] = {}
    for name, path in (("first", first), ("second", second)):
        data = data_of(path, rows, valid)
        task = loaded(data, max_length)
        scores[name] = {
            of: [accuracy(task, data, setting, seed=seed, epochs=epochs) for seed in range(seeds)]
            for of, setting in settings.items()
        }
    plain = rows_of(first)
    gaps: dict[float, dict[str, Any]] = {}
    for share in SHARES:
        moved = [{**row, "text": ciphered(row["text"], share)} for row in plain]
        with written(moved) as path:
            data = data_of(path, rows, valid)
            task = loaded(data, 2 * max_length)  # words that the tokenizer does not know are longer
            gaps[share] = {
                "gap": gap([row["text"] for row in plain], [row["text"] for row in moved]),
                **{
                    name: [accuracy(task, data, setting, seed=seed, epochs=epochs) for seed in range(seeds + 1)]
                    for name, setting in METHODS.items()
                },
            }
    words = gap(*([row["text"] for row in rows_of(path)] for path in (first, second)))
    return {"scores": scores, "gaps": gaps, "between": words}


def correlation(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Spearman's, with the 95 % interval of Fisher's transformation (Bonett & Wright 2000)."""
    rho = float(stats.spearmanr(one, other).statistic)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    z = math.atanh(max(min(rho, 0.999999), -0.999999))
    return rho, math.tanh(z - half), math.tanh(z + half)


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {setting: sum(values) / len(values) for setting, values in scores.items()}


def shown(found: dict[str, Any]) -> str:
    one, other = (means(found["scores"][name]) for name in ("first", "second"))
    rank = {name: sorted(of, key=lambda s: -of[s]) for name, of in (("first", one), ("second", other))}
    rows = [
        [s, f"{one[s]:.3f}", str(rank["first"].index(s) + 1), f"{other[s]:.3f}", str(rank["second"].index(s) + 1)]
        for s in one
    ]
    rho, low, high = correlation(list(one.values()), list(other.values()))
    best = rank["first"][0]
    to_best, to_mean = other[best] - max(other.values()), other[best] - sum(other.values()) / len(other)
    told_best = (
        f"The best of the first is `{best}`; on the second it is {to_best:+.3f} from the best there, "
        f"`{rank['second'][0]}`, and {to_mean:+.3f} from the mean of all settings."
    )
    head = ["setting", "first task", "rank", "second task", "rank"]
    gaps = table(
        ["words in cipher", "gap (bits)", "frozen", "fine-tuned", "fine-tuned - frozen"],
        [
            [
                f"{share:.0%}",
                f"{of['gap']:.2f}",
                told(of["frozen"]),
                told(of["fine-tuned"]),
                against(of["fine-tuned"], of["frozen"]),
            ]
            for share, of in found["gaps"].items()
        ],
    )
    both = f"The gap between the two tasks' words is {found['between']:.2f} bits."
    order = f"Rank correlation over the {len(one)} settings: {rho:+.2f} ({low:+.2f} to {high:+.2f})."
    return f"{table(head, rows)}\n\n{order} {told_best} {both}\n\n{gaps}"


def drawn(found: dict[str, Any]) -> Figure:
    one, other = (means(found["scores"][name]) for name in ("first", "second"))
    with drawing(2, height=2.9, width=3.4) as (figure, (left, right)):
        for number, trick in enumerate(TRICKS):
            places = [setting for setting in one if setting.startswith(f"{trick},")]
            left.plot(
                [one[s] for s in places],
                [other[s] for s in places],
                "o-",
                color=f"C{number}",
                linewidth=0.6,
                label=trick,
            )
        left.set(xlabel="accuracy on the first task", ylabel="on the second")
        left.legend(fontsize=7)
        gaps = [of["gap"] for of in found["gaps"].values()]
        for name in METHODS:
            bounds = [interval(of[name]) for of in found["gaps"].values()]
            mean = [of[0] for of in bounds]
            right.errorbar(
                gaps, mean, [of[0] - of[1] for of in bounds], marker="o", markersize=3, capsize=2, label=name
            )
        right.set(xlabel="gap to the plain text (bits)", ylabel="accuracy", ylim=(0, 1))
        right.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("carry_over", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main(first="questions/train.csv", second="sarcasm/train.csv")
