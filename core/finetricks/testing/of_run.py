"""What must hold of whole runs with a trick, in the loop and in the Trainer."""

from __future__ import annotations

import io
import math
import tempfile
from typing import Any

import torch

from finetricks.session import Session
from finetricks.streams import kept
from finetricks.tasks.metrics import compute_metrics
from finetricks.testing.bench import final, one_step, same, train, weights
from finetricks.testing.check import Wrong, check
from finetricks.testing.subject import Subject, finite, run_of
from finetricks.untouched import Untouched

RESUMED_AT = (2, 6, 9)
"""Optimizer steps of the twelve: within an epoch, and between two."""
SEEDED = ("same_seed",)


@check(after=("name", "signatures", "build"))
def check_loop(subject: Subject) -> None:
    """It trains to the end in a loop written by hand, with finite losses and weights."""
    losses, found = subject.whole
    if bad := [step for step, loss in enumerate(losses) if not math.isfinite(loss)]:
        raise Wrong(f"the loss of micro-batch {bad[0]} is {losses[bad[0]]}; it must be finite")
    for name, value in found.items():
        if value.is_floating_point() and not finite(value):
            raise Wrong(f"after training {name!r} is not finite")


@check(after=("loop",))
def check_acts(subject: Subject) -> None:
    """A run with it comes to other weights than one without."""
    if same(subject.whole[1], subject.untouched()):
        raise Wrong("it comes to the weights of a run without it; check an instance with values at which it acts")


@check(after=("loop",))
def check_leaves_the_rest_alone(subject: Subject) -> None:
    """At every step its hooks leave the weights, the batch and the global random state as they are."""
    world = Untouched()
    session = subject.bound()
    session.model.train()
    for batch in session.batches():
        session.enter(session.global_step)
        session.stack.watch(("loss", "regularize"), session.model)
        one_step(session, batch)
    session.finish()
    if complaint := world.disturbed():
        raise Wrong(complaint)


@check(after=("loop",))
def check_same_seed(subject: Subject) -> None:
    """Two runs of one seed are the same, bit for bit."""
    losses, found = run_of(subject.bound)
    if losses != subject.whole[0] or not same(found, subject.whole[1]):
        raise Wrong(
            "a second run of the same seed differs; draw from `context.seed` or `step.generator(self)`, and look at no "
            "clock and at nothing that an earlier run left"
        )


@check(after=SEEDED, chosen=lambda subject: subject.kind.neutral is not None)
def check_neutral(subject: Subject) -> None:
    """At the values that it calls neutral a run equals one without it, bit for bit."""
    neutral = subject.kind.neutral or {}
    if not same(final(subject.bound(subject.with_values(**neutral))), subject.untouched()):
        raise Wrong(
            f"at {neutral} a run differs from one without the trick; skip the work there instead of multiplying it by "
            "zero, which draws dropout anew and rounds"
        )


@check(after=SEEDED)
def check_interleaved(subject: Subject) -> None:
    """A run whose steps alternate with those of another, in one process, comes to what it does alone."""
    other, own = subject.bound(training={"seed": 4}, seed=1), subject.bound()
    _alternate([other, own])
    if not same(weights(own), subject.whole[1]):
        raise Wrong(
            "two runs in one process disturb one another; keep nothing in a module or a class: what it must remember "
            "lives in `step.state_of(self)`"
        )


def _alternate(sessions: list[Session]) -> None:
    running = [(session, session.batches()) for session in sessions]
    for session in sessions:
        session.model.train()
    while running:
        for session, batches in tuple(running):
            batch = next(batches, None)
            if batch is None:
                running.remove((session, batches))
            else:
                one_step(session, batch)


@check(after=("same_seed", "interleaved"))
def check_resume(subject: Subject) -> None:
    """Interrupted, saved and resumed, at several steps, it comes to what it does in one go, bit for bit."""
    first = subject.bound()
    for at in RESUMED_AT:
        train(first, steps=at)
        if first.ended:
            break
        saved = io.BytesIO()
        torch.save(first.state_dict(), saved)
        saved.seek(0)
        second = subject.bound(seed=9, init=False)
        second.load_state_dict(torch.load(saved, weights_only=True))
        if not same(final(second), subject.whole[1]):
            raise Wrong(
                f"resumed at step {at} it comes to other weights than in one go; what it must remember lives in "
                "`step.state_of(self)`, and what it draws it draws from `step.generator(self)`"
            )


@check(after=SEEDED)
def check_trainer(subject: Subject) -> None:
    """In a `TrickTrainer` it trains too, with the losses of the loop."""
    with tempfile.TemporaryDirectory() as folder, kept():
        in_trainer = _losses_in_trainer(subject, folder)
    if subject.bound().plan.deciders:  # there the Trainer holds out other rows
        wrong = not in_trainer or not all(map(math.isfinite, in_trainer))
    elif not subject.whole[0]:  # a Trainer steps where nothing is trained, too
        wrong = any(in_trainer)
    else:
        in_loop = subject.whole[0]
        wrong = len(in_trainer) != len(in_loop) or any(
            abs(one - other) > 1e-6 * max(1, abs(other)) for one, other in zip(in_trainer, in_loop, strict=True)
        )
    if wrong:
        raise Wrong(
            f"in the Trainer the losses are {_shown(in_trainer)}, in the loop {_shown(subject.whole[0])}; take what it "
            "needs from the hook's arguments alone"
        )


def _losses_in_trainer(subject: Subject, folder: str) -> list[float]:
    from transformers import DataCollatorWithPadding, PrinterCallback, set_seed

    from finetricks.trainer import TrickTrainer

    recipe, task = subject.recipe(), subject.bench.task()
    set_seed(recipe.training.seed)
    quiet = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    decides = bool(recipe.stack().deciders)
    trainer = TrickTrainer(
        recipe=recipe,
        model=subject.bench.make_model(),
        args=recipe.training_arguments(folder, eval_strategy="epoch" if decides else "no", **quiet),
        train_dataset=task.splits["train"],
        eval_dataset=task.splits["train"] if decides else None,
        compute_metrics=lambda found: compute_metrics(task.kind, found.predictions, found.label_ids),
        processing_class=task.tokenizer,
        data_collator=DataCollatorWithPadding(task.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    losses, step = [], trainer.training_step

    def recorded(*arguments: Any, **keywords: Any) -> Any:
        loss = step(*arguments, **keywords)
        losses.append(loss.item() * trainer.current_gradient_accumulation_steps)
        return loss

    trainer.training_step = recorded  # type: ignore[method-assign]
    trainer.train()
    return losses


def _shown(losses: list[float]) -> str:
    return f"[{', '.join(f'{loss:.6g}' for loss in losses[:3])}{', ...' if len(losses) > 3 else ''}]"
