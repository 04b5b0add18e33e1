"""Runs that are killed in child processes by real signals, and what becomes of them.

A run passes places at which it can be killed: before each optimizer step (of pretraining too), before each evaluation,
and before each change that it makes in its folder (a file opened for writing, a rename, a removal), so also in the
middle of a checkpoint. A first run in a child of its own says which places there are; further children kill themselves
at some of them, and one more resumes to the end. All children are forked from this process, which has imported what a
run needs: a fresh interpreter for each would take seconds.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import every
from finetricks import Recipe, Session, Task, runner
from finetricks.checkpoint import Checkpoints

WRITING = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"})
"""Python's audit events of changes in a folder; `open` counts when it is for writing."""


@dataclass(frozen=True)
class Place:
    """Where a run can be killed.

    Attributes:
        what: `step`, `evaluation` or `writing`.
        stage: `pretraining` before the loop; else `frozen`, `just thawed`, or `training` where nothing is frozen.
    """

    what: str
    stage: str


class EveryTask(Task):
    """The tiny task on which every trick acts, with the model that suits the tricks."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> EveryTask:
        task = every.task_for(*names)
        train = task.splits["train"]
        splits = {"train": train, "valid": train.select(range(8))}
        made = cls(**vars(task) | {"splits": splits})
        object.__setattr__(made, "names", tuple(names))
        return made

    def model(self, seed: int) -> Any:
        return every.model_for(*self.names, seed=seed)


def run(recipe: Recipe, names: Sequence[str], folder: Path) -> None:
    """Train `recipe` in this process, or go on with what is in `folder`."""
    runner.run(recipe, folder, resume=folder.exists(), task=EveryTask.of(names))


def warm_up() -> None:
    """Import what a run imports, once, before children are forked."""
    with tempfile.TemporaryDirectory() as folder:
        run(every.recipe(), ["stlr"], Path(folder) / "run")


def in_child(act: Callable[[], None]) -> int:
    """Run `act` in a forked child; the number of the signal that killed it, or 0.

    Raises:
        AssertionError: with the child's traceback, when `act` raised.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            torch.set_num_threads(1)
            act()
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert not told, told.decode()
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def watch(folder: Path, passed: Callable[[Place], None]) -> None:
    """Call `passed` at every place of a run in `folder`. For a child: there is no way back."""
    current: list[Session] = []
    bind, score = Session.bind, runner.score

    def stage() -> str:
        if not current:
            return "pretraining"
        session = current[0]
        plan, step = session.plan, min(session.global_step, session.plan.total_steps - 1)
        frozen = plan.stage_at(step).frozen
        if step and plan.stage_at(step - 1).frozen - frozen:
            return "just thawed"
        return "frozen" if frozen else "training"

    @functools.wraps(bind)
    def watched_bind(*args: Any, **kwargs: Any) -> Session:
        session = bind(*args, **kwargs)
        current.append(session)
        return session

    def watched_score(*args: Any, **kwargs: Any) -> Any:
        passed(Place("evaluation", stage()))
        return score(*args, **kwargs)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event not in WRITING or (event == "open" and not _writes(args)):
            return
        path = args[0]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(os.fspath(folder)):
            passed(Place("writing", stage()))

    Session.bind = watched_bind  # type: ignore[method-assign, assignment]
    runner.score = watched_score
    Checkpoints.clear = lambda self: None  # type: ignore[method-assign]  # the last one is compared
    register_optimizer_step_pre_hook(lambda *_: passed(Place("step", stage())))
    sys.addaudithook(audit)


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(letter in mode for letter in "wax+")


def whole(recipe: Recipe, names: Sequence[str], folder: Path) -> list[Place]:
    """Run to the end in a child; the places that it passed."""
    record = folder.with_suffix(".places")

    def act() -> None:
        places: list[Place] = []
        watch(folder, places.append)
        run(recipe, names, folder)
        record.write_text(json.dumps([[place.what, place.stage] for place in places]))

    assert in_child(act) == 0
    return [Place(*place) for place in json.loads(record.read_text())]


def killed(recipe: Recipe, names: Sequence[str], folder: Path, at: int) -> bool:
    """Run, or go on, in a child that kills itself at the place of number `at`; whether it came so far."""

    def act() -> None:
        left = at

        def passed(place: Place) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        watch(folder, passed)
        run(recipe, names, folder)

    return in_child(act) == signal.SIGKILL


def resumed(recipe: Recipe, names: Sequence[str], folder: Path) -> None:
    """Go on to the end in a child."""

    def act() -> None:
        watch(folder, lambda _: None)
        run(recipe, names, folder)

    assert in_child(act) == 0


def chosen(places: Sequence[Place], draw: random.Random) -> int:
    """A place at random: first the kind, so that rare ones are as likely as the many."""
    kinds = sorted({(place.what, place.stage) for place in places})
    kind = draw.choice(kinds)
    return draw.choice([index for index, place in enumerate(places) if (place.what, place.stage) == kind])


def state(folder: Path) -> dict[str, Any]:
    """What a run leaves: weights, optimizer, scheduler, tricks' state, decisions, metrics, predictions; no times."""
    saved = Checkpoints(folder / "checkpoints").newest() or {"history": [], "seconds": 0}  # none where nothing trains
    for entry in saved["history"]:
        del entry["seconds"]
    del saved["seconds"]
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    model = {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir()) if path.suffix != ".md"}
    predictions = {path.name: path.read_text() for path in (folder / "predictions").iterdir()}
    return {"checkpoint": saved, "result": result, "metrics": lines, "model": model, "predictions": predictions}


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two states differ, bit for bit; NaN equals itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        absent = [f"{place}/{key}: only in one" for key in keys if (key in one) != (key in other)]
        both = [key for key in keys if key in one and key in other]
        return absent + [line for key in both for line in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{place}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    else:
        same = one == other or all(isinstance(value, float) and math.isnan(value) for value in (one, other))
    return [] if same else [place]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
