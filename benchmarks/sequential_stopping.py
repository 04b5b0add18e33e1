"""Simulated studies of ten tricks with known effects: what each way of spending cells finds, and claims falsely.

The designs, strategies and statistics are finetricks' own; only the cells' metrics are made up:

    metric = 0.5 + sum of effect_i (on_i - 1/2) + sum of interaction_ij (on_i - 1/2) (on_j - 1/2) + seed + noise

so that `effect_i` is the effect averaged over the other tricks on and off, whatever the interactions. An ablation
estimates another one, the effect added to the baseline: effect_i - sum_j interaction_ij / 2. Each design is judged by
its own. A verdict is false when its row's true effect is not of its sign.

    python benchmarks/sequential_stopping.py --studies 1000 --out results.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from finetricks_tuning.contrasts import Levels
from finetricks_tuning.effects import HELPS, HURTS, level_effects
from finetricks_tuning.strategies.base import Results
from finetricks_tuning.study import Study

TRICKS = (
    "weight_decay",
    "label_smoothing",
    "l1",
    "l2",
    "output_dropout",
    "concat_pooling",
    "stlr",
    "discriminative_lr",
    "gradual_unfreezing",
    "l2_sp",
)
NOISE, BLOCKS = 0.01, 0.03  # standard deviations: of a cell, and of what all cells of a seed share
ALPHA = 0.05
SIZES = {"weight_decay": 0.5, "label_smoothing": 1.0, "l1": 1.5}  # effects, in units of NOISE; the others have none
PAIRS = (  # interactions, in units of NOISE
    ("l2", "output_dropout", 2.0),
    ("concat_pooling", "stlr", -2.0),
    ("discriminative_lr", "gradual_unfreezing", 2.0),
    ("l2_sp", "l2", -2.0),
    ("stlr", "l2_sp", 2.0),
)
WORLDS = ("nothing", "effects", "interactions", "effects and interactions")
WAYS = {
    "ablation, 20 seeds": ("ablation", "full", 20),
    "ablation, up to 20 seeds, sequential": ("ablation", "sequential", 20),
    "Plackett-Burman, 4 seeds": ("plackett_burman", "full", 4),
    "Plackett-Burman, up to 4 seeds, sequential": ("plackett_burman", "sequential", 4),
    "Plackett-Burman folded over, 2 seeds": ({"plackett_burman": {"fold_over": True}}, "full", 2),
    "Plackett-Burman folded over, up to 3 seeds, sequential": (
        {"plackett_burman": {"fold_over": True}},
        "sequential",
        3,
    ),
}


@dataclass(frozen=True)
class Outcome:
    """Of one study: which of the real effects it found, whether any verdict was false, and what it cost."""

    found: dict[str, bool]
    false: bool
    cells: int


@dataclass(frozen=True)
class Line:
    """Of many studies.

    Attributes:
        power: the share that found an effect, by its size in units of the noise; only of effects that the design's own
            estimand has.
        false: the share with any false verdict, and its interval (Clopper and Pearson, 95 %).
    """

    world: str
    way: str
    studies: int
    cells: float
    power: dict[str, float]
    false: float
    false_interval: tuple[float, float]


def mean_of(levels: Mapping[str, str], world: str) -> float:
    """The true mean of a configuration."""
    on = {trick: 0.5 if levels[trick] != "off" else -0.5 for trick in TRICKS}
    effects = SIZES if "effects" in world else {}
    pairs = PAIRS if "interactions" in world else ()
    linear = sum(size * on[trick] for trick, size in effects.items())
    return 0.5 + NOISE * (linear + sum(size * on[one] * on[other] for one, other, size in pairs))


def true_effect(trick: str, world: str, design: str) -> float:
    """Of a row, in units of NOISE: averaged over the others, or added to the baseline."""
    averaged = SIZES.get(trick, 0.0) if "effects" in world else 0.0
    if design != "ablation" or "interactions" not in world:
        return averaged
    return averaged - sum(size / 2 for one, other, size in PAIRS if trick in (one, other))


def simulate(seed: int, world: str, way: str) -> Outcome:
    """One study, run to its end by its own strategy."""
    study = study_of(way)
    generator = np.random.default_rng([seed, WORLDS.index(world)])
    levels: Mapping[str, Levels] = {c.name: c.levels for c in study.configurations}
    seeds = study.settings.seeds
    blocks = dict(zip(seeds, generator.normal(0, BLOCKS, len(seeds)), strict=True))
    noise = dict(zip(levels, generator.normal(0, NOISE, (len(levels), len(seeds))), strict=True))
    values: dict[tuple[str, int], float] = {}
    while True:
        results = Results(levels, values, {}, True, ALPHA, None, "holm", study.design.contrasts)
        following = study.strategy.next_round(results, seeds)
        if not following.cells:
            break
        values |= {(n, s): mean_of(levels[n], world) + blocks[s] + noise[n][s] for n, s in following.cells}
    signs = {HELPS: 1, HURTS: -1}
    verdicts = {row.name: signs.get(row.verdict, 0) for row in level_effects(study.strategy.contest(results, seeds))}
    truth = {trick: float(np.sign(true_effect(trick, world, study.design.name))) for trick in TRICKS}
    return Outcome(
        found={trick: verdicts[trick] == truth[trick] for trick in TRICKS if truth[trick]},
        false=any(verdicts[trick] and verdicts[trick] != truth[trick] for trick in TRICKS),
        cells=len(values),
    )


def study_of(way: str) -> Study:
    design, strategy, seeds = WAYS[way]
    recipe = {"model": "minilm", "data": {"train": "stdlib_docstrings"}}
    return Study(recipe=recipe, factors=TRICKS, design=design, strategy=strategy, seeds=seeds, alpha=ALPHA)


def line_of(world: str, way: str, outcomes: Sequence[Outcome]) -> Line:
    design = study_of(way).design.name
    by_size: dict[str, list[bool]] = {}
    for trick in outcomes[0].found:
        size = f"{abs(true_effect(trick, world, design)):g}"
        by_size.setdefault(size, []).extend(outcome.found[trick] for outcome in outcomes)
    false = sum(outcome.false for outcome in outcomes)
    interval = stats.binomtest(false, len(outcomes)).proportion_ci()
    return Line(
        world,
        way,
        len(outcomes),
        float(np.mean([outcome.cells for outcome in outcomes])),
        {size: float(np.mean(found)) for size, found in sorted(by_size.items(), key=lambda item: float(item[0]))},
        false / len(outcomes),
        (float(interval.low), float(interval.high)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="of each world and each way (1000)")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    options = parser.parse_args()
    lines = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for world in WORLDS:
            print(f"\n{world}\n{'':57}{'cells':>7}{'any false':>11}  {'(95 %)':15}power, by size of the effect")
            for way in WAYS:
                run = partial(simulate, world=world, way=way)
                line = line_of(world, way, pool.map(run, range(options.studies), chunksize=25))
                lines.append(line)
                power = ", ".join(f"{size}: {share:.2f}" for size, share in line.power.items())
                low, high = line.false_interval
                print(f"{way:57}{line.cells:7.1f}{line.false:11.3f}  ({low:.3f}-{high:.3f})  {power}", flush=True)
    if options.out:
        record = {"noise": NOISE, "blocks": BLOCKS, "alpha": ALPHA, "lines": [asdict(line) for line in lines]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
