"""Whether the settings that are good on one task are good on another.

python examples/explanations/carry_over.py --first questions/train.csv --second sarcasm/train.csv
"""

from __future__ import annotations

import math
from typing import Any

from common import Experiment, drawing, table
from matplotlib.figure import Figure
from scipy import stats
from texts import accuracy, data_of, loaded

TRICKS: dict[str, list[Any]] = {
    "full": [],
    "discriminative_lr": [{"discriminative_lr": {"decay": 1.3}}],
    "gradual_unfreezing": [{"gradual_unfreezing": {"over": "run"}}],
    "feature_based": ["feature_based"],
}
RATES = (5e-5, 3e-4, 2e-3)


def measure(
    first: str, second: str, *, seeds: int = 2, rows: int = 200, valid: int = 200, epochs: int = 2, max_length: int = 24
) -> dict[str, Any]:
    """By task and setting, the accuracy of each seed."""
    scores: dict[str, dict[str, list[float]]] = {}
    for name, path in (("first", first), ("second", second)):
        data = data_of(path, rows, valid)
        task = loaded(data, max_length)
        scores[name] = {
            f"{trick}, {rate:g}": [
                accuracy(task, data, tricks, learning_rate=rate, seed=seed, epochs=epochs) for seed in range(seeds)
            ]
            for trick, tricks in TRICKS.items()
            for rate in RATES
        }
    return scores


def correlation(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Spearman's, with the 95 % interval of Fisher's transformation (Bonett & Wright 2000)."""
    rho = float(stats.spearmanr(one, other).statistic)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    z = math.atanh(max(min(rho, 0.999999), -0.999999))
    return rho, math.tanh(z - half), math.tanh(z + half)


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {setting: sum(values) / len(values) for setting, values in scores.items()}


def shown(found: dict[str, Any]) -> str:
    one, other = (means(found[name]) for name in ("first", "second"))
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
    order = f"Rank correlation over the {len(one)} settings: {rho:+.2f} ({low:+.2f} to {high:+.2f})."
    return f"{table(head, rows)}\n\n{order} {told_best}"


def drawn(found: dict[str, Any]) -> Figure:
    one, other = (means(found[name]) for name in ("first", "second"))
    with drawing(1, height=3, width=4.4) as (figure, (axes,)):
        for trick in TRICKS:
            places = [setting for setting in one if setting.startswith(f"{trick},")]
            axes.plot([one[s] for s in places], [other[s] for s in places], "o-", linewidth=0.6, label=trick)
        axes.set(xlabel="accuracy on the first task", ylabel="on the second")
        axes.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment("carry_over", measure, shown, drawn)

if __name__ == "__main__":
    EXPERIMENT.main(first="questions/train.csv", second="sarcasm/train.csv")
