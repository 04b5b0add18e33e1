"""What `import finetricks` gives."""

from __future__ import annotations

from pathlib import Path

import finetricks


def test_every_name_is_there() -> None:
    assert [name for name in finetricks.__all__ if not hasattr(finetricks, name)] == []


def test_no_name_is_that_of_a_module() -> None:
    # Importing the module would put it in the place of what the name stands for.
    modules = {path.stem for path in Path(finetricks.__file__).parent.iterdir()}
    assert [name for name in finetricks.__all__ if name in modules] == []
