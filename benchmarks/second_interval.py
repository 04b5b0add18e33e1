"""How often the two intervals of a report contain the true effect, when seeds and examples are both drawn.

    python benchmarks/second_interval.py --studies 2000

Two configurations are scored on the same validation examples over some seeds. Whether an answer is right is drawn from
a logistic model: a configuration's strength, the seed's luck, the example's difficulty, and how much the example suits
the configuration. The truth is the difference of the two accuracies over all seeds and examples (two million drawn).
"""

from __future__ import annotations

import argparse
import itertools
import math

import numpy as np
from scipy import special, stats

from finetricks_tuning.example_values import Values
from finetricks_tuning.on_data import Examples

STRENGTH = {"baseline": 1.5, "trick": 1.8}
LUCK, DIFFICULTY, SUITS = 0.15, 1.5, 0.8
"""Standard deviations, on the scale of the log odds."""
WEIGHTS = {"trick": 1.0, "baseline": -1.0}
LEVEL = 0.95


def chance(name: str, luck: Values | float, difficulty: Values, suits: Values) -> Values:
    odds: Values = special.expit(STRENGTH[name] + luck - difficulty + suits)
    return odds


def true_effect(generator: np.random.Generator, draws: int = 2_000_000) -> float:
    luck, difficulty, suits = (generator.normal(0, spread, draws) for spread in (LUCK, DIFFICULTY, SUITS))
    return float(np.mean(chance("trick", luck, difficulty, suits) - chance("baseline", luck, difficulty, suits)))


def study(generator: np.random.Generator, seeds: int, examples: int) -> list[tuple[float, float]]:
    """The interval over seeds, and that over seeds and examples, of one study."""
    difficulty = generator.normal(0, DIFFICULTY, examples)
    values: dict[tuple[str, int], Values] = {}
    for name in STRENGTH:
        suits = generator.normal(0, SUITS, examples)
        for seed in range(seeds):
            right = generator.random(examples) < chance(name, generator.normal(0, LUCK), difficulty, suits)
            values[name, seed] = right.astype(np.float64)
    differences = [float(np.mean(values["trick", s] - values["baseline", s])) for s in range(seeds)]
    center, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(seeds)
    both = Examples(values).with_data(WEIGHTS, error, seeds - 1) or (math.nan, math.nan)
    first, second = (stats.t.ppf((1 + LEVEL) / 2, freedom) * se for se, freedom in ((error, seeds - 1), both))
    return [(center - half, center + half) for half in (first, max(first, second))]  # as in a report: never narrower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="of each size (2000)")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    truth = true_effect(generator)
    print(f"true effect {truth:+.4f}; coverage of 95 % intervals, and their median width")
    print(f"{'seeds':>5}{'examples':>10}{'over seeds':>22}{'over seeds x examples':>25}")
    for seeds, examples in itertools.product((3, 5, 10), (50, 200, 1000)):
        bounds = np.array([study(generator, seeds, examples) for _ in range(options.studies)])
        held = ((bounds[..., 0] <= truth) & (truth <= bounds[..., 1])).mean(axis=0)
        width = np.median(bounds[..., 1] - bounds[..., 0], axis=0)
        cells = [f"{share:.3f} ({wide:.3f})" for share, wide in zip(held, width, strict=True)]
        print(f"{seeds:5}{examples:10}{cells[0]:>22}{cells[1]:>25}", flush=True)


if __name__ == "__main__":
    main()
