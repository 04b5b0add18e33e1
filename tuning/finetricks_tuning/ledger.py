"""The ledger of a study, `trials.jsonl`: one line a finished cell. It is the truth about what was run.

A line is plain JSON, appended as a whole and forced to disk before the next cell is chosen. A study can be killed at
any point: a line that was being written is recognised, said, and its cell runs again; nothing else is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from finetricks.validation import first_of

FINISHED, FAILED, DIVERGED = "finished", "failed", "diverged"
LARGEST = 1e100
"""Of a metric: the squares of larger ones, of which intervals are made, are no numbers any more."""

Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Metrics = Mapping[str, Mapping[str, Value | None] | None]


@dataclass(frozen=True)
class Trial:
    """One finished cell.

    Attributes:
        key: hash of everything that determines the result (see `finetricks_tuning.cell`).
        configuration: its name.
        factors: the label of each factor's level.
        tricks: all tricks of the recipe with their values.
        status: `finished`; `diverged` (the loss was no longer finite); `failed` (any other error of its own).
        metrics: `valid`, and `test` where there is one: metrics by name, at the end of the run. Empty unless finished.
        seconds: of training and evaluation, over all attempts.
        error: what went wrong, or `None`.
        together: the key of the first of the cells that it was trained together with; `None` where it was alone.
        diverged_at: the optimizer step at which it diverged; `None` if it did not.
        warnings: what the run said of its plan (layers that never thaw, ...).
        environment: versions, device and threads.
        branched: where it went on from another cell's work: the `step`, that cell's key (`stem`), and the `seconds`
            that the work before had taken, which are not among its own; `None` where it did all of its steps itself.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", allow_inf_nan=False)

    key: str
    configuration: str
    factors: Mapping[str, str]
    tricks: Mapping[str, Mapping[str, Any]]
    seed: int
    status: str
    metrics: Metrics = field(default_factory=dict)
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    error: str | None = None
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    diverged_at: int | None = None
    together: str | None = None
    branched: Mapping[str, Any] | None = None

    def value(self, metric: str) -> float | None:
        """A metric on valid; `None` where the cell did not finish, or the metric is not defined."""
        return (self.metrics.get("valid") or {}).get(metric) if self.status == FINISHED else None

    def to_json(self) -> str:
        written = asdict(self)
        if self.branched is None:
            del written["branched"]
        return json.dumps(written)

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """Read a line; keys of later versions are passed over. Raises `ValueError` for anything else."""
        try:
            return _TRIAL.validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(first_of(error)) from None


_TRIAL: TypeAdapter[Trial] = TypeAdapter(Trial)


class Ledger:
    """Reads and appends trials. Several processes may append to one ledger."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> tuple[dict[str, Trial], list[str]]:
        """The trials by key, the latest of each, and what was found wrong with the file, line by line."""
        trials: dict[str, Trial] = {}
        problems: list[str] = []
        if not self.path.exists():
            return trials, problems
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.removesuffix("\n").split("\n") if text else []
        for number, line in enumerate(lines, start=1):
            try:
                trial = Trial.from_json(line)
            except ValueError as error:
                torn = number == len(lines) and not text.endswith("\n")
                what = "was cut off while it was written" if torn else f"is not a trial ({error})"
                problems.append(f"{self.path.name}:{number} {what}; its cell counts as not run")
            else:
                trials.pop(trial.key, None)
                trials[trial.key] = trial
        return trials, problems

    def append(self, trial: Trial) -> None:
        """Write one trial to disk, whole or not at all. Raises `OSError` when the disk is full."""
        line = (trial.to_json() + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _drop_torn_line(descriptor)
            size = os.fstat(descriptor).st_size
            if (written := os.write(descriptor, line)) < len(line):
                os.ftruncate(descriptor, size)
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}; is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _drop_torn_line(descriptor: int) -> None:
    """Take away what a killed writer left unfinished, or end the line if only its line break is missing."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    content = os.pread(descriptor, size, 0)
    start = content.rfind(b"\n") + 1
    try:
        Trial.from_json(content[start:].decode(errors="replace"))
    except ValueError:
        os.ftruncate(descriptor, start)
    else:
        os.write(descriptor, b"\n")
