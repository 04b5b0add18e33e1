"""From pydantic's errors to problems that a user can mend: place, what was given, what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from finetricks.errors import Problem, suggest
from finetricks.yaml_file import Loc

Place = Callable[[Loc], str]


def problems_of(error: ValidationError, model: type[BaseModel], given: Any, prefix: Loc, place: Place) -> list[Problem]:
    """One problem for each value that is wrong, however many types it was tried as."""
    by_loc: dict[Loc, list[str]] = {}
    for details in error.errors():
        loc = _within(details["loc"], given, details["type"] == "missing")
        messages = by_loc.setdefault(loc, [])
        message = _message(details, model)
        if message not in messages:
            messages.append(message)
    problems = []
    order = list(given)
    for loc in sorted(by_loc, key=lambda loc: order.index(loc[0]) if loc and loc[0] in order else -1):
        messages, value = by_loc[loc], _at(given, loc)
        shown = "" if value is _ABSENT or isinstance(value, Mapping) else f", got {value!r}"
        if messages[0].startswith(("unknown key", "is missing")):
            shown = ""
        problems.append(Problem(place((*prefix, *loc)), f"{' or '.join(messages)}{shown}"))
    return problems


_ABSENT = object()


def _within(loc: tuple[str | int, ...], given: Any, missing: bool) -> Loc:
    # pydantic names the branches of a union within the place; keep only what leads to a value that was given.
    kept: list[str | int] = []
    for part in loc:
        if _at(given, (*kept, part)) is not _ABSENT or (missing and part == loc[-1]):
            kept.append(part)
        else:
            break
    return tuple(kept)


def _at(given: Any, loc: Loc) -> Any:
    for part in loc:
        if isinstance(given, Mapping) and part in given:
            given = given[part]
        elif isinstance(given, Sequence) and not isinstance(given, str) and isinstance(part, int) and part < len(given):
            given = given[part]
        else:
            return _ABSENT
    return given


def _message(details: Any, model: type[BaseModel]) -> str:
    key = str(details["loc"][-1]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        known = list(model.model_fields)
        listed = f"the keys are {', '.join(known)}" if known else "it takes no values"
        return f"unknown key {key!r}{suggest(key, known)}; {listed}"
    if details["type"] == "missing":
        return (
            f"is missing: {model.model_fields[key].description or 'give it'}"
            if key in model.model_fields
            else "is missing"
        )
    message = str(details["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]
