"""Runs that are killed in child processes by real signals, and what becomes of them.

A run passes places at which it can be killed: before each optimizer step (of pretraining too), before each evaluation,
before each change that it makes in its folder (a file opened for writing, a rename, a removal), between the parts of a
checkpoint, and in the middle of writing one of them. A first run in a child of its own says which places there are;
further children kill themselves at some of them, and one more resumes to the end. All children are forked from this
process, which has imported what a run needs: a fresh interpreter for each would take seconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import every
from finetricks import Recipe, Session, Task, checkpoint, runner
from finetricks.checkpoint import MANIFEST, WEIGHTS, Checkpoints

WRITING = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"})
"""Python's audit events of changes in a folder; `open` counts when it is for writing."""
PART_OF_MANIFEST = 100
"""Bytes; a whole one has more than 200."""
BEFORE = -1
"""The step of what comes before the training loop."""


@dataclass(frozen=True)
class Kind:
    """Of places.

    Attributes:
        what: `step`, `evaluation`, `writing` (before a change in the folder), `checkpoint` (between its parts) or
            `torn` (within one of its files).
        stage: `pretraining` before the loop; else `frozen`, `just thawed`, or `training` where nothing is frozen.
    """

    what: str
    stage: str

    def __str__(self) -> str:
        return f"{self.what}, {self.stage}"


@dataclass(frozen=True)
class Place:
    """Where a run can be killed: the `number`th place of its kind at an optimizer step."""

    kind: Kind
    step: int
    number: int


Kill = Callable[[], None]
Passed = Callable[[Kind, int, Kill], None]


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


def cache_of(folder: Path) -> Path:
    """A run's own cache: what an undisturbed run has pretrained must not spare others the work."""
    return folder.with_suffix(".cache")


def in_child(act: Callable[[], None], folder: Path) -> int:
    """Run `act` in a forked child whose random states are those of seed 0; the signal that killed it, or 0.

    It works in `folder`, with a cache beside it.

    Raises:
        AssertionError: with the child's traceback, when `act` raised.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            os.environ["FINETRICKS_CACHE"] = str(cache_of(folder))
            torch.set_num_threads(1)
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(0)
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


# -- the places that a run passes, and how it dies there -------------------------------------------------


def watch(folder: Path, passed: Passed) -> list[Session]:
    """Call `passed` at every place of a run in `folder`. For a child: there is no way back.

    Gives the list in which the run's session will be.
    """
    sessions: list[Session] = []
    saving: list[bool] = []
    owned = {folder, cache_of(folder)}
    bind, score, save = Session.bind, runner.score, Checkpoints.save
    save_weights, save_state = checkpoint.save_file, torch.save

    def pass_by(what: str, kill: Kill = die) -> None:
        stage, step = where(sessions)
        passed(Kind(what, stage), step, kill)

    @functools.wraps(bind)
    def watched_bind(*args: Any, **kwargs: Any) -> Session:
        session = bind(*args, **kwargs)
        sessions.append(session)
        return session

    def watched_score(*args: Any, **kwargs: Any) -> Any:
        pass_by("evaluation")
        return score(*args, **kwargs)

    def watched_save(*args: Any, **kwargs: Any) -> Path:
        with _held(saving):
            return save(*args, **kwargs)

    def tearable(write: Callable[[Any, Any], None], what: Any, to: Any) -> None:
        """Write a part of a checkpoint from outside of Python, where no event is raised."""
        if saving:
            pass_by("checkpoint")
            pass_by("torn", lambda: tear(functools.partial(write, what), Path(to)))
        write(what, to)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event not in WRITING or (event == "open" and not _writes(args)):
            return
        path = args[0]
        if isinstance(path, str | os.PathLike) and owned & {*(own := Path(os.fspath(path))).parents}:
            pass_by("checkpoint" if saving else "writing")
            if own.name == MANIFEST and event == "open":
                pass_by("torn", lambda: limit_files(PART_OF_MANIFEST))

    Session.bind = watched_bind  # type: ignore[method-assign, assignment]
    runner.score = watched_score
    Checkpoints.save = watched_save  # type: ignore[method-assign, assignment]
    checkpoint.save_file = functools.partial(tearable, save_weights)
    torch.save = functools.partial(tearable, save_state)
    Checkpoints.clear = lambda self: None  # type: ignore[method-assign]  # the last one is compared
    register_optimizer_step_pre_hook(lambda *_: pass_by("step"))
    sys.addaudithook(audit)
    return sessions


@contextmanager
def _held(flag: list[bool]) -> Iterator[None]:
    flag.append(True)
    try:
        yield
    finally:
        flag.pop()


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(letter in mode for letter in "wax+")


def where(sessions: Sequence[Session]) -> tuple[str, int]:
    """The stage that a run is in, and its step."""
    if not sessions:
        return "pretraining", BEFORE
    session = sessions[0]
    plan, step = session.plan, min(session.global_step, session.plan.total_steps - 1)
    frozen = plan.stage_at(step).frozen
    if step and plan.stage_at(step - 1).frozen - frozen:
        return "just thawed", session.global_step
    return "frozen" if frozen else "training", session.global_step


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def limit_files(size: int) -> None:
    """From now on the kernel kills this process in the write that makes a file larger than `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def tear(write: Callable[[Path], None], to: Path) -> None:
    """Die in the middle of `write(to)`, with half of the bytes on the disk."""
    with tempfile.TemporaryDirectory() as elsewhere:
        write(Path(elsewhere) / to.name)
        content = (Path(elsewhere) / to.name).read_bytes()
    half = len(content) // 2
    if to.name == WEIGHTS:  # safetensors asks for all the room at once: the kernel would kill it at the first byte
        to.write_bytes(content[:half])
        die()
    limit_files(half)
    write(to)
    raise AssertionError(f"{to} was written whole")


# -- runs ------------------------------------------------------------------------------------------------


def whole(recipe: Recipe, names: Sequence[str], folder: Path) -> list[Place]:
    """Run to the end in a child; the places that it passed."""
    record = folder.with_suffix(".places")

    def act() -> None:
        passed: list[tuple[Kind, int]] = []
        sessions = watch(folder, lambda kind, step, kill: passed.append((kind, step)))
        run(recipe, names, folder)
        record.write_text(json.dumps([[*astuple(kind), step] for kind, step in passed]))
        _write_draws(folder, sessions[0])

    assert in_child(act, folder) == 0
    places: list[Place] = []
    for what, stage, step in json.loads(record.read_text()):
        kind = Kind(what, stage)
        places.append(Place(kind, step, sum(place.kind == kind and place.step == step for place in places)))
    return places


def killed(recipe: Recipe, names: Sequence[str], folder: Path, at: Place) -> bool:
    """Run, or go on, in a child that kills itself at a place; whether it came so far."""

    def act() -> None:
        left = at.number

        def passed(kind: Kind, step: int, kill: Kill) -> None:
            nonlocal left
            if (kind, step) == (at.kind, at.step):
                left -= 1
                if left < 0:
                    kill()

        watch(folder, passed)
        run(recipe, names, folder)

    return in_child(act, folder) in (signal.SIGKILL, signal.SIGXFSZ)


def resumed(recipe: Recipe, names: Sequence[str], folder: Path) -> None:
    """Go on to the end in a child."""

    def act() -> None:
        sessions = watch(folder, lambda *_: None)
        run(recipe, names, folder)
        if sessions:  # else it had been killed when nothing was left to do
            _write_draws(folder, sessions[0])

    assert in_child(act, folder) == 0


def left_alone(recipe: Recipe, names: Sequence[str], folder: Path) -> dict[str, bytes]:
    """Run to the end in a child that nobody watches; the files of the model that it leaves."""
    assert in_child(lambda: run(recipe, names, folder), folder) == 0
    return model_in(folder)


def in_turn(places: Sequence[Place], kinds: Sequence[Kind], draw: random.Random) -> list[list[Place]]:
    """A place of each kind, drawn, in chains: a run that is killed at one surely comes to the next when it goes on.

    It goes on from a checkpoint that is no later than the step of the kill, so it comes to all of any later step.
    """
    steps = {kind: [place.step for place in places if place.kind == kind] for kind in kinds}
    left = sorted(dict.fromkeys(kinds), key=lambda kind: (max(steps[kind]), min(steps[kind]), str(kind)))
    chains: list[list[Place]] = []
    while left:
        chain: list[Place] = []
        for kind in list(left):
            after = chain[-1].step if chain else BEFORE - 1
            later = [place for place in places if place.kind == kind and place.step > after]
            others = [max(steps[other]) for other in left if other != kind]
            # Not so late that nothing could follow, where there is a choice.
            early = [place for place in later if not others or place.step < min(others)]
            if later:
                chain.append(draw.choice(early or later))
                left.remove(kind)
        chains.append(chain)
    return chains


# -- what a run leaves -----------------------------------------------------------------------------------


def _write_draws(folder: Path, session: Session) -> None:
    folder.with_suffix(".draws").write_text(json.dumps(draws(session)))


def draws(session: Session) -> dict[str, Any]:
    """Where the random streams are: what would be drawn next from each, and the global states of this process."""
    step = session._step()
    with session.dropout_stream():
        dropout = torch.rand(4).tolist()
    return {
        "dropout": dropout,
        "tricks": {
            name: torch.rand(4, generator=step.generator(trick)).tolist() for name, trick in session.stack.tricks
        },
        "order": [
            [rows.tolist() for rows in _tensors(batch)] for batch in session._order.epoch(session.plan.total_steps)
        ],
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "numpy": hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),
        "python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
    }


def _tensors(batch: Any) -> list[torch.Tensor]:
    return [batch[name] for name in sorted(batch)]


def model_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir()) if path.suffix != ".md"}


def state(folder: Path) -> dict[str, Any]:
    """What a run leaves: weights, optimizer, scheduler, tricks' state, decisions, metrics, predictions, and where the
    random streams are; no times."""
    saved = Checkpoints(folder / "checkpoints").newest() or {"history": [], "seconds": 0}  # none where nothing trains
    for entry in saved["history"]:
        del entry["seconds"]
    del saved["seconds"]
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"], result["replay"]  # counted anew when a run goes on
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return {
        "checkpoint": saved,
        "result": result,
        "metrics": lines,
        "model": model_in(folder),
        "predictions": {path.name: path.read_text() for path in (folder / "predictions").iterdir()},
        "draws": json.loads(folder.with_suffix(".draws").read_text()),
    }


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


def size(state: Any) -> int:
    """Bytes of a state that are compared: of tensors, files and texts; a number counts 8."""
    if isinstance(state, dict):
        return sum(size(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(size(value) for value in state)
    if isinstance(state, torch.Tensor):
        return state.nbytes
    return len(state) if isinstance(state, bytes | str) else 8


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def checksums(folder: Path) -> dict[str, str]:
    """Of what a finished run leaves: model, predictions, metrics."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = {
        **model_in(folder),
        **{path.name: path.read_bytes() for path in (folder / "predictions").iterdir()},
        "metrics": json.dumps([{**line, "seconds": 0} for line in lines]).encode(),
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(parts.items())}
