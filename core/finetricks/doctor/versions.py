"""Python and the libraries, against what the package's metadata asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from finetricks.doctor.finding import Finding, ok, wrong

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

PACKAGE = "finetricks"
SHOWN = ("torch", "transformers", "datasets", "numpy")


def check_versions(catalog: Catalog) -> Iterator[Finding]:
    python = platform.python_version()
    asked = SpecifierSet(metadata(PACKAGE)["Requires-Python"])
    if not asked.contains(python, prereleases=True):
        yield wrong(f"Python {python}, and {PACKAGE} needs {asked}", "make an environment with such a Python")
    unmet = list(unmet_versions())
    yield from unmet
    if not unmet:
        shown = ", ".join(f"{name} {version(name)}" for name in SHOWN)
        yield ok(f"{PACKAGE} {version(PACKAGE)}, Python {python}, {shown}")


def unmet_versions(extra: str = "") -> Iterator[Finding]:
    """What the package needs (of an extra: what that adds) and is not there, or in another version.

    What a distribution of an extra lacks is no finding where nothing of the extra is installed.
    """
    asked = [Requirement(line) for line in requires(PACKAGE) or ()]
    asked = [one for one in asked if _applies(one, extra) and (not extra or not _applies(one, ""))]
    there = {one.name: _version(one.name) for one in asked}
    if extra and not any(there.values()):
        return
    install = f"{PACKAGE}[{extra}]" if extra else PACKAGE
    for one in asked:
        found = there[one.name]
        if found is None:
            yield wrong(
                f"{one.name} is not installed, and {install} needs it", f"pip install '{one.name}{one.specifier}'"
            )
        elif not one.specifier.contains(found, prereleases=True):
            yield wrong(
                f"{one.name} {found}, and {install} needs {one.specifier}", f"pip install '{one.name}{one.specifier}'"
            )


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
