"""Writes the package: a module with a working trick, tests by the kit, an entry point, a page and a CI workflow."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetricks import __version__
from finetricks.catalog import installed
from finetricks.errors import InputError, quoted, suggest
from finetricks.hooks import HOOKS

STARTS: tuple[str, ...] = tuple(hook for hook in HOOKS if hook != "finish")
"""The hooks that a trick can begin with; `finish` undoes what `build` did."""

VALUES: Mapping[str, str] = {"evaluated": "target=10"}
"""At which the trick of a template acts on the kit's bench, where that is not at its defaults."""


def write_plugin(name: str, hook: str, folder: Path | None = None) -> Path:
    """Write a package with a trick `name` that implements `hook`, and give its folder.

    Args:
        folder: new, or empty; by default `finetricks-NAME` here.

    Raises:
        InputError: the name cannot be a trick's or is taken, there is no such hook, or the folder holds something.
    """
    _check_name(name)
    if hook not in STARTS:
        raise InputError(f"no trick begins with {quoted(hook)}{suggest(hook, STARTS)}; give one of {', '.join(STARTS)}")
    dashed = name.replace("_", "-")
    folder = Path(f"finetricks-{dashed}") if folder is None else folder
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise InputError(f"{folder} exists already; give a new folder with --out, or remove it")
    words = {
        "name": name,
        "kind": "".join(word.capitalize() for word in name.split("_")),
        "hook": hook,
        "distribution": f"finetricks-{dashed}",
        "package": f"finetricks_{name}",
        "versions": versions(),
        "values": VALUES.get(hook, ""),
    }
    for path, text in _files(words).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def versions(present: str = __version__) -> str:
    """The versions of finetricks that a plugin written now is for; docs/stability.md says why two minor ones."""
    major, minor = map(int, present.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 2}"


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        near = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")
        hint = f", such as {near}" if near and not keyword.iskeyword(near) else ""
        raise InputError(f"{quoted(name)} is no trick's name; give words in lower case, joined by underscores{hint}")
    if name in (known := installed()).names() or name in known.refused:
        raise InputError(f"{name!r} is a trick of {known.origin_of(name)} already; choose another name")


def _files(words: Mapping[str, Any]) -> dict[str, str]:
    templates = Environment(
        loader=PackageLoader("finetricks.new_plugin"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    places = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".github/workflows/test.yml": "workflow.yml",
        f"src/{words['package']}/__init__.py": f"tricks/{words['hook']}.py",
        f"tests/test_{words['name']}.py": "test_trick.py",
    }
    files = {path: templates.get_template(f"{name}.jinja").render(words) for path, name in places.items()}
    return {**files, f"src/{words['package']}/py.typed": ""}
