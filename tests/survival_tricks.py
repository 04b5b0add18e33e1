"""A plugin file for the tests of what a study survives: its tricks write down who did which step, and fill the disk."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from finetricks import Step, Trick, hookimpl

LONGEST_HOLD = 300.0  # seconds


class Recorded(Trick):
    """Adds a line `node process step` to a file at every step, takes its time, and waits while `FILE.hold` is there."""

    file: str
    seconds: float = 0.0

    @hookimpl
    def regularize(self, step: Step) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "-"
        line = f"{node} {os.getpid()} {step.progress.step}\n"
        with Path(self.file).open("a", encoding="utf-8") as file:
            file.write(line)
        time.sleep(self.seconds)
        until = time.monotonic() + LONGEST_HOLD
        while Path(f"{self.file}.hold").exists() and time.monotonic() < until:
            time.sleep(0.01)


class Filling(Trick):
    """Fills the disk with a file, once a ledger has some lines and while `enough` does not exist."""

    file: str
    ledger: str
    lines: int
    enough: str

    @hookimpl
    def regularize(self, step: Step) -> None:
        ledger = Path(self.ledger)
        if Path(self.enough).exists() or not ledger.exists() or len(ledger.read_text().splitlines()) < self.lines:
            return
        with suppress(OSError), Path(self.file).open("ab", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass
