"""Whether the gap between domains decides between a frozen encoder and a fine-tuned one.

python examples/explanations/domain_gap.py --train questions/train.csv
"""

from __future__ import annotations

import csv
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Experiment, against, drawing, interval, table, told
from matplotlib.figure import Figure
from texts import accuracy, data_of, loaded, rows_of

SHARES = (0.0, 0.3, 0.6, 1.0)
"""Of the vocabulary that stands in cipher: how far the texts are from what the model was pretrained on."""
METHODS: dict[str, tuple[list[str], float, int]] = {
    "frozen": (["concat_pooling", "last_layer"], 1e-3, 7),
    "fine-tuned": (["full"], 3e-4, 1),
}
"""The tricks, the rate, and how many times the epochs: what is frozen is cheap, and slow to learn."""


def ciphered(text: str, share: float) -> str:
    """The text with a share of all words replaced, each always by the same: its letters moved along the alphabet."""

    def word(found: re.Match[str]) -> str:
        plain = found[0].lower()
        if random.Random(plain).random() >= share:
            return plain
        return "".join(chr((ord(letter) - 97 + 7) % 26 + 97) for letter in plain)

    return re.sub("[A-Za-z]+", word, text)


def gap(texts: Sequence[str], others: Sequence[str]) -> float:
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


def measure(
    train: str, *, seeds: int = 3, rows: int = 200, valid: int = 200, epochs: int = 3, max_length: int = 48
) -> dict[float, dict[str, Any]]:
    """By share, the gap and the accuracies. Words that the tokenizer does not know are long: so is `max_length`."""
    plain = rows_of(train)
    found: dict[float, dict[str, Any]] = {}
    for share in SHARES:
        moved = [{**row, "text": ciphered(row["text"], share)} for row in plain]
        with written(moved) as path:
            data = data_of(path, rows, valid)
            task = loaded(data, max_length)
            found[share] = {
                "gap": gap([row["text"] for row in plain], [row["text"] for row in moved]),
                **{
                    name: [
                        accuracy(task, data, tricks, learning_rate=rate, seed=seed, epochs=times * epochs)
                        for seed in range(seeds)
                    ]
                    for name, (tricks, rate, times) in METHODS.items()
                },
            }
    return found


def shown(found: dict[float, dict[str, Any]]) -> str:
    differences = [
        [tuned - frozen for tuned, frozen in zip(of["fine-tuned"], of["frozen"], strict=True)] for of in found.values()
    ]
    change = against(differences[-1], differences[0])
    rows = [
        [
            f"{share:.0%}",
            f"{of['gap']:.2f}",
            told(of["frozen"]),
            told(of["fine-tuned"]),
            against(of["fine-tuned"], of["frozen"]),
        ]
        for share, of in found.items()
    ]
    head = ["words in cipher", "gap (bits)", "frozen", "fine-tuned", "fine-tuned - frozen"]
    return f"{table(head, rows)}\n\nFrom no gap to the largest, the difference changes by {change}."


def drawn(found: dict[float, dict[str, Any]]) -> Figure:
    gaps = [of["gap"] for of in found.values()]
    with drawing(1, height=3, width=4.4) as (figure, (axes,)):
        for name in METHODS:
            bounds = [interval(of[name]) for of in found.values()]
            means = [mean for mean, _, _ in bounds]
            axes.errorbar(
                gaps, means, [mean - low for mean, low, _ in bounds], marker="o", markersize=3, capsize=2, label=name
            )
        axes.set(xlabel="gap to the plain text (bits)", ylabel="accuracy", ylim=(0, 1))
        axes.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("domain_gap", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main(train="questions/train.csv")
