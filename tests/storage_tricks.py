"""Tricks whose runs lose their disk in the middle."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

from finetricks import Trick, hookimpl


class LosesItsDisk(Trick):
    """At step `at` the disk is full, or read-only, or files may not be longer; not if the file `enough` is there."""

    how: str
    disk: str
    enough: str
    at: int = 5

    @hookimpl
    def regularize(self, model: Any, step: Any) -> Any:
        if step.progress.step == self.at and not Path(self.enough).exists():
            getattr(self, f"_{self.how}")()
        return model.classifier.weight.square().mean()

    def _full(self) -> None:
        with open(Path(self.disk) / "ballast", "wb", buffering=0) as file:
            try:
                while True:
                    os.write(file.fileno(), b"\0" * 4096)
            except OSError:
                pass

    def _read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.disk], check=True)

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
