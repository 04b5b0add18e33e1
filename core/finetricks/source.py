"""Hashes of source files: what a run's result depends on besides its recipe and its data."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from finetricks.errors import InputError
from finetricks.libraries import LIBRARIES
from finetricks.trick import Trick

CORE = "finetricks"


def hash_of_core() -> str:
    """Of the core's modules that a run imports, directly or not: not of the command line or the pictures."""
    return _hash_of_files(_imported_files("finetricks.runner"))


def hash_of_trick(trick: type[Trick]) -> str:
    """Of the code behind a trick's class and the classes that it is made from.

    That is its module, and the modules of the same package that it imports by statements, so that an edit of one trick
    leaves the cells and checkpoints of the others alone. Of a class that stands in no module file (a notebook): its own
    source text. What is known by its version (the standard library, torch) does not count.

    Raises:
        InputError: the source cannot be found.
    """
    digest = hashlib.sha256()
    for cls in trick.__mro__:
        package = cls.__module__.partition(".")[0]
        if package not in (CORE, "pydantic", *LIBRARIES) and package not in sys.stdlib_module_names:
            digest.update(_hash_of_class(cls).encode())
    return digest.hexdigest()


def hash_of_module(module: str) -> str:
    """Of a module with a trick, as `hash_of_trick`, but without importing it; empty where it is not installed."""
    files = _imported_files(module)
    return _hash_of_files(files) if files else ""


def _hash_of_class(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or cls.__module__ == "__main__":
        try:
            return hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()
        except (OSError, TypeError):
            raise InputError(
                f"the source of {cls.__name__} cannot be found; put it in a file and name that with --plugin"
            ) from None
    return _hash_of_files(_imported_files(cls.__module__) or [Path(file)])


def _imported_files(module: str) -> list[Path]:
    """The file of a module, and those of the modules of its package that it imports, directly or not."""
    package = module.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file_of(name) if name not in found else None
        if file is not None:
            found[name] = file
            within = name if file.name == "__init__.py" else name.rpartition(".")[0]
            waiting += [n for n in _imports(file, within) if n.partition(".")[0] == package]
    return [found[name] for name in sorted(found)]


def _file_of(module: str) -> Path | None:
    """The file of a module, found without importing any; `None` for a name within a module."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    places = [Path(folder).joinpath(*rest) for folder in spec.submodule_search_locations or ()]
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _imports(file: Path, package: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _hash_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
