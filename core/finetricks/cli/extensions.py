"""What other distributions add to the command line, announced by entry points of three groups.

`finetricks.commands`: the entry point's name is a command, its object a function with typer's annotations. It is loaded
for `finetricks --help`, so its module imports nothing heavy.

`finetricks.checkers`: the entry point's name is a key that tells a kind of file from a recipe (`recipe` and `factors`
for a study), its object a function that `finetricks check` calls with the file, the overrides and the catalog. It gives
what a user may want to see of a good file, by name, and raises `InputError` for a bad one.

`finetricks.doctor`: the entry point's name is that of a check of the installation, its object a function that
`finetricks doctor` calls with the catalog, and that gives `finetricks.doctor.Finding`s.

What does not load, or is claimed twice, is warned of with its distribution and takes only itself down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.cli.console import warn
from finetricks.loading import LoadFailed
from finetricks.loading import load as load_in_time

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

    Checker = Callable[[Path, Sequence[str], Catalog], Mapping[str, str]]

COMMANDS = "finetricks.commands"
CHECKERS = "finetricks.checkers"
DOCTOR = "finetricks.doctor"


def announced(group: str, taken: Collection[str] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group by name, without those that are `taken` or contested. Imports none of them."""
    claims: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        # A distribution that is on the path twice (an editable install and its metadata) is one claim.
        claims.setdefault(point.name, {})[_distribution(point)] = point
    found = {}
    for name, by in sorted(claims.items()):
        claimants = " and ".join(sorted(by))
        if name in taken:
            warn(f"{name!r} of {claimants} is left out: finetricks has a {name!r} of its own")
        elif len(by) > 1:
            warn(f"{name!r} is left out: {claimants} both announce it in {group}; uninstall one")
        else:
            found[name] = next(iter(by.values()))
    return found


def load(point: EntryPoint) -> Callable[..., Any] | None:
    """What an entry point names; `None`, with a warning, if that cannot be imported."""
    who = f"{point.name!r} of {_distribution(point)}"
    try:
        loaded: Callable[..., Any] = load_in_time(point.load, who, point.module)
    except LoadFailed as error:
        warn(f"{who} does not load: {error}")
        return None
    return loaded


def checker_of(content: Any) -> Checker | None:
    """Who checks a file with this content; `None` for a recipe."""
    if not isinstance(content, Mapping):
        return None
    point = next((point for name, point in announced(CHECKERS).items() if name in content), None)
    return load(point) if point else None


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
