"""Where the time of one run goes, phase by phase: one run of the quickstart, in a new process and in a warm one.

    python benchmarks/profile_run.py
    python benchmarks/profile_run.py --markdown --threads 1 --rounds 3

Every phase is a function of the library that is timed where it is called; what it calls of another phase counts there,
so the phases add up to the whole. Each round is a process of its own that trains twice: what the first run has imported
and loaded, the second, as a warm worker's cells, finds there. The figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import builtins
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parents[1] / "examples" / "quickstart.yaml"

PHASES: dict[str, list[str]] = {
    "imports": [],
    "data: read and split": ["finetricks.tasks.task:read_examples"],
    "tokenizer": ["finetricks.tasks.task:load_tokenizer"],
    "tokenise": ["finetricks.tasks.task:tokenize", "finetricks.tasks.task:_fingerprint"],
    "model: load": ["finetricks.tasks.task:load_model", "finetricks.tasks.task:empty_model"],
    "tricks: data, build, init": [
        "finetricks.runner:splits_of",
        "finetricks.stack:Stack.build",
        "finetricks.stack:Stack.init",
    ],
    "find the layers": ["finetricks.session:find_layers", "finetricks.session:first_batch"],
    "plan, groups, optimizer": ["finetricks.session:compile_plan", "finetricks.session:create_optimizer"],
    "session: the rest": ["finetricks.session:Session.bind"],
    "training: batches": ["finetricks.tasks.encode:_collate", "finetricks.order:Order.epoch"],
    "training: forward, loss": ["finetricks.session:Session.loss"],
    "training: backward": ["finetricks.session:Session.backward"],
    "training: clip, optimizer, schedule": ["finetricks.session:Session.step"],
    "evaluation": ["finetricks.runner:score", "finetricks.runner:compute_metrics"],
    "checkpoints": ["finetricks.runner:_Run._save", "finetricks.checkpoint:Checkpoints.clear"],
    "write the model": ["finetricks.runner:write_model"],
    "write the rest": [
        "finetricks.runner:write_predictions",
        "finetricks.folder:RunFolder.begin",
        "finetricks.folder:RunFolder.check",
        "finetricks.folder:RunFolder.write_metrics",
        "finetricks.folder:RunFolder.write_result",
    ],
    "the rest": [],
}
"""What is timed: module, and the name by which the phase is called there."""


class Clock:
    """Charges each moment to the innermost phase that is open."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._open = ["the rest"]
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def taken(self) -> dict[str, float]:
        """The seconds since the last call."""
        self._charge()
        seconds, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return seconds

    def time(self, phase: str, place: str) -> None:
        """Charge the calls of what stands at `module:name` to a phase."""
        module, _, name = place.partition(":")
        *outer, last = name.split(".")
        owner: Any = functools.reduce(getattr, outer, import_module(module))
        given = vars(owner)[last]
        method = isinstance(given, classmethod)
        timed = self._timed(phase, given.__func__ if method else given)
        setattr(owner, last, classmethod(timed) if method else timed)

    def _timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.phase(phase):
                result = call(*arguments, **keywords)
            return (
                self._each(phase, result) if phase == "training: batches" and isinstance(result, Iterator) else result
            )

        return timed

    def _each(self, phase: str, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self.phase(phase):
                batch = next(batches, self)
            if batch is self:
                return
            yield batch

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Charge every import of a module that is not there yet, wherever it stands, to the imports."""
        given = builtins.__import__

        def importing(name: str, *arguments: Any, **keywords: Any) -> Any:
            with self.phase("imports"):
                return given(name, *arguments, **keywords)

        builtins.__import__ = importing
        try:
            yield
        finally:
            builtins.__import__ = given


def one_round(threads: int, tricks: list[str], rows: int | None) -> list[dict[str, float]]:
    """The phases of a first and of a second run in this process."""
    clock = Clock()
    with clock.imports(), tempfile.TemporaryDirectory() as folder:
        with clock.phase("imports"):
            from finetricks.recipe import Recipe
            from finetricks.yaml_file import load_yaml

            for phase, places in PHASES.items():
                for place in places:
                    clock.time(phase, place)
            from finetricks import runner

        recipe = load_yaml(RECIPE).data["recipe"]
        recipe["training"] |= {"threads": threads, "checkpoint": "epoch"}
        recipe["data"]["rows"] = rows or recipe["data"]["rows"]
        recipe["tricks"] += tricks
        taken = []
        for name in ("first", "second"):
            runner.run(Recipe(**recipe), Path(folder) / name)
            taken.append(clock.taken())
    return taken


def show(rounds: list[list[dict[str, float]]], markdown: bool) -> None:
    first, second = (
        {phase: statistics.median(taken[which][phase] for taken in rounds) for phase in PHASES} for which in (0, 1)
    )
    whole = [sum(first.values()), sum(second.values())]
    lines = [("phase", "first run, s", "share", "warm run, s", "share")]
    for phase in PHASES:
        lines.append((phase, f"{first[phase]:.3f}", f"{first[phase] / whole[0]:.1%}",
                      f"{second[phase]:.3f}", f"{second[phase] / whole[1]:.1%}"))  # fmt: skip
    lines.append(("all", f"{whole[0]:.3f}", "100.0%", f"{whole[1]:.3f}", "100.0%"))
    training = [sum(value for phase, value in run.items() if phase.startswith("training")) for run in (first, second)]
    if markdown:
        print("|" + " | ".join(lines[0]) + "|\n|---|---:|---:|---:|---:|")
        print("\n".join("| " + " | ".join(line) + " |" for line in lines[1:]))
    else:
        print("\n".join(f"{line[0]:38}" + "".join(f"{cell:>14}" for cell in line[1:]) for line in lines))
    print(f"\ntraining: {training[0] / whole[0]:.0%} of the first run, {training[1] / whole[1]:.0%} of a warm one; "
          f"medians of {len(rounds)} rounds")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch (1, as a cell of a study has on two cores)")
    parser.add_argument("--tricks", nargs="*", default=["discriminative_lr"], help="beside the quickstart's own")
    parser.add_argument("--rows", type=int, help="of train (the quickstart's 256)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round:
        print(json.dumps(one_round(options.threads, options.tricks, options.rows)))
        return
    command = [sys.executable, __file__, "--round", "--threads", str(options.threads), "--tricks", *options.tricks]
    command += ["--rows", str(options.rows)] if options.rows else []
    rounds = []
    for _ in range(options.rounds):
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rounds.append(json.loads(told.splitlines()[-1]))
    show(rounds, options.markdown)


if __name__ == "__main__":
    main()
