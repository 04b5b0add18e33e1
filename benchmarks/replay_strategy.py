"""What another strategy would have run of a study that ran every cell, and what it would have decided.

    python benchmarks/replay_strategy.py runs/trec6 --strategy sequential --equivalence 0.02

A cell's result does not depend on when it runs: each round is decided from the results that the study recorded. The
confirmation of what is recommended is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.prepare import prepare
from finetricks_tuning.rounds import Rounds
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished study, strategy: full")
    parser.add_argument("--strategy", default="sequential")
    parser.add_argument("--equivalence", type=float, help="half the region of practical equivalence, in the metric")
    options = parser.parse_args()
    recorded, _ = Ledger(options.folder / LEDGER).read()
    by_place = {(trial.configuration, trial.seed): trial for trial in recorded.values()}
    own = [f"strategy={options.strategy}", "confirm=0"]
    if options.equivalence is not None:
        own.append(f"equivalence={options.equivalence}")
    study = Study.load(options.folder / "study.yaml", own)
    prepared = prepare(study)
    rounds = Rounds(study, prepared.make, greater_is_better=prepared.greater_is_better)
    known: dict[str, Trial] = {}
    told = 0
    while cells := rounds.next(known):
        known |= {cell.key: by_place[cell.configuration.name, cell.seed] for cell in cells}
        print(*rounds.decisions[told:], f"{len(cells)} cells, {len(known)} in all", sep="\n")
        told = len(rounds.decisions)
    print(*rounds.decisions[told:], sep="\n")
    compared = len(study.configurations) * len(study.settings.seeds)
    print(f"{len(known)} of {compared} cells, {sum(trial.seconds for trial in known.values()) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
