"""What a trick may give to the plan, whatever the model's depth and the run's length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from finetricks.errors import InputError
from finetricks.guard import is_named
from finetricks.plan import compile_plan
from finetricks.progress import Progress, Stage
from finetricks.session import Session
from finetricks.testing.check import Wrong, check
from finetricks.testing.subject import Subject

LENGTHS = ((1, 1), (2, 1), (2, 2), (3, 2), (7, 7), (10, 3), (19, 19), (25, 10), (60, 6), (101, 10))
"""Of runs: optimizer steps, and how many of them are an epoch."""
FIRST = ("name", "signatures")


@check("schedule", after=FIRST)
def check_schedule(subject: Subject) -> None:
    """Its factor is finite and at least 0 at every step of runs of many lengths, from a single step on."""
    stack = subject.stack()
    for total, per_epoch in LENGTHS:
        for stage in _stages(total):
            for step in range(stage.start, stage.end):
                try:
                    stack.schedule(Progress(step, total, per_epoch, stage))
                except Exception as error:
                    if _refuses(error):
                        break
                    error.add_note(f"at step {step} of {total}, with {per_epoch} an epoch, in a stage of {stage.steps}")
                    raise


def _refuses(error: Exception) -> bool:
    """Whether a trick itself says that it cannot do with a length."""
    return isinstance(error, InputError) and is_named(error)


def _stages(total: int) -> Iterator[Stage]:
    """The run as one stage, and as two."""
    yield Stage(0, 0, total)
    if total > 1:
        yield Stage(0, 0, total // 2, frozenset({"embeddings"}))
        yield Stage(1, total // 2, total)


@check("freeze", after=FIRST)
def check_freeze(subject: Subject) -> None:
    """It names layers that exist, and something trains at every step, whatever the model's depth and the length.

    A length for which it is not made it may refuse by an `InputError`.
    """
    for session in _at_each_depth(subject):
        for total, per_epoch in LENGTHS:
            try:
                compile_plan(
                    subject.stack(),
                    session.model,
                    session.layers,
                    total_steps=total,
                    steps_per_epoch=per_epoch,
                    learning_rate=session.plan.learning_rate,
                )
            except Exception as error:
                if _refuses(error):
                    continue
                error.add_note(f"in a run of {total} steps, with {per_epoch} an epoch; layers: {session.layers.names}")
                raise


@check(after=FIRST)
def check_groups(subject: Subject) -> None:
    """Every parameter, and all that the loss can teach, is in exactly one group of the optimizer."""
    sessions = _at_each_depth(subject) if "param_groups" in subject.hooks else [subject.bound()]
    for session in sessions:
        held = [id(p) for group in session.optimizer.param_groups for p in group["params"]]
        for name, parameter in session.model.named_parameters():
            if (times := held.count(id(parameter))) != 1:
                raise Wrong(f"the parameter {name!r} is in {times} groups; leave the optimizer to the core")
        if not session.plan.trains(0):
            continue
        for leaf in _leaves(_first_loss(session)):
            if id(leaf) not in held:
                raise Wrong(
                    f"the loss would teach a tensor of shape {tuple(leaf.shape)} that no optimizer holds, as it is no "
                    "parameter of the model; make it one in `build`: module.name = nn.Parameter(...)"
                )


def _at_each_depth(subject: Subject) -> Iterator[Session]:
    yield subject.bound()
    for make in subject.bench.other_depths():
        yield subject.bound(model=make(0))


def _first_loss(session: Session) -> Tensor:
    session.model.train()
    return session.loss(next(session.batches()))


def _leaves(loss: Tensor) -> list[nn.Parameter | Tensor]:
    """The tensors for which the gradient of `loss` is accumulated."""
    found: list[Tensor] = []
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), torch.Tensor):
            found.append(leaf)
        left += [following for following, _ in node.next_functions]
    return found
