"""What replay of the frozen layers saves, beside what counting says that it can save.

    python benchmarks/replay.py --data ../shared/data --json replay.json --markdown replay.md

MiniLM on TREC-6 and SCv2 (folders with train.csv in --data). Everything that is compared runs in this process, in turn,
in each round anew; a ratio is taken within a round, and the table gives the median of the rounds, with the least and
the greatest. Runs that differ in replay alone must agree to the bit in weights, losses and predictions, or this fails.

The bound counts passes of blocks over tokens: forward 1, backward 2, stored 0, evaluation included; embeddings, head
and optimizer are not counted.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback
from transformers.utils.logging import disable_progress_bar

import finetricks
from finetricks import Recipe, Task
from finetricks.layer_pass import without
from finetricks.layer_spec import is_block
from finetricks.order import EpochSampler
from finetricks.plan import Plan
from finetricks.runner import about, plan_of, splits_of, task_of
from finetricks.tasks.encode import TOKENS

LENGTHS = {"trec6": 64, "scv2": 64}
"""Tokens at most: none of TREC-6 is cut, more than a quarter of SCv2 is."""
FORWARD, BACKWARD = 1, 2
HEAD_RECIPES = ("last_layer", "feature_based")
EPOCHS = 8


@dataclass(frozen=True)
class Run:
    """One run: seconds of each epoch with its evaluation, and a hash of all that must be equal."""

    seconds: tuple[float, ...]
    bits: str = ""
    replay: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.seconds)


@dataclass(frozen=True)
class Row:
    """A line of the table: a ratio in each round, the bound that was counted, and the aim."""

    data: str
    what: str
    against: str
    ratios: list[float]
    bound: float | None
    aim: float

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        return self.median >= self.aim

    def cells(self) -> list[str]:
        spread = f"{self.median:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        bound = "" if self.bound is None else f"{self.bound:.2f}"
        share = "" if self.bound is None else f"{self.median / self.bound:.2f}"
        aim = f"{self.aim:.2f}"
        return [self.data, self.what, self.against, bound, spread, share, aim, "yes" if self.is_met else "**no**"]


HEADINGS = ["data", "what", "against", "bound", "measured", "of the bound", "aim", "met"]


# -- data and recipes ------------------------------------------------------------------------------------


def write_rows(source: Path, folder: Path, train: int, valid: int) -> None:
    """Draw rows from a train.csv: `train` to train on, `valid` others to evaluate on; fewer where there are fewer."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    train = min(train, len(rows) - valid)
    folder.mkdir(parents=True)
    for name, part in (("train", rows[:train]), ("valid", rows[train : train + valid])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(part)


def recipe(rows: Path, tricks: Sequence[Any], **training: Any) -> Recipe:
    settings = {
        "batch_size": 32,
        "learning_rate": 2e-4,
        "max_length": LENGTHS[rows.parent.name],
        "checkpoint": "off",
        **training,
    }
    data = {"train": str(rows / "train.csv"), "valid": str(rows / "valid.csv")}
    return Recipe(model="minilm", data=data, training=settings, tricks=list(tricks))


# -- the bound -------------------------------------------------------------------------------------------


def padded(task: Task, training: Any) -> tuple[int, int]:
    """Tokens of the batches of an epoch, and of an evaluation, whose batches hold rows of like length."""
    train, valid = (
        [min(len(ids), task.max_length) for ids in task.splits[name]["input_ids"]] for name in ("train", "valid")
    )
    random.Random(0).shuffle(train)
    return _padded(train, training.batch_size), _padded(sorted(valid), training.eval_batch_size)


def _padded(lengths: Sequence[int], size: int) -> int:
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(max(batch) * len(batch) for batch in batches)


def passes(plan: Plan, evaluation: float, *, replays: bool) -> float:
    """Passes of blocks in a run, an epoch's tokens being the unit and an evaluation's `evaluation` of it.

    With replay the first epoch computes all of the frozen blocks, and so does the first evaluation; later ones begin
    above them. Layers only thaw.
    """
    blocks = [layer for layer in plan.layers if is_block(layer)]
    total = 0.0
    for epoch in range(plan.total_steps // plan.steps_per_epoch):
        frozen = plan.stage_at(epoch * plan.steps_per_epoch).frozen
        live = sum(block not in frozen for block in blocks)
        forward = live if replays and epoch else len(blocks)
        total += FORWARD * forward * (1 + evaluation) + BACKWARD * live
    return total


# -- running ---------------------------------------------------------------------------------------------


class Bench:
    """Runs recipes in folders of their own; `cache` holds the states that are kept on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.unequal: list[str] = []
        self.seconds: list[dict[str, Any]] = []

    def place(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}"

    def run(self, recipe: Recipe, task: Task, cache: Path | None = None) -> Run:
        out = self.place()
        os.environ["FINETRICKS_CACHE"] = str(cache or out.with_suffix(".cache"))
        result = finetricks.run(recipe, out, task=task)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        ends = [line["seconds"] for line in lines]
        digest = hashlib.sha256()
        for path in (*sorted((out / "model").glob("*.safetensors")), out / "predictions" / "valid.csv"):
            digest.update(path.read_bytes())
        digest.update(repr([(line["train_loss"], line["valid"]) for line in lines]).encode())
        shutil.rmtree(out)
        if cache is None:
            shutil.rmtree(out.with_suffix(".cache"), ignore_errors=True)
        seconds = tuple(end - start for start, end in zip([0.0, *ends], ends, strict=False))
        return Run(seconds, digest.hexdigest(), dict(result.replay))

    def note(self, name: str, what: str, number: int, runs: Mapping[Any, Run]) -> None:
        """Keep what a round measured, and say on stderr how far it is."""
        for arm, run in runs.items():
            named = arm if isinstance(arm, str) else ", ".join(arm)
            self.seconds.append(
                {
                    "data": name,
                    "what": what,
                    "round": number,
                    "arm": named,
                    "seconds": run.seconds,
                    "replay": run.replay,
                }
            )
            told = " ".join(f"{second:.2f}" for second in run.seconds[:EPOCHS])
            print(f"{name}, {what}, round {number}, {named}: {told} s", file=sys.stderr, flush=True)

    def same(self, what: str, *runs: Run) -> None:
        if len({run.bits for run in runs}) > 1:
            self.unequal.append(what)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when epochs begin, and when the evaluations after them end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


class _InOrder(Trainer):  # type: ignore[misc]
    """A plain Trainer that is given the rows in the order in which finetricks takes them."""

    order: EpochSampler

    def _get_train_sampler(self, *_: Any, **__: Any) -> EpochSampler:
        return self.order


def padding(recipe: Recipe, task: Task) -> DataCollatorWithPadding:
    """Pads batches as a run of the recipe does."""
    return DataCollatorWithPadding(task.tokenizer, pad_to_multiple_of=recipe.training.pad_to_multiple_of)


def plain_trainer(recipe: Recipe, task: Task, folder: Path) -> Run:
    """The same model, with the same parameters frozen, in transformers' Trainer."""
    stack, streams = recipe.stack(), recipe.streams
    splits, _ = splits_of(recipe, task, stack)
    model = stack.build(task.model(streams.init), streams.init, **about(recipe, task))
    plan = plan_of(recipe, task)
    frozen = {name for group in plan.groups if group.layer in plan.stages[0].frozen for name in group.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    valid = splits["valid"]
    by_length = sorted(range(len(valid)), key=lambda row: len(valid[row]["input_ids"]))
    clock = _Clock()
    trainer = _InOrder(
        model,
        recipe.training_arguments(folder, eval_strategy="epoch", disable_tqdm=True, logging_strategy="no"),
        train_dataset=splits["train"],
        eval_dataset=valid.select(by_length),
        data_collator=padding(recipe, task),
        callbacks=[clock],
    )
    trainer.order = EpochSampler(len(splits["train"]), streams.data)
    trainer.train()
    return Run(tuple(clock.seconds))


# -- what is measured ------------------------------------------------------------------------------------


@dataclass
class Sizes:
    rounds: int
    head_rows: int
    head_epochs: int
    stage_rows: int
    steps: int
    threads: int
    head_padding: int | None


def head_only(bench: Bench, name: str, rows: Path, sizes: Sizes) -> Iterator[Row]:
    """Epochs in which only the head trains, against the plain Trainer's."""
    for trick in HEAD_RECIPES:
        more = {} if sizes.head_padding is None else {"pad_to_multiple_of": sizes.head_padding}
        make = partial(recipe, rows, [trick], epochs=sizes.head_epochs, threads=sizes.threads, **more)
        task = task_of(make())
        found: dict[str, list[float]] = {"memory": [], "disk": [], "filled": [], "off": []}
        for number in range(sizes.rounds):
            runs = _head_round(bench, make, task, number)
            bench.same(f"{name} {trick}, round {number}", runs["off"], runs["memory"], runs["filled"])
            for arm in ("memory", "disk", "off"):
                found[arm].append(sum(runs["plain"].seconds[1:]) / sum(runs[arm].seconds[1:]))
            found["filled"].append(runs["plain"].seconds[0] / runs["filled"].seconds[0])
            bench.note(name, trick, number, runs)
        against = "plain Trainer"
        yield Row(name, f"{trick}, from the second epoch on, in memory", against, found["memory"], None, 40)
        yield Row(name, f"{trick}, from the second epoch on, on disk", against, found["disk"], None, 40)
        yield Row(name, f"{trick}, first epoch, filled", against, found["filled"], None, 40)
        yield Row(name, f"{trick}, replay off", against, found["off"], 1.0, 0.98)


def _head_round(bench: Bench, make: Callable[..., Recipe], task: Task, number: int) -> dict[str, Run]:
    """Each way once. The run that fills the disk has another seed than the one that finds it filled."""
    seed, cache = 2 * number, bench.place()
    arms: dict[str, Callable[[], Run]] = {
        "plain": lambda: plain_trainer(make(seed=seed), task, bench.place()),
        "off": lambda: bench.run(make(seed=seed, replay="off"), task),
        "memory": lambda: bench.run(make(seed=seed, replay="memory"), task),
        "disk": lambda: bench.run(make(seed=seed + 1, replay="disk"), task, cache),
    }
    runs = {arm: arms[arm]() for arm in in_turn(arms, number)}
    runs["filled"] = bench.run(make(seed=seed, replay="disk"), task, cache)
    shutil.rmtree(cache, ignore_errors=True)
    return runs


STAGED: dict[str, list[Any]] = {
    "gradual unfreezing": ["gradual_unfreezing"],
    "two stages": [{"two_stage": {"fraction": 0.5}}],
}


def staged(bench: Bench, name: str, rows: Path, sizes: Sizes) -> Iterator[Row]:
    """Runs of eight epochs that thaw on the way, against the same without replay, and plain fine-tuning."""
    make = partial(recipe, rows, epochs=EPOCHS, threads=sizes.threads)
    task = task_of(make([]))
    train, valid = padded(task, make([]).training)
    full = passes(plan_of(make([]), task), valid / train, replays=False)
    found: dict[tuple[str, str], list[float]] = {(what, arm): [] for what in STAGED for arm in ("off", "plain")}
    for number in range(sizes.rounds):
        arms: dict[Any, Callable[[], Run]] = {
            "plain": lambda number=number: bench.run(make([], seed=number, replay="off"), task)  # type: ignore[misc]
        }
        for what, tricks in STAGED.items():
            for replay in ("off", "auto"):
                made = make(tricks, seed=number, replay=replay)
                arms[what, replay] = partial(bench.run, made, task)
        runs = {arm: arms[arm]() for arm in in_turn(arms, number)}
        for what in STAGED:
            off, on = runs[what, "off"], runs[what, "auto"]
            bench.same(f"{name} {what}, seed {number}", off, on)
            found[what, "off"].append(off.total / on.total)
            found[what, "plain"].append(runs["plain"].total / on.total)
        bench.note(name, "stages", number, runs)
    for what, tricks in STAGED.items():
        plan = plan_of(make(tricks), task)
        without_it, with_it = (passes(plan, valid / train, replays=replays) for replays in (False, True))
        for arm, against, cost in (
            ("off", "the same, replay off", without_it),
            ("plain", "plain fine-tuning", full),
        ):
            bound = cost / with_it
            yield Row(name, f"{what}, {EPOCHS} epochs", against, found[what, arm], bound, 0.9 * bound)


WARM_UP = 2
"""Steps that are not counted."""
NEUTRAL: dict[str, list[Any]] = {
    "full fine-tuning": ["full"],
    "a masked LM beside a frozen prefix": [{"gradual_unfreezing": {"over": "run"}}, "auxiliary_lm"],
}


def neutral(bench: Bench, name: str, rows: Path, sizes: Sizes) -> Iterator[Row]:
    """Training steps where replay cannot act: two sessions side by side, a step of one, a step of the other."""
    for what, tricks in NEUTRAL.items():
        task = task_of(recipe(rows, tricks))
        medians = []
        for number in range(sizes.rounds):
            modes = ("off", "auto") if number % 2 == 0 else ("auto", "off")
            sessions = {mode: _session(recipe(rows, tricks, replay=mode), task) for mode in modes}
            seconds: dict[str, list[float]] = {mode: [] for mode in modes}
            losses: dict[str, list[float]] = {mode: [] for mode in modes}
            pairs = zip(*(sessions[mode].batches() for mode in modes), strict=True)
            for step, pair in enumerate(islice(pairs, sizes.steps + WARM_UP)):
                for mode, batch in list(zip(modes, pair, strict=True))[:: 1 if step % 2 else -1]:
                    started = time.perf_counter()
                    loss = sessions[mode].loss(batch)
                    sessions[mode].backward(loss)
                    sessions[mode].step()
                    seconds[mode].append(time.perf_counter() - started)
                    losses[mode].append(loss.item())
            if losses["off"] != losses["auto"]:
                bench.unequal.append(f"{name} {what}, round {number}")
            bench.note(name, what, number, {mode: Run(tuple(seconds[mode])) for mode in modes})
            timed = zip(seconds["off"][WARM_UP:], seconds["auto"][WARM_UP:], strict=True)
            medians.append(statistics.median(off / auto for off, auto in timed))
        yield Row(name, f"{what}, a step", "the same, replay off", medians, 1.0, 0.98)


def _session(made: Recipe, task: Task) -> Any:
    stack, streams = made.stack(), made.streams
    splits, added = splits_of(made, task, stack)
    context = about(made, task)
    model = stack.build(task.model(streams.init), streams.init, **context)
    columns = [name for name in (*TOKENS, "labels", *added) if name in splits["train"].column_names]
    batches = DataLoader(
        splits["train"].select_columns(columns),
        batch_size=made.training.batch_size,
        shuffle=True,
        collate_fn=padding(made, task),
    )
    session = made.bind(model, batches, forward=partial(without, added), epochs=1, build=False, context=context)
    session.model.train()
    return session


PARTS: dict[str, Callable[[Bench, str, Path, Sizes], Iterator[Row]]] = {
    "head": head_only,
    "stages": staged,
    "neutral": neutral,
}


# -- telling ---------------------------------------------------------------------------------------------


def in_turn(arms: dict[Any, Any], number: int) -> list[Any]:
    """The arms, in every second round in the opposite order: what drifts favours none."""
    return list(arms) if number % 2 == 0 else list(reversed(arms))


ABOUT = """\
What a layer gives for an example does not change while it and all layers below it are frozen: it is computed once and
kept (`training.replay`), and later passes begin above it. A figure is the time of what stands in the column "against",
over the time with replay; both train and evaluate after each epoch. The bound counts passes of blocks over tokens:
forward 1, backward 2, stored 0. Embeddings, head, optimizer and the making of batches are not counted, so there is no
bound where only the head trains. "Filled" is the first epoch of a run that finds on disk what a run with another seed
has left there. The plain Trainer is transformers' own, with the same parameters frozen, on the same batches in the same
order. Published, over plain fine-tuning: AutoFreeze with caching 1.7 to 2.8 (its README), Egeria 1.2 to 1.4 (EuroSys
2023)."""


def markdown(
    rows: Sequence[Row], sizes: Sizes, machine: dict[str, Any], unequal: Sequence[str], arguments: Sequence[str]
) -> str:
    """A section of docs/benchmarks.md; `arguments` are those of the command line."""
    command = "python benchmarks/replay.py " + " ".join(arguments)
    padded = f" padded to multiples of {sizes.head_padding} tokens," if sizes.head_padding else ""
    bits = f"**not equal**: {'; '.join(unequal)}" if unequal else "equal to the bit"
    measured = (
        f"MiniLM, batches of 32, {sizes.threads} threads, {machine['device']}, torch {machine['torch']}; median of "
        f"{sizes.rounds} rounds (least to greatest). Head only: at most {sizes.head_rows} rows,{padded} "
        f"{sizes.head_epochs} epochs. In stages: at most {sizes.stage_rows} rows, {EPOCHS} epochs. A quarter as many "
        f"rows are evaluated. Weights, losses and predictions with and without replay: {bits}."
    )
    paragraph = textwrap.TextWrapper(width=120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(
        [
            "## Replay of frozen layers",
            "",
            paragraph.fill(ABOUT.replace("\n", " ")),
            "",
            "```console",
            f"$ {command.strip()}",
            "```",
            "",
            paragraph.fill(measured),
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(row.cells()) + " |" for row in rows),
            "",
        ]
    )


def machine() -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds trec6/ and scv2/")
    parser.add_argument("--sets", nargs="+", choices=LENGTHS, default=["trec6"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="how often each comparison runs (3)")
    parser.add_argument("--head-rows", type=int, default=1024, help="rows of head-only runs (1024)")
    parser.add_argument("--head-epochs", type=int, default=3, help="epochs of head-only runs (3)")
    parser.add_argument(
        "--head-padding",
        type=int,
        metavar="TOKENS",
        help="pad batches of head-only runs, the plain Trainer's too, to a multiple of this; as recipes do by default",
    )
    parser.add_argument("--stage-rows", type=int, default=256, help="rows of the runs in stages (256)")
    parser.add_argument("--steps", type=int, default=15, help="steps where replay cannot act (15)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rows, one round: whether it works, no figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every second that was measured")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the section of docs/benchmarks.md here, too"
    )
    options = parser.parse_args()
    sizes = Sizes(
        options.rounds,
        options.head_rows,
        options.head_epochs,
        options.stage_rows,
        options.steps,
        options.threads,
        options.head_padding,
    )
    if options.quick:
        sizes = Sizes(1, 128, 2, 64, 4, options.threads, options.head_padding)
    disable_progress_bar()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place) / "runs")
        for name in options.sets:
            for part in options.parts:
                count = sizes.head_rows if part == "head" else sizes.stage_rows
                if part == "neutral":
                    count = 32 * (sizes.steps + 2)
                folder = Path(place) / name / part
                write_rows(options.data / name / "train.csv", folder, count, max(count // 4, 32))
                rows += PARTS[part](bench, name, folder, sizes)
    text = markdown(rows, sizes, machine(), bench.unequal, sys.argv[1:])
    print(text)
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        record = {
            "machine": machine(),
            "sizes": asdict(sizes),
            "rows": [asdict(row) | {"median": row.median, "met": row.is_met} for row in rows],
            "unequal": bench.unequal,
            "runs": bench.seconds,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if bench.unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
