"""Is the installation sound, and the training of a recipe? One file a check, each of which gives findings.

A check of the installation is given the catalog; those that look at training stand in `training.py`, and are given a
`Case`. A new one is a file here and its line in one of the two lists. Other distributions add checks of the
installation by entry points of the group `finetricks.doctor`: the entry point's name is the check's.

Nothing here imports torch before a check needs it: where that does not load, it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from finetricks.doctor.finding import Finding, Level, look, ok, wrong
from finetricks.doctor.gpu import check_gpu
from finetricks.doctor.plugins import check_plugins
from finetricks.doctor.space import check_space
from finetricks.doctor.threads import check_threads
from finetricks.doctor.versions import check_versions
from finetricks.errors import InputError, in_words

if TYPE_CHECKING:
    from finetricks.catalog import Catalog

    Check = Callable[[Catalog], Iterable[Finding]]

__all__ = ["INSTALLATION", "Finding", "Level", "examine", "look", "ok", "wrong"]

INSTALLATION: Mapping[str, Check] = {
    "versions": check_versions,
    "gpu": check_gpu,
    "threads": check_threads,
    "space": check_space,
    "plugins": check_plugins,
}

Subject = TypeVar("Subject")


def examine(check: Callable[[Subject], Iterable[Finding]], subject: Subject) -> Iterator[Finding]:
    """The findings of one check; a check that fails is a finding itself.

    Raises:
        InputError: what is examined is wrong input: a recipe that asks for what its model does not have, say.
    """
    try:
        yield from check(subject)
    except InputError:
        raise
    except Exception as error:
        yield wrong(f"the check could not be made: {in_words(error)}", "mend what is named, and ask again")
