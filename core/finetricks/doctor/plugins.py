"""Which plugins do not load, and why?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from finetricks import __version__
from finetricks.cli.extensions import CHECKERS, COMMANDS, DOCTOR
from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.loading import LoadFailed, load

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

GROUPS = {COMMANDS: "command", CHECKERS: "checker", DOCTOR: "check"}


def check_plugins(catalog: Catalog) -> Iterator[Finding]:
    mend = "update, mend or uninstall the distribution that is named; everything else works without it"
    broken = [*catalog.broken().values(), *_broken_extensions()]
    for reason in broken:
        yield wrong(reason, mend)
    others = {
        catalog.origin_of(name): versions
        for name in catalog.names()
        if (versions := catalog.written_for(name)) and not _fits(versions)
    }
    for origin, versions in others.items():
        yield look(
            f"{origin} was written for finetricks {versions}, and this is {__version__}",
            "look for another version of it",
        )
    if not broken and not others:
        origins = dict.fromkeys(catalog.origin_of(name) for name in catalog.names())
        yield ok(f"{len(catalog.names())} tricks load, of {', '.join(origins)}")


def _broken_extensions() -> Iterator[str]:
    for group, kind in GROUPS.items():
        for point in entry_points(group=group):
            who = f"the {kind} {point.name!r} of {f'{point.dist.name} {point.dist.version}' if point.dist else '?'}"
            try:
                load(point.load, who, point.module)
            except LoadFailed as error:
                yield f"{who} does not load: {error}"


def _fits(versions: SpecifierSet) -> bool:
    return versions.contains(__version__, prereleases=True)
