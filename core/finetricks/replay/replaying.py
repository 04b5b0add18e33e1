"""A run's replay: whether there is one, where the plan lets it act, and the engine that does it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from finetricks.layer_trace import Forward
from finetricks.layers import Layers
from finetricks.replay.chain import Chain, NoReplay, find_chain
from finetricks.replay.course import Course, compile_course, prefix
from finetricks.replay.disk import DiskStore, default_folder
from finetricks.replay.engine import Engine
from finetricks.replay.memory import Budget, MemoryStore
from finetricks.replay.namespace import Namespaces
from finetricks.replay.store import Store

if TYPE_CHECKING:
    from finetricks.plan import Plan
    from finetricks.settings import Training
    from finetricks.stack import Stack

logger = logging.getLogger(__name__)

T = TypeVar("T")

NARROW = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Replaying:
    """Replay for one model and one recipe.

    Args:
        training: the settings `replay`, `replay_dtype` and `replay_bytes` of a recipe.
        batch: of the model's input, to try it on.
        forward: how the model is called.
        examples: of an epoch; `None` where they cannot be counted.
        off: why there is to be no replay, for a reason of the training loop's.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        stack: Stack,
        training: Training,
        *,
        batch: Any,
        forward: Forward | None = None,
        examples: int | None = None,
        off: str = "",
    ) -> None:
        self._model = model
        self._layers = layers
        self._training = training
        self._batch = batch
        self._forward = forward
        self._examples = examples
        self._chain: Chain | None = None
        self._asked = training.replay in ("memory", "disk")
        changing = [name for name, trick in stack.tricks if trick.changes_frozen]
        if changing:
            off = f"{', '.join(changing)} changes what frozen layers are given, or what they do with it, step by step"
        elif training.compile is not False:
            off = "the forward pass is compiled"
        self._off = off
        self._course = Course((), ())
        self._engine: Engine | None = None

    def planned(self, plan: Plan) -> Plan:
        """The plan, with where it replays."""
        if self._training.replay == "off":
            return plan
        freezes = any(prefix(plan.layers, stage.frozen) for stage in plan.stages)
        if freezes and not self._off and self._chain is None:
            try:
                self._chain = find_chain(self._model, self._layers, self._batch, self._forward)
                self._batch = None
            except NoReplay as reason:
                self._off = str(reason)
        self._course = compile_course(
            plan.layers,
            plan.stages,
            plan.steps_per_epoch,
            most=self._most,
            off=self._off,
            size=self.bytes_of_boundary,
            tolerance=self._tolerance,
        )
        return replace(plan, replay=self._course)

    @property
    def _tolerance(self) -> float | None:
        """Half a unit in the last place of a narrower type; 0 where off unless exact; else measured."""
        if (narrow := NARROW[self._training.replay_dtype]) is not None:
            return torch.finfo(narrow).eps / 2
        return None if self._asked else 0.0

    @property
    def _most(self) -> int | None:
        """Boundaries that there is room for; at least one, for some of the rows."""
        if self._chain is None or not self.bytes_of_boundary:
            return None
        return max(self._training.replay_bytes // self.bytes_of_boundary, 1)

    @property
    def bytes_of_boundary(self) -> int:
        """Bytes that the states of all training examples take at one boundary, if they are as long as the batch's."""
        if self._chain is None or self._examples is None:
            return 0
        narrow = NARROW[self._training.replay_dtype]
        size = self._chain.element_size if narrow is None else narrow.itemsize
        return self._examples * self._chain.tokens * self._chain.width * size

    def begin(self, steps_per_epoch: int, batches_per_epoch: int, remembered: Callable[[], dict[str, Any]]) -> None:
        """Make ready for a run."""
        if self._chain is None:
            return
        narrow = NARROW[self._training.replay_dtype]
        self._engine = Engine(
            self._model,
            self._layers,
            self._chain,
            remembered=remembered,
            open_store=self._stores(),
            steps_per_epoch=steps_per_epoch,
            batches_per_epoch=batches_per_epoch,
            tolerant=self._asked or narrow is not None,
            narrow=narrow,
            shared=self._training.replay == "disk",
        )

    def _stores(self) -> Callable[[int], Store]:
        limit = self._training.replay_bytes
        if self._training.replay != "disk" or self._chain is None:
            budget = Budget(limit)
            return lambda boundary: MemoryStore(budget)
        names = Namespaces(self._model, self._layers, self._chain, self._training.replay_dtype)
        return lambda boundary: DiskStore(default_folder(), names[boundary], limit)

    def freeze(self, stage: int) -> None:
        """Take up the stage of that number, whose layers have just been frozen."""
        if self._engine is not None:
            self._engine.freeze(self._course.spans[stage])

    def enter(self, step: int) -> None:
        if self._engine is not None:
            self._engine.enter(step)

    def run(self, compute: Callable[[], T], again: Callable[[], T] | None = None, *, training: bool = True) -> T:
        """Give `compute()`, without the work of frozen layers that is known; see `Engine.run`."""
        return compute() if self._engine is None else self._engine.run(compute, again, training=training)

    def forget(self) -> None:
        """Forget what is kept: the weights have been loaded anew."""
        if self._engine is not None:
            self._engine.forget()

    def close(self) -> None:
        """End the run's replay; `record` still tells of it."""
        if self._engine is not None:
            self._engine.close()

    def record(self) -> dict[str, Any]:
        """What came of it, as JSON values: rows found and computed, most bytes kept, how exact, and why it is off."""
        engine = self._engine
        if engine is None:
            return {"hits": 0, "misses": 0, "bytes": 0, "exact": True, "off": self._course.off}
        return {
            "hits": engine.hits,
            "misses": engine.misses,
            "bytes": engine.nbytes,
            "exact": engine.apart == 0,
            "apart": engine.apart,
            "off": engine.off,
        }
