"""What a checkpoint was made with: versions, and the source of its tricks.

A trick whose source has changed computes something else: its checkpoints are refused. Another version of anything whose
source is the same, or of a library, is only said: an unrelated upgrade must not cost a run.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from finetricks.catalog import installed
from finetricks.errors import CheckpointError, InputError
from finetricks.libraries import MODELS, versions_of_libraries
from finetricks.source import hash_of_trick
from finetricks.stack import Named
from finetricks.trick import Trick

logger = logging.getLogger(__name__)


def made_with(tricks: Iterable[Named]) -> dict[str, Any]:
    """JSON values: `versions` by library, and for each of `tricks` where it is `from` and the hash of its `source`.

    The hash is empty where there is no source to be found (of a class that was typed into an interpreter).
    """
    catalog = installed()
    own = {
        name: {"from": catalog.origin_of_class(type(trick)), "source": _source(type(trick))} for name, trick in tricks
    }
    return {"versions": {"python": platform.python_version(), **versions_of_libraries()}, "tricks": own}


def same_libraries(there: Any, here: Mapping[str, Any]) -> bool:
    """Whether the libraries that say what a model is made of are of the same versions, as far as that is known."""
    versions = _mapping(there, "versions") if isinstance(there, Mapping) else {}
    return all(versions.get(name, here["versions"][name]) == here["versions"][name] for name in MODELS)


def check_made_with(there: Any, here: Mapping[str, Any]) -> None:
    """Compare what a checkpoint was made with to what would go on from it. Says what differs without harm.

    Raises:
        CheckpointError: the source of a trick differs.
    """
    there = there if isinstance(there, Mapping) else {}
    known, versions = _mapping(there, "tricks"), _mapping(there, "versions")
    edited, moved = [], []
    for name, now in here["tricks"].items():
        before = _mapping(known, name)
        origins = f"{before.get('from')} there, {now['from']} here"
        if before.get("source") and now["source"] and before["source"] != now["source"]:
            edited.append(f"the source of {name} ({origins})")
        elif (
            before
            and before.get("from") != now["from"]
            and not (_is_file(before.get("from")) and _is_file(now["from"]))
        ):
            moved.append(f"{name}: {origins}")
    if edited:
        raise CheckpointError(
            f"the checkpoint was made with other tricks; what differs: {'; '.join(edited)}. Bring the source back to "
            "go on (install the version that it was made with), or begin anew (on the command line with --overwrite); "
            "the weights alone can be taken from it"
        )
    moved += [
        f"{name}: {versions[name]} there, {now} here"
        for name, now in here["versions"].items()
        if name in versions and versions[name] != now
    ]
    if moved:
        logger.warning(
            "the checkpoint was made with other versions, so what comes of it may differ in the last bits: %s",
            "; ".join(moved),
        )


@cache
def _source(trick: type[Trick]) -> str:
    try:
        return hash_of_trick(trick)
    except (InputError, ImportError, OSError, SyntaxError, ValueError):
        return ""


def _is_file(origin: Any) -> bool:
    """Whether a trick is from a plugin file, which may lie elsewhere in each worker."""
    return isinstance(origin, str) and Path(origin).is_absolute()


def _mapping(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, Mapping) else {}
