"""A Trainer's checkpoints with a recipe: what is added to them, and which of them can be resumed from exactly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetricks.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from finetricks.session import Session

logger = logging.getLogger(__name__)

TRICKS_FILE = "finetricks.pt"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
)


def save_tricks(folder: Path, session: Session) -> None:
    """Write the session's identity and what the tricks remember into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    remembered = {"tricks": session.state, "decisions": dict(session.plan.decisions), "skipped": vars(session.skipped)}
    torch.save({"identity": session.identity(), **remembered}, folder / TRICKS_FILE)


def load_tricks(folder: Path, session: Session) -> None:
    """Read it back. Raises `CheckpointError` when the checkpoint belongs to another run."""
    saved = torch.load(folder / TRICKS_FILE, weights_only=True, map_location="cpu")
    session.check_identity(saved["identity"])
    session.recall(saved["tricks"], saved["decisions"], saved.get("skipped", {}))


def missing_parts(folder: Path, world_size: int = 1) -> list[str]:
    """What `folder` lacks of what an exact resume needs; empty for a whole checkpoint."""
    parts = ["optimizer.pt", "scheduler.pt", TRICKS_FILE, "trainer_state.json"]
    parts += ["rng_state.pth"] if world_size <= 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [part for part in parts if not (folder / part).is_file()]
    return missing if any((folder / name).is_file() for name in WEIGHTS) else ["model.safetensors", *missing]


def usable_checkpoint(asked: str | bool | None, args: TrainingArguments) -> Path | None:
    """The checkpoint to resume from: the one asked for, or for `True` the newest whole one.

    Raises:
        CheckpointError: the one asked for lacks a part (the Trainer would start with a fresh optimizer in silence);
            the newest whole one is offered. Or `args.ignore_data_skip`, which makes a resume inexact.
    """
    if asked is None or asked is False:
        return None
    if args.ignore_data_skip:
        raise CheckpointError("ignore_data_skip=True starts the epoch again on resume; an exact resume needs it False")
    root = Path(args.output_dir) if asked is True else Path(asked).parent
    whole = [folder for folder in _checkpoints(root) if not missing_parts(folder, args.world_size)]
    if asked is True:
        if not whole:
            raise CheckpointError(f"no whole checkpoint in {root}")
        for newer in _checkpoints(root)[_checkpoints(root).index(whole[-1]) + 1 :]:
            logger.warning(
                "%s lacks %s; resuming from %s",
                newer,
                ", ".join(missing_parts(newer, args.world_size)),
                whole[-1],
            )
        return whole[-1]
    if missing := missing_parts(Path(asked), args.world_size):
        offer = f"; the newest whole one is {whole[-1]}" if whole else f", and no other checkpoint in {root} is whole"
        raise CheckpointError(f"{asked} lacks {', '.join(missing)}, so a resume from it would not be exact{offer}")
    return Path(asked)


def _checkpoints(root: Path) -> list[Path]:
    numbered = [folder for folder in root.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(numbered, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))
