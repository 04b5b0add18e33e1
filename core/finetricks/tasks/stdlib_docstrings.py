"""An embedded data set that needs no network: docstrings of Python's standard library, by package.

Which package does a docstring come from? The texts are those of the running Python, so their number differs a little
between versions: about 2,600 on 3.11, of twelve labels.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetricks.errors import DataError
from finetricks.tasks.table import Table

NAME = "stdlib_docstrings"
PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "mailbox",
    "multiprocessing",
    "tarfile",
    "tkinter",
    "turtle",
    "unittest",
    "xml",
)
MASK = "___"
MIN_CHARACTERS = 40  # "Return self." belongs to every package alike

Statement = ast.stmt | ast.excepthandler | ast.match_case
Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def stdlib_docstrings(packages: Sequence[str] = PACKAGES, folder: Path | None = None) -> tuple[Table, tuple[str, ...]]:
    """The docstrings of modules, classes, functions and methods, as `text` and `label`, in the order of the source.

    The source is parsed, never imported (tkinter may not import). White space is normalised, and a package's own name
    is masked from its texts, whatever its case and wherever it stands. Each text stands once; one that occurs in two
    packages is dropped. Tests of the library are left out.

    Args:
        packages: packages and modules of the standard library.
        folder: where the standard library lies; that of the running Python by default.

    Returns:
        The table, and a note for each package that the installation lacks.

    Raises:
        DataError: fewer than two packages are installed as source.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    labels: dict[str, set[str]] = {}
    for package in packages:
        for text in _texts(folder, package):
            labels.setdefault(text, set()).add(package)
    rows = [(text, next(iter(owners))) for text, owners in labels.items() if len(owners) == 1]
    found = {label for _, label in rows}
    missing = [package for package in packages if package not in found]
    if len(found) < 2:
        raise DataError(f"{NAME}: no source of {', '.join(missing)} in {folder}; name a data file instead")
    table = Table(NAME, {"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    notes = (f"{NAME}: this Python lacks {', '.join(missing)}; the label is left out",) if missing else ()
    return table, notes


def _texts(folder: Path, package: str) -> Iterator[str]:
    own_name = re.compile(re.escape(package), re.IGNORECASE)
    for path in _sources(folder, package):
        for node in _statements(ast.parse(path.read_bytes())):
            if isinstance(node, Node):
                text = own_name.sub(MASK, " ".join((ast.get_docstring(node) or "").split()))
                if len(text) >= MIN_CHARACTERS:
                    yield text


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """What `ast.walk` gives, in its order, without the expressions: four in five nodes, in which nothing is defined."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        waiting.extend(part for part in ast.iter_child_nodes(node) if isinstance(part, Statement))


def _sources(folder: Path, package: str) -> list[Path]:
    module = folder / f"{package}.py"
    if module.is_file():
        return [module]
    paths = sorted((folder / package).rglob("*.py"), key=lambda path: path.parts)
    return [path for path in paths if not {"test", "tests"} & set(path.relative_to(folder).parts)]
