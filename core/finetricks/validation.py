"""From pydantic's errors to problems that a user can mend: place, what was given, what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler

from finetricks.errors import Problem, quoted, shortened, suggest
from finetricks.yaml_file import Loc

Place = Callable[[Loc], str]


def problems_of(error: ValidationError, model: type[BaseModel], given: Any, prefix: Loc, place: Place) -> list[Problem]:
    """One problem for each value that is wrong, however many types it was tried as."""
    by_loc: dict[Loc, list[str]] = {}
    found = error.errors()
    for details in found:
        if details["type"] == "too_short" and any(_is_inside(other["loc"], details["loc"]) for other in found):
            continue  # pydantic counts the items that are right: none where the only one is wrong
        loc = _within(details["loc"], given, details["type"] == "missing")
        messages = by_loc.setdefault(loc, [])
        message = _message(details, model)
        if message not in messages:
            messages.append(message)
    problems = []
    order = list(given)
    for loc in sorted(by_loc, key=lambda loc: order.index(loc[0]) if loc and loc[0] in order else -1):
        messages, value = by_loc[loc], at(given, loc)
        got = "" if value is ABSENT or isinstance(value, Mapping) else f", got {quoted(value)}"
        if messages[0].startswith(("unknown key", "is missing")):
            got = ""
        problems.append(Problem(place((*prefix, *loc)), f"{' or '.join(messages)}{got}"))
    return problems


def first_of(error: ValidationError) -> str:
    """The first thing that is wrong with a record, on a line: `cells.0.seed: input should be a valid integer`."""
    details = error.errors(include_url=False, include_input=False)[0]
    place = shortened(".".join(str(part) for part in details["loc"]))
    told = shortened(details["msg"][:1].lower() + details["msg"][1:], 200)
    return f"{place}: {told}" if place else told


def no_flag_for_a_number(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A wrap validator for all fields: pydantic alone takes `true` for 1."""
    taken = validate(value)
    if isinstance(value, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
        raise ValueError("a number, not true or false")
    return taken


def _is_inside(loc: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


ABSENT: Any = object()


def _within(loc: tuple[str | int, ...], given: Any, missing: bool) -> Loc:
    # pydantic names the branches of a union within the place; keep only what leads to a value that was given.
    kept: list[str | int] = []
    for part in loc:
        if at(given, (*kept, part)) is not ABSENT or (missing and part == loc[-1]):
            kept.append(part)
        else:
            break
    return tuple(kept)


def at(given: Any, loc: Loc) -> Any:
    """What stands at a place within mappings and sequences; `ABSENT` where nothing does."""
    for part in loc:
        if isinstance(given, Mapping) and part in given:
            given = given[part]
        elif isinstance(given, Sequence) and not isinstance(given, str) and isinstance(part, int) and part < len(given):
            given = given[part]
        else:
            return ABSENT
    return given


def _message(details: Any, model: type[BaseModel]) -> str:
    key = str(details["loc"][-1]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        known = list(model.model_fields)
        listed = f"the keys are {', '.join(known)}" if known else "it takes no values"
        return f"unknown key {quoted(key)}{suggest(key, known)}; {listed}"
    if details["type"] == "missing":
        return (
            f"is missing: {model.model_fields[key].description or 'give it'}"
            if key in model.model_fields
            else "is missing"
        )
    message = str(details["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:] or "is not what it should be"
