"""How a trick stands beside the others that are installed."""

from __future__ import annotations

from functools import lru_cache

from pydantic import ValidationError

from finetricks.catalog import installed
from finetricks.errors import FinetricksError, InputError, TrickError
from finetricks.recipe import Recipe
from finetricks.stack import Named, conflicts
from finetricks.testing.bench import TRAINING, Bench, train
from finetricks.testing.check import Wrong, check
from finetricks.testing.subject import Subject, finite
from finetricks.trick import Trick, search_space

SHORTEST_REASON = 20
"""Characters of a reason that says something."""


@check(after=("same_seed",))
def check_beside_each(subject: Subject) -> None:
    """It trains beside each trick that is installed, or is refused with a reason.

    Left out are those that need values of their own, and those that cannot act on the bench alone.
    """
    for name in installed().names():
        other = _default(name)
        if other is None or name == subject.name or name in subject.required:
            continue
        try:
            check_pair(subject, (name, other))
        except Exception:
            if _acts_alone(subject.bench, name):
                raise


def check_pair(subject: Subject, other: Named) -> None:
    """The trick and another train together, or are refused with a reason."""
    name, trick = other
    reasons = [subject.kind.conflicts.get(name), type(trick).conflicts.get(subject.name)]
    for reason in reasons:
        if reason is not None and len(reason) < SHORTEST_REASON:
            raise Wrong(f"beside {name!r} it is refused without a reason: {reason!r}; say in `conflicts` why")
    if conflicts([subject.named, other]):
        return
    recipe = Recipe(tricks=[*subject.required, subject.trick, trick], training=TRAINING)
    try:
        session = subject.bench.bound(recipe)
        train(session, steps=2)
    except InputError:  # refused on this model, in words of the trick or of the core
        return
    except Exception as error:
        error.add_note(f"beside {name!r}; if they exclude one another, say why in `conflicts` of the class")
        raise
    for parameter, value in session.model.named_parameters():
        if not finite(value):
            raise Wrong(f"beside {name!r} the weight {parameter!r} is not finite after 2 steps")


def _default(name: str) -> Trick | None:
    """The trick at its defaults, and at the first value to try where it has none; `None` if that is not enough."""
    try:
        kind = installed().get(name)
        space = search_space(kind)
        needed = {field for field, info in kind.model_fields.items() if info.is_required()}
        return kind(**{field: space[field][0] for field in needed if field in space})
    except (InputError, TrickError, ValidationError):
        return None


@lru_cache(maxsize=1024)
def _acts_alone(bench: Bench, name: str) -> bool:
    trick = _default(name)
    assert trick is not None
    try:
        train(bench.bound(Recipe(tricks=[trick], training=TRAINING)), steps=1)
    except FinetricksError:
        return False
    return True
