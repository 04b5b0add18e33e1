"""What somebody who sends a folder may put into it."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import torch


class Attack:
    """A pickle that makes a folder when it is opened carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.target),)

    def as_file(self, form: str = "pickle") -> bytes:
        """As a plain `pickle`, or as `torch` writes it."""
        if form == "pickle":
            return pickle.dumps(self)
        written = io.BytesIO()
        torch.save({"x": self}, written)
        return written.getvalue()

    def check_harmless_but_armed(self, *files: Path) -> None:
        """Nothing was executed so far, and of each of the files it would have been."""
        assert not self.target.exists(), "the payload was executed"
        for file in files:
            content = file.read_bytes()
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
            pickle.loads(content)
            assert self.target.is_dir()
            self.target.rmdir()
