"""Which tricks are installed. Tricks announce themselves by entry points of the group `finetricks`.

The names are known without importing anything; a trick's module is imported when the trick is first asked for. An
entry point that does not load, or a name that two distributions claim, takes only itself down.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires
from pathlib import Path
from types import ModuleType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from finetricks.errors import InputError, TrickError, quoted, suggest
from finetricks.implementation import check_hooks
from finetricks.loading import LoadFailed, load
from finetricks.trick import Trick

GROUP = "finetricks"


class UnknownTrick(InputError):
    """No installed distribution offers a trick of this name, or the one that does is broken."""


@dataclass(frozen=True)
class Entry:
    """One announced trick: its name, who announces it, and where it is."""

    name: str
    distribution: str
    version: str
    target: str

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    def load(self) -> type[Trick]:
        """Import the trick's class. Raises `UnknownTrick` naming the distribution when that fails."""
        who = f"trick {self.name!r} of {self.origin}"
        point = EntryPoint(self.name, self.target, GROUP)
        try:
            found = load(point.load, who, self.target.partition(":")[0])
        except LoadFailed as error:
            raise UnknownTrick(f"{who} does not load: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Trick)):
            raise UnknownTrick(f"{who}: {self.target} is not a subclass of Trick")
        try:
            check_hooks(found)
        except TrickError as error:
            raise UnknownTrick(f"{who} cannot be used: {error}") from error
        return found


@dataclass(frozen=True)
class Catalog:
    """The tricks that recipes can name.

    Attributes:
        entries: announced tricks by name.
        refused: names that cannot be used, each with the reason.
        classes: tricks given as classes (a plugin file, a notebook), which come before `entries`.
        files: the plugin files that `classes` were read from.
    """

    entries: Mapping[str, Entry]
    refused: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, type[Trick]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def names(self) -> list[str]:
        """All names that can be asked for, sorted."""
        return sorted({*self.entries, *self.classes})

    def get(self, name: str) -> type[Trick]:
        """The class of the trick `name`. Raises `UnknownTrick`, with the nearest name for a typo."""
        if name in self.classes:
            return self.classes[name]
        if name in self.refused:
            raise UnknownTrick(self.refused[name])
        if name not in self.entries:
            near = suggest(name, self.names())
            raise UnknownTrick(f"unknown trick {quoted(name)}{near}; `finetricks list` shows what is installed")
        return self.entries[name].load()

    def name_of(self, trick: type[Trick]) -> str:
        """The name that `trick` is announced under; for an unannounced class its own in snake case."""
        for name, known in self.classes.items():
            if known is trick:
                return name
        target = f"{trick.__module__}:{trick.__qualname__}"
        announced = (entry.name for entry in self.entries.values() if entry.target == target)
        return next(announced, None) or snake_case(trick.__name__)

    def origin_of(self, name: str) -> str:
        """`distribution version` of an announced trick, or where else it comes from."""
        if name in self.classes:
            return self.origin_of_class(self.classes[name])
        return self.entries[name].origin if name in self.entries else "this program"

    def origin_of_class(self, trick: type[Trick]) -> str:
        """`distribution version` of the announced trick that `trick` is, or that is of its package; else its file."""
        target, package = f"{trick.__module__}:{trick.__qualname__}", trick.__module__.partition(".")[0]
        entries = self.entries.values()
        own = [entry.origin for entry in entries if entry.target == target]
        own += [entry.origin for entry in entries if re.split(r"[.:]", entry.target)[0] == package]
        return own[0] if own else getattr(sys.modules.get(trick.__module__), "__file__", None) or "this program"

    def written_for(self, name: str) -> SpecifierSet | None:
        """The versions of finetricks that the distribution of a trick says it needs; `None` where it says none."""
        entry = self.entries.get(name)
        return None if entry is None or name in self.classes else _needs(entry.distribution)

    def broken(self) -> dict[str, str]:
        """Load every announced trick; the reasons, by name, of those that cannot be used."""
        reasons = dict(self.refused)
        for name, entry in self.entries.items():
            try:
                entry.load()
            except UnknownTrick as error:
                reasons[name] = str(error)
        return dict(sorted(reasons.items()))

    def with_classes(self, classes: Iterable[type[Trick]]) -> Catalog:
        """A catalog that also knows `classes`, by their names in snake case."""
        added = {self.name_of(trick): trick for trick in classes}
        return Catalog(self.entries, self.refused, {**self.classes, **added}, self.files)

    def with_file(self, path: str | Path) -> Catalog:
        """A catalog that also knows the tricks defined in a Python file. Runs the file.

        Raises:
            InputError: the file does not exist, does not run, or defines no trick.
        """
        path = Path(path).absolute()
        module = _module_of(path)
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Trick) and value.__module__ == module.__name__
        ]
        if not found:
            raise InputError(f"{path} defines no trick: a trick is a subclass of finetricks.Trick")
        for trick in found:
            try:
                check_hooks(trick)
            except TrickError as error:
                raise InputError(f"{path}: {error}") from error
        self._check_free(found, path)
        catalog = self.with_classes(found)
        return Catalog(catalog.entries, catalog.refused, catalog.classes, (*self.files, path))

    def _check_free(self, tricks: Iterable[type[Trick]], path: Path) -> None:
        """Raise `InputError` for a name that is taken: a recipe would silently get another trick than it says."""
        taken = {name: kind for name, kind in self.classes.items() if not _is_from(kind, path)}
        for trick in tricks:
            name = self.name_of(trick)
            if name in self.entries or name in taken:
                raise InputError(
                    f"{path} defines {name!r}, which is a trick of {self.origin_of(name)}; rename the class"
                )
            taken[name] = trick


@cache
def installed() -> Catalog:
    """The tricks that the installed distributions announce. Imports none of them."""
    claims: dict[str, dict[str, Entry]] = {}
    for point in entry_points(group=GROUP):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("an unknown distribution", "")
        # A distribution that is on the path twice (an editable install and its metadata) is one claim.
        claims.setdefault(point.name, {})[name] = Entry(point.name, name, version, point.value)
    entries = {name: next(iter(by.values())) for name, by in claims.items() if len(by) == 1}
    refused = {
        name: f"trick {name!r} is claimed by {' and by '.join(sorted(e.origin for e in by.values()))}; uninstall one"
        for name, by in claims.items()
        if len(by) > 1
    }
    return Catalog(entries, refused)


@cache
def _needs(distribution: str) -> SpecifierSet | None:
    try:
        needed = requires(distribution) or ()
        found = [Requirement(line) for line in needed]
    except (PackageNotFoundError, InvalidRequirement):
        return None
    return next((r.specifier for r in found if canonicalize_name(r.name) == "finetricks" and r.specifier), None)


def origin(trick: type[Trick]) -> str:
    """Where a class comes from: `distribution version`, or its file."""
    return installed().origin_of_class(trick)


def snake_case(name: str) -> str:
    """`SlantedTriangular` -> `slanted_triangular`, `AuxiliaryLM` -> `auxiliary_lm`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _module_of(path: Path) -> ModuleType:
    # The name is a function of the path, so that reading a file twice gives one module, and one class.
    name = f"finetricks_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"no such plugin file: {path} (a Python file that defines tricks)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        load(partial(spec.loader.exec_module, module), f"plugin file {path}")
    except LoadFailed as error:
        sys.modules.pop(name, None)
        raise InputError(f"plugin file {path} does not run: {error}") from error
    return module


def _is_from(trick: type[Trick], path: Path) -> bool:
    return getattr(sys.modules.get(trick.__module__), "__file__", None) == str(path)
