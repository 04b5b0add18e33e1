"""A fresh process that runs all tricks, in recipes of many, and says what each left; started by test_determinism.py."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

import every
import killing
from finetricks import installed


def left(names: tuple[str, ...], **training: object) -> dict[str, str]:
    """The checksum of all that a run of these tricks leaves, by part."""
    with tempfile.TemporaryDirectory() as folder:
        killing.run(every.recipe(*names, **training), names, Path(folder) / "run")
        return killing.checksums(Path(folder) / "run")


def main() -> None:
    torch.set_num_threads(1)
    found = {",".join(names): left(names) for names in reversed(every.together())}
    print(json.dumps({"left": found, "broken": installed().broken(), "names": installed().names()}))


if __name__ == "__main__":
    sys.exit(main())
