"""A session in Lightning's Trainer, which keeps its loop, its callbacks and its checkpoints.

Needs the extra `lightning`; nothing else in finetricks imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any

from finetricks.errors import CheckpointError, FinetricksError

try:
    from lightning.pytorch import LightningModule
except ModuleNotFoundError as missing:
    raise FinetricksError(
        'finetricks.lightning needs the library lightning, which is not installed: pip install "finetricks[lightning]"'
    ) from missing

if TYPE_CHECKING:
    import torch

    from finetricks.session import Session

_KEY = "finetricks"
_MODEL = "model."
_LIGHTNINGS_OWN = ("model", "optimizer", "scheduler")
"""The parts of a session's state that stand in a checkpoint of Lightning's by themselves."""


class TrickModule(LightningModule):
    """A LightningModule that trains what a session is bound to: `L.Trainer(max_epochs=3).fit(TrickModule(session))`.

    The batches are the session's, so `fit` is given no training loader; validation is as anywhere else: write a
    subclass with a `validation_step` (`self.model` is the model), and give `fit` a loader for it. Checkpoints are
    Lightning's, and a run resumed with `fit(..., ckpt_path=...)` is exact, also within an epoch. `session.finish()`
    ends the run, as in a loop of your own.

    Args:
        session: of `recipe.bind(model, loader, ...)`. Epochs, accumulation, clipping and precision are its own; the
            Trainer's must not say otherwise.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.model = session.model
        self._loss: torch.Tensor | None = None

    # -- what Lightning asks for -------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        return _Batches(self.session)

    def configure_optimizers(self) -> Any:
        session = self.session
        return {"optimizer": session.optimizer, "lr_scheduler": {"scheduler": session.scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Raise `FinetricksError` where the Trainer would do what the session does, or end before or after it does."""
        if problems := list(self._problems()):
            raise FinetricksError("lightning's Trainer and the session disagree: " + "; ".join(problems))
        self.train()  # Lightning leaves a model as it comes, and `from_pretrained` gives one in evaluation mode

    def _problems(self) -> Iterator[str]:
        trainer, plan = self.trainer, self.session.plan
        accumulation, per_epoch = self.session.accumulation, plan.steps_per_epoch
        if trainer.accumulate_grad_batches != accumulation:
            yield f"accumulate_grad_batches={trainer.accumulate_grad_batches}, give {accumulation}"
        if trainer.gradient_clip_val:
            yield f"gradient_clip_val={trainer.gradient_clip_val}, leave it out: training.clip of the recipe holds"
        if trainer.precision != "32-true":
            yield f"precision={trainer.precision!r}, leave it out: training.precision of the recipe holds"
        if trainer.world_size > 1:
            yield f"{trainer.world_size} processes, give devices=1: a TrickTrainer trains in several"
        if trainer.limit_train_batches != 1.0 or trainer.overfit_batches:
            yield "limit_train_batches or overfit_batches, leave them out: the plan is that of whole epochs"
        ends = [trainer.max_steps] if trainer.max_steps != -1 else []
        ends += [trainer.max_epochs * per_epoch] if trainer.max_epochs not in (None, -1) else []
        if min(ends, default=-1) != plan.total_steps:
            yield (
                f"it would train for {min(ends, default='endless')} steps and the plan for {plan.total_steps}: give "
                f"max_epochs={-(-plan.total_steps // per_epoch)}"
                + (f", max_steps={plan.total_steps}" if plan.total_steps % per_epoch else "")
            )
        if not all(plan.trains(stage.start) for stage in plan.stages):
            yield "every layer is frozen at some steps, and Lightning has no step that trains nothing"

    # -- a step ------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self._loss = self.session.loss(batch)
        return self._loss

    def backward(self, loss: torch.Tensor) -> None:
        """End a micro-batch. The session knows how many an optimizer step holds, and takes that step with the last."""
        assert self._loss is not None
        self.session.backward(self._loss)  # Lightning has divided the one that it gives
        self._loss = None
        self.session.step()
        if self.session.stopped:
            self.trainer.should_stop = True

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """The session does it when a step is taken."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The session does it when a step is taken; Lightning is told of the scheduler for its monitors."""

    # -- checkpoints -------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = self.session.state_dict()
        checkpoint[_KEY] = {part: value for part, value in state.items() if part not in _LIGHTNINGS_OWN}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint was made.

        Raises:
            CheckpointError: it is not one of a `TrickModule`'s run, or of another run.
        """
        if _KEY not in checkpoint:
            raise CheckpointError("the checkpoint holds no session of finetricks: it was made by another module")
        if not checkpoint.get("optimizer_states"):
            raise CheckpointError("the checkpoint holds weights alone (save_weights_only), and no run to go on with")
        weights = checkpoint["state_dict"]
        parts = {
            "model": {name.removeprefix(_MODEL): w for name, w in weights.items() if name.startswith(_MODEL)},
            "optimizer": checkpoint["optimizer_states"][0],
            "scheduler": checkpoint["lr_schedulers"][0],
        }
        self.session.load_state_dict({**checkpoint[_KEY], **parts})


class _Batches(Sized):
    """A session's micro-batches, an epoch at each pass: what is left of it, where the session begins within one."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __len__(self) -> int:
        return self._session.batches_per_epoch

    def __iter__(self) -> Iterator[Any]:
        session = self._session
        epoch, step = divmod(session.global_step, session.plan.steps_per_epoch)
        yield from session.order.epoch(epoch, step * session.accumulation)
