"""Whether the baseline has learnt its training examples. Beside one that has not, a regulariser can only look bad.

Told from the loss: after training it is compared with that of somebody who knows nothing but the classes' shares,
-sum p log p, their entropy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict, TypeAdapter

from finetricks.folder import METRICS
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import FINISHED, Trial, Value
from finetricks_tuning.manifest import COMPARE, Manifest

if TYPE_CHECKING:
    from finetricks.tasks import Task
    from finetricks_tuning.study import Study

KNOWN = frozenset({"dropout", "output_dropout", "weight_decay", "label_smoothing", "early_stopping"})
"""Tricks that regularise without a penalty on the weights, which their hooks do not tell."""

LEAST_LEARNT = 0.5
"""The share of the entropy that a baseline which fits has brought its training loss below."""


def regularisers(study: Study) -> tuple[str, ...]:
    """Names of the tricks among a study's factors that hold a model back from fitting its training examples."""
    from finetricks.stack import Stack

    named = {name: trick for factor in study.factors for level in factor.levels for name, trick in level.tricks}
    return tuple(name for name in named if name in KNOWN or Stack([(name, named[name])]).implementing("regularize"))


def loss_of_the_shares(study: Study, task: Task) -> float | None:
    """The cross-entropy of knowing the classes' shares in train, in nats.

    `None` where the baseline's training loss is not a cross-entropy of one class an example alone.
    """
    stack = study.recipe.stack()
    if task.kind != "classification" or stack.implementing("loss", "regularize"):
        return None
    counts = Counter(task.splits["train"]["labels"])
    whole = sum(counts.values())
    return -sum(count / whole * math.log(count / whole) for count in counts.values())


def underfit(folder: Path, manifest: Manifest, trials: Mapping[str, Trial]) -> list[str]:
    """What to tell of a baseline that has not learnt its training examples, in a study that compares regularisers.

    Args:
        trials: by key; only finished ones say anything.
    """
    blind = manifest.loss_of_the_shares
    if not (manifest.regularisers and blind):
        return []
    baseline = next(iter(manifest.configurations))
    ours = [cell.key for cell in manifest.cells if cell.configuration == baseline and cell.phase == COMPARE]
    ended = [key for key in ours if key in trials and trials[key].status == FINISHED]
    losses = [loss for key in ended if (loss := _last_loss(cell_folder(folder, key) / METRICS)) is not None]
    mean = sum(losses) / len(losses) if losses else 0.0
    if mean <= LEAST_LEARNT * blind:
        return []
    return [
        f"the baseline underfits: its training loss ended at {mean:.2f}, and to know no more than the classes' shares "
        f"gives {blind:.2f}; beside it {_listed(manifest.regularisers)} can only look useless or harmful. Tune the "
        "learning rate and train longer first, then compare what regularises"
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _last_loss(path: Path) -> float | None:
    """The mean loss on train between a run's last two evaluations; `None` for what cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return _LINE.validate_json(lines[-1]).train_loss if lines else None
    except (OSError, ValueError):  # pydantic's is a ValueError
        return None


@dataclass(frozen=True)
class _Line:
    """What is read of a line."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    train_loss: Value | None


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)
