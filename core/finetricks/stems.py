"""States that several runs go on from: each is computed once, by the run that comes to it first.

A stem lies in a folder of runs that begin alike, as a checkpoint under the name of all that its state depends on. It is
written once, and taken up only by a run that agrees in all of that (`Prefix.check`).
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.checkpoint import Checkpoints
from finetricks.distributed import OtherRankFailed, Ranks
from finetricks.errors import CheckpointError, Diverged
from finetricks.prefix import Prefix, starting

if TYPE_CHECKING:
    from torch import nn

    from finetricks.layers import Layers
    from finetricks.plan import Plan
    from finetricks.recipe import Recipe
    from finetricks.session import Session
    from finetricks.tasks import Task

logger = logging.getLogger(__name__)

Branches = Callable[[Prefix, Callable[["Recipe"], Prefix], int], Collection[int]]
"""Of a run's prefix, what gives that of another recipe on the same model and data, and the step that the run begins at:
the steps after which others go on from it."""

Compile = Callable[["Recipe", "nn.Module", "Layers", int], "Plan"]
"""Of a recipe, a model with its layers, and the steps of an epoch: the recipe's plan."""


@dataclass(frozen=True)
class Sharing:
    """What a run has in common with others.

    Attributes:
        folder: of the stems; `None` for a run of whose steps nothing is shared.
        name: of this run; the stems that it leaves are noted to be from it.
        binds: what determines the work of all of them beside recipe and data (versions, the values of the weights).
        branches: says where others go on from this run.
        start: a folder for the weights before the first step, for all runs that begin with the same.
        start_binds: what determines these weights beside recipe and data.
    """

    folder: Path | None = None
    name: str = ""
    binds: str = ""
    branches: Branches = lambda prefix, prefix_of, begun: ()
    start: Path | None = None
    start_binds: str = ""


class Stems:
    """The stems in a folder, which is made when the first is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, prefix: Prefix, step: int) -> Path:
        """Where the state of `prefix` after `step` steps is, or would be; it is whole once it is there."""
        return self._at(prefix, step).folder / f"step-{step:08d}"

    def any(self) -> bool:
        """Whether there are any."""
        return any(self.folder.glob("*/step-*"))

    def steps(self, prefix: Prefix, beyond: int = -1) -> list[int]:
        """The steps after `beyond` from which a run of `prefix` can go on, the last first."""
        there = {int(path.name.removeprefix("step-")) for path in self.folder.glob("*/step-????????")}
        fit = (step for step in there if beyond < step <= prefix.last)
        return [step for step in sorted(fit, reverse=True) if self.place(prefix, step).is_dir()]

    def save(self, prefix: Prefix, step: int, state: Mapping[str, Any]) -> None:
        """Keep a run's state after `step` steps, unless another run has."""
        if not self.place(prefix, step).is_dir():
            self._at(prefix, step).save(step, {**state, "prefix": prefix.identity(step)})

    def read(self, prefix: Prefix, step: int) -> dict[str, Any]:
        """The state after `step` steps. Raises `CheckpointError` where it is damaged, or not what its name says."""
        state = self._at(prefix, step).newest()
        if state is None:
            raise CheckpointError(f"{self.place(prefix, step)} is gone")
        prefix.check(state.get("prefix"), step)
        return state

    def remove(self, prefix: Prefix, step: int) -> None:
        shutil.rmtree(self._at(prefix, step).folder, ignore_errors=True)

    def _at(self, prefix: Prefix, step: int) -> Checkpoints:
        return Checkpoints(self.folder / prefix.name(step), keep=1)


class Start:
    """The weights before the first step, of all runs that begin with the same: made by the first of them."""

    def __init__(self, folder: Path, recipe: Recipe, task: Task, binds: str) -> None:
        self._kept = Checkpoints(folder, keep=1)
        self._about = {"recipe": starting(recipe), "data": task.fingerprint, "binds": binds}

    def fill(self, session: Session) -> None:
        """Give a session that was bound without `init` the weights. Raises `CheckpointError` where they do not fit."""
        state = self._kept.newest()
        if state is None or state.get("about") != self._of(session):
            raise CheckpointError("the weights are not there, or were made by another recipe")
        session.model.load_state_dict(state["model"])

    def is_there(self) -> bool:
        return bool(self._kept.steps())

    def keep(self, session: Session) -> None:
        """Keep the weights of a session that was bound with `init`."""
        try:
            self._kept.save(0, {"model": session.model.state_dict(), "about": self._of(session)})
        except Exception as error:  # of a disk, say: others make them too
            logger.warning("the weights that this run begins with are not left for others: %s", error)

    def clear(self) -> None:
        self._kept.clear()

    def _of(self, session: Session) -> dict[str, Any]:
        return json.loads(json.dumps({**self._about, "model": session.fingerprint()}))  # type: ignore[no-any-return]


class SharedRun:
    """One run among those that share their work."""

    def __init__(self, sharing: Sharing, folder: Path, recipe: Recipe, task: Task, ranks: Ranks) -> None:
        self._sharing = sharing
        self._recipe = recipe
        self._facts: dict[str, Any] = {"binds": sharing.binds, "data": task.fingerprint, "ranks": ranks.size}
        self._ranks = ranks
        self._stems = Stems(folder)
        self._prefix: Prefix | None = None
        self._steps: Collection[int] = ()

    @property
    def prefix(self) -> Prefix:
        assert self._prefix is not None, "the run is not bound yet"
        return self._prefix

    def any(self) -> bool:
        """Whether there is anything that this run may go on from."""
        return self._ranks.of_first(self._stems.any)

    def furthest(self, session: Session, beyond: int) -> dict[str, Any] | None:
        """The state furthest on, after the step `beyond`, that a bound session may go on from; `None` for none.

        What is damaged, or is not what its name says, is removed.
        """
        self._prefix = Prefix.of(self._recipe, session.plan, **self._facts, model=session.fingerprint())
        for step in self._ranks.of_first(lambda: self._stems.steps(self.prefix, beyond)):
            try:
                with self._ranks.together():
                    return self._stems.read(self.prefix, step)
            except (CheckpointError, OtherRankFailed) as error:
                logger.warning("%s is not gone on from: %s", self._stems.place(self.prefix, step), error)
                if self._ranks.rank == 0:
                    self._stems.remove(self.prefix, step)
        return None

    def settle(self, session: Session, compile: Compile, begun: int) -> None:
        """Learn where others go on from this run, which begins at the step `begun`. Before it has frozen anything."""
        # The tricks of others are asked too, and may touch it.
        model = cache(lambda: copy.deepcopy(session.model))

        def prefix_of(recipe: Recipe) -> Prefix:
            plan = compile(recipe, model(), session.layers, session.plan.steps_per_epoch)
            return Prefix.of(recipe, plan, **self._facts, model=session.fingerprint())

        self._steps = self._ranks.of_first(lambda: self._sharing.branches(self.prefix, prefix_of, begun))

    def leave(self, session: Session, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep the state after the present step where others go on from it."""
        if session.global_step not in self._steps:
            return
        try:
            session.check_weights()
        except Diverged:  # nobody goes on from it, and this run learns of it when it would by itself
            return
        whole = {**state(), "from": self._sharing.name}  # all ranks have a part in it
        self._ranks.of_first(lambda: self._save(session.global_step, whole))

    def _save(self, step: int, state: Mapping[str, Any]) -> None:
        try:
            self._stems.save(self.prefix, step, state)
        except Exception as error:  # of a disk, say: others do the steps themselves, and this run needs none of it
            logger.warning("step %d is not left for other runs: %s", step, error)
