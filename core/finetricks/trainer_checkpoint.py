"""A Trainer's checkpoints with a recipe: what is added to them, and which of them can be resumed from exactly.

The Trainer writes its parts in place. What makes them trustworthy comes last: `finetricks.json` with the size and
checksum of each that a resume reads, after they are on disk. What else lies there is others' affair.
"""

from __future__ import annotations

import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetricks.atomic import flush
from finetricks.checkpoint import damage, no_code, write_manifest
from finetricks.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from finetricks.session import Session

logger = logging.getLogger(__name__)

TRICKS_FILE, MANIFEST = "finetricks.pt", "finetricks.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = (
    "model.safetensors",
    INDEX,
    "adapter_model.safetensors",
    "pytorch_model.bin",
)
SHARDS = "model-*-of-*.safetensors"
SEALED = (
    *WEIGHTS,
    SHARDS,
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    TRICKS_FILE,
)


def save_tricks(folder: Path, session: Session) -> None:
    """Write the session's identity and what the tricks remember into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    remembered = {"tricks": session.state, "decisions": dict(session.plan.decisions), "skipped": vars(session.skipped)}
    own = {"identity": session.identity(), "made_with": dict(session.made_with), **remembered}
    torch.save(own, folder / TRICKS_FILE)


def seal(folder: Path) -> None:
    """Flush what a resume reads, and then write its manifest. Each of these files is read once more for that."""
    names = sorted(path.name for path in folder.iterdir() if any(fnmatch(path.name, form) for form in SEALED))
    for name in names:
        flush(folder / name)
    write_manifest(folder, names, MANIFEST)
    flush(folder.parent)


def load_tricks(folder: Path, session: Session) -> None:
    """Read it back.

    Raises:
        CheckpointError: the checkpoint belongs to another run, was made with another source of a trick, or is forged.
    """
    with no_code(folder / TRICKS_FILE):
        saved = torch.load(folder / TRICKS_FILE, weights_only=True, map_location="cpu")
    session.check_identity(saved["identity"], saved.get("made_with"))
    session.recall(saved["tricks"], saved["decisions"], saved.get("skipped", {}))


def why_not_whole(folder: Path, world_size: int = 1) -> str:
    """What keeps an exact resume from starting at `folder`, `lacks optimizer.pt` say; empty for a whole checkpoint."""
    parts = ["optimizer.pt", "scheduler.pt", TRICKS_FILE, "trainer_state.json"]
    parts += ["rng_state.pth"] if world_size <= 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [part for part in (*parts, MANIFEST) if not (folder / part).is_file()]
    if not any((folder / name).is_file() for name in WEIGHTS):
        missing = ["model.safetensors", *missing]
    if missing:
        return f"lacks {', '.join(missing)}"
    found = damage(folder, parts, MANIFEST) or damage(folder, _weights(folder), MANIFEST)
    return f"is damaged ({found})" if found else ""


def _weights(folder: Path) -> list[str]:
    """The sealed files of weights, but for those that somebody has replaced by another: an adapter's callbacks do."""
    sealed = json.loads((folder / MANIFEST).read_bytes())
    whole = (folder / INDEX).is_file()  # each of the shards is needed
    forms = (*WEIGHTS, SHARDS)
    return [
        name for name in sealed if any(fnmatch(name, form) for form in forms) and (whole or (folder / name).is_file())
    ]


def usable_checkpoint(asked: str | bool | None, args: TrainingArguments) -> Path | None:
    """The checkpoint to resume from: the one asked for, or for `True` the newest whole one.

    Raises:
        CheckpointError: the one asked for lacks a part (the Trainer would start with a fresh optimizer in silence) or
            is damaged; the newest whole one is offered. Or `args.ignore_data_skip`, which makes a resume inexact.
    """
    if asked is None or asked is False:
        return None
    if args.ignore_data_skip:
        raise CheckpointError("ignore_data_skip=True starts the epoch again on resume; an exact resume needs it False")
    if asked is True:
        root = Path(args.output_dir)
        newest, passed_over = _newest_whole(root, args.world_size)
        if newest is None:
            raise CheckpointError("; ".join([f"no whole checkpoint in {root}", *passed_over]))
        for reason in passed_over:
            logger.warning("%s; resuming from %s", reason, newest)
        return newest
    folder = Path(asked)
    if reason := why_not_whole(folder, args.world_size):
        newest, _ = _newest_whole(folder.parent, args.world_size)
        offer = f"; the newest whole one is {newest}" if newest else f", and no other in {folder.parent} is whole"
        raise CheckpointError(f"{folder} {reason}, so a resume from it would not be exact{offer}")
    return folder


def _newest_whole(root: Path, world_size: int) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with those that are newer."""
    passed_over: list[str] = []
    for folder in reversed(_checkpoints(root)):
        if not (reason := why_not_whole(folder, world_size)):
            return folder, passed_over
        passed_over.append(f"{folder} {reason}")
    return None, passed_over


def _checkpoints(root: Path) -> list[Path]:
    numbered = [folder for folder in root.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(numbered, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))
