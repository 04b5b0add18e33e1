"""What a step with ten tricks costs over the same mathematics written by hand.

    python benchmarks/overhead.py --record overhead.json

In a Trainer (against a subclass of transformers' own) and in a loop (`Session` against a loop without it), on MiniLM
with batches of 32 x 32 tokens, and on a model so small that a step takes about a millisecond. Both sides do one step in
turn, in one process; the figures are medians of the paired differences over the steps in which every layer trains.
Losses and final weights of both sides are compared: where they differ there are no figures. There is no dropout, so
that no random stream matters; the session seeds its stream for each batch all the same.

The hand-written side checks nothing: not what a loss or a gradient is, not whether it is finite.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import transformers
from greenlet import getcurrent, greenlet
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from finetricks import Recipe, TrickTrainer
from finetricks.tasks.models import load_model, resolve_model

TRICKS: list[Any] = [
    {"dropout": {"p": 0.0}},
    "output_layer_norm",
    "glorot_normal",
    {"discriminative_lr": {"decay": 1.3}},
    {"weight_decay": {"value": 0.01}},
    {"gradual_unfreezing": {"stages": [1]}},  # the head alone in the first epoch
    "stlr",
    {"warmup": {"fraction": 0.1}},
    {"label_smoothing": {"smoothing": 0.1}},
    {"l2": {"strength": 1e-4}},
]
DECAY, WEIGHT_DECAY, CUT, RATIO, WARMUP, SMOOTHING, L2 = 1.3, 0.01, 0.1, 32.0, 0.1, 0.1, 1e-4
RATE, CLASSES, EPOCHS = 1e-4, 6, 10
AIMS = {"minilm": "1 % of a step", "tiny": "0.2 ms"}

Pause = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """A model, its data and the length of the run."""

    name: str
    rows: list[dict[str, Any]]
    batch_size: int
    model: Callable[[], nn.Module]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rows) // self.batch_size

    @property
    def steps(self) -> int:
        return EPOCHS * self.steps_per_epoch

    @property
    def recipe(self) -> Recipe:
        training = {"epochs": EPOCHS, "batch_size": self.batch_size, "learning_rate": RATE}
        return Recipe(tricks=TRICKS, training=training)

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=self.batch_size, collate_fn=default_data_collator)

    def built(self) -> nn.Module:
        """A model as the tricks `build` and `init` it."""
        return self.recipe.bind(self.model(), self.loader()).model


def rows(batches: int, batch_size: int, tokens: int, vocabulary: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(1, vocabulary, (tokens,), generator=draw),
            "attention_mask": torch.ones(tokens, dtype=torch.long),
            "labels": int(torch.randint(0, CLASSES, (1,), generator=draw)),
        }
        for _ in range(batches * batch_size)
    ]


def minilm(steps: int) -> Setting:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return load_model(resolve_model("minilm"), kind="classification", labels=[*map(str, range(CLASSES))], seed=0)

    return Setting("minilm", rows(steps // EPOCHS, 32, 32, 30000), 32, model)


def tiny(steps: int) -> Setting:
    def model() -> nn.Module:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=CLASSES,
        )
        return BertForSequenceClassification(config)

    return Setting("tiny", rows(steps // EPOCHS, 2, 4, 50), 2, model)


# -- by hand ---------------------------------------------------------------------------------------------


class Hand:
    """The mathematics of the ten tricks, for a BERT."""

    def __init__(self, model: nn.Module, steps: int, steps_per_epoch: int) -> None:
        self.model = model
        self.steps_per_epoch = steps_per_epoch
        depth = model.config.num_hidden_layers  # type: ignore[union-attr]
        places = ["bert.embeddings.", *(f"bert.encoder.layer.{index}." for index in range(depth))]
        spared = [
            f"{prefix}."
            for prefix, module in model.named_modules()
            if "norm" in type(module).__name__.lower() and prefix
        ]
        self.body: list[nn.Parameter] = []
        self.shrinking: list[nn.Parameter] = []
        groups: dict[tuple[int, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            layer = next((index for index, place in enumerate(places) if name.startswith(place)), len(places))
            bare = name.endswith("bias") or any(name.startswith(prefix) for prefix in spared)
            groups.setdefault((layer, 0.0 if bare else WEIGHT_DECAY), []).append(parameter)
            if layer < len(places):
                self.body.append(parameter)
            if not bare:
                self.shrinking.append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": RATE * DECAY ** (layer - len(places)), "weight_decay": decay}
                for (layer, decay), parameters in groups.items()
            ],
            fused=True,
        )
        cut, warm = max(int(steps * CUT), 1), int(steps * WARMUP)

        def factor(step: int) -> float:
            share = step / cut if step < cut else 1 - (step - cut) / (steps - cut)
            return (1 + share * (RATIO - 1)) / RATIO * min(1.0, step / warm)

        self.scheduler = LambdaLR(self.optimizer, factor)

    def begin(self, step: int) -> None:
        if step in (0, self.steps_per_epoch):
            for parameter in self.body:
                parameter.requires_grad_(step > 0)
            self.penalised = [parameter for parameter in self.shrinking if parameter.requires_grad]

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = dict(batch)
        labels = batch.pop("labels")
        loss = F.cross_entropy(model(**batch).logits, labels, label_smoothing=SMOOTHING)
        squares = [parameter.square().sum() for parameter in self.penalised]
        return loss + L2 / 2 * sum(squares[1:], squares[0])


class HandTrainer(Trainer):
    """The plain Trainer with it."""

    def __init__(self, hand: Hand, **keywords: Any) -> None:
        super().__init__(model=hand.model, **keywords)
        self.hand = hand
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = self.hand.optimizer
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = self.hand.scheduler
        return self.lr_scheduler

    def training_step(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        self.hand.begin(self.state.global_step)
        return super().training_step(*arguments, **keywords)

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        return self.hand.loss(model, inputs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class Tricks(TrickTrainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


# -- the four sides --------------------------------------------------------------------------------------


@dataclass
class Side:
    """One way to train: its losses, its model, and the seconds of each step."""

    run: Callable[[Side], nn.Module]
    pause: Pause
    losses: list[torch.Tensor]
    seconds: list[float]
    model: nn.Module | None = None


def in_loop(setting: Setting) -> Callable[[Side], nn.Module]:
    def run(side: Side) -> nn.Module:
        session = setting.recipe.bind(setting.model(), setting.loader())
        session.model.train()
        for batch in session.batches():
            loss = session.loss(batch)
            session.backward(loss)
            session.step()
            side.losses.append(loss.detach())
            side.pause()
        return session.model

    return run


def in_loop_by_hand(setting: Setting) -> Callable[[Side], nn.Module]:
    def run(side: Side) -> nn.Module:
        model = setting.built()
        hand = Hand(model, setting.steps, setting.steps_per_epoch)
        model.train()
        step = 0
        for _ in range(EPOCHS):
            for batch in setting.loader():
                hand.begin(step)
                loss = hand.loss(model, batch)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                hand.optimizer.step()
                hand.scheduler.step()
                hand.optimizer.zero_grad()
                step += 1
                side.losses.append(loss.detach())
                side.pause()
        return model

    return run


class Pausing(TrainerCallback):
    def __init__(self, side: Side) -> None:
        self.side = side

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.side.pause()


def arguments(setting: Setting, folder: str) -> TrainingArguments:
    quiet = {"disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no", "use_cpu": True}
    return setting.recipe.training_arguments(folder, **quiet)


def in_trainer(setting: Setting) -> Callable[[Side], nn.Module]:
    def run(side: Side) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Tricks(
                recipe=setting.recipe,
                model=setting.model(),
                args=arguments(setting, folder),
                train_dataset=setting.rows,
                data_collator=default_data_collator,
                callbacks=[Pausing(side)],
            )
            noting(trainer, side)
            trainer.train()
        assert trainer.session is not None
        return trainer.session.model

    return run


def in_trainer_by_hand(setting: Setting) -> Callable[[Side], nn.Module]:
    def run(side: Side) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            trainer = HandTrainer(
                Hand(setting.built(), setting.steps, setting.steps_per_epoch),
                args=arguments(setting, folder),
                train_dataset=setting.rows,
                data_collator=default_data_collator,
                callbacks=[Pausing(side)],
            )
            noting(trainer, side)
            trainer.train()
        return trainer.hand.model

    return run


def noting(trainer: Any, side: Side) -> None:
    """Keep the losses that a Trainer's steps give."""
    own = trainer.training_step

    def step(*given: Any, **keywords: Any) -> torch.Tensor:
        loss = own(*given, **keywords)
        side.losses.append(loss.detach())
        return loss

    trainer.training_step = step


def in_turn(runs: list[Callable[[Side], nn.Module]], steps: int, clock: Callable[[], float]) -> list[Side]:
    """Let each side do one step in turn, the first of a round changing from round to round."""
    main = getcurrent()
    sides = [Side(run, main.switch, [], []) for run in runs]

    def whole(side: Side) -> None:
        side.model = side.run(side)

    threads = [greenlet(lambda side=side: whole(side)) for side in sides]
    for step in range(steps):
        for number in range(len(sides)):
            place = (number + step) % len(sides)
            start = clock()
            threads[place].switch()
            sides[place].seconds.append(clock() - start)
    for thread in threads:
        thread.switch()
    return sides


def check_equal(setting: Setting, ours: Side, hand: Side) -> None:
    """Raise `AssertionError` where the two sides did not compute the same."""
    assert len(ours.losses) == len(hand.losses) == setting.steps
    assert torch.equal(torch.stack(ours.losses), torch.stack(hand.losses)), f"{setting.name}: other losses"
    assert ours.model is not None
    assert hand.model is not None
    mine, theirs = ours.model.state_dict(), hand.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), f"{setting.name}: other weights"


def compared(setting: Setting, ours: Side, hand: Side) -> dict[str, Any]:
    """The figures of two sides that did the same: milliseconds, and shares of a step."""
    check_equal(setting, ours, hand)
    first = setting.steps_per_epoch + 2  # every layer trains, and the optimizer has its moments
    pairs = list(zip(ours.seconds[first:], hand.seconds[first:], strict=True))
    differences = [1e3 * (mine - theirs) for mine, theirs in pairs]
    shares = [mine / theirs - 1 for mine, theirs in pairs]
    return {
        "steps": len(pairs),
        "hand_ms": 1e3 * statistics.median(theirs for _, theirs in pairs),
        "difference_ms": statistics.median(differences),
        "difference_quartiles_ms": statistics.quantiles(differences, n=4)[::2],
        "share": statistics.median(shares),
        "share_quartiles": statistics.quantiles(shares, n=4)[::2],
    }


def measured(setting: Setting, clock: Callable[[], float]) -> dict[str, Any]:
    loops = in_turn([in_loop(setting), in_loop_by_hand(setting)], setting.steps, clock)
    trainers = in_turn([in_trainer(setting), in_trainer_by_hand(setting)], setting.steps, clock)
    return {"loop": compared(setting, *loops), "trainer": compared(setting, *trainers)}


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| model | in a | by hand, ms a step | with ten tricks: ms more (quartiles) | % more (quartiles) | aim |",
        "|---|---|---|---|---|---|",
    ]
    for model, ways in found.items():
        for way, figures in ways.items():
            low, high = figures["difference_quartiles_ms"]
            least, most = figures["share_quartiles"]
            lines.append(
                f"| {model} | {way} | {figures['hand_ms']:.2f} | {figures['difference_ms']:+.3f} "
                f"({low:+.3f} to {high:+.3f}) | {figures['share']:+.2%} ({least:+.2%} to {most:+.2%}) | {AIMS[model]} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of MiniLM, a multiple of 10; 0 leaves it out (100)")
    parser.add_argument("--tiny-steps", type=int, default=2000, help="of the small model; 0 leaves it out (2000)")
    parser.add_argument("--threads", type=int, default=2, help="of torch, for MiniLM; the small one has one (2)")
    parser.add_argument("--cpu-time", action="store_true", help="of this process, where others use the machine too")
    parser.add_argument("--record", type=Path, help="a JSON file to write the figures to")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    found: dict[str, dict[str, Any]] = {}
    for setting, steps, threads in ((tiny, options.tiny_steps, 1), (minilm, options.steps, options.threads)):
        if steps:
            torch.set_num_threads(threads)
            made = setting(steps)
            found[made.name] = measured(made, process_time if options.cpu_time else perf_counter)
    print(table(found))
    if options.record:
        about = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "threads": options.threads,
            "clock": "cpu" if options.cpu_time else "wall",
        }
        options.record.write_text(json.dumps({"about": about, "figures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
