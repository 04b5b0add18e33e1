"""Reads the design of a study file: a name, or `{name: {option: value}}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from finetricks.errors import InputError, Problem, quoted, suggest
from finetricks.validation import problems_of
from finetricks.yaml_file import Loc
from finetricks_tuning.designs import DESIGNS, Design
from finetricks_tuning.designs.base import ranges
from finetricks_tuning.designs.search import Search
from finetricks_tuning.factors import Factor

FORMS = f"{', '.join(DESIGNS)}, or {{random: {{configurations: 20}}}}"


def read_design(given: Any, place: Callable[[Loc], str], problems: list[Problem]) -> Design | None:
    """The design that `given` names; `None`, with what is wrong added to `problems`, if it names none."""
    name, options = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, None)
    if not isinstance(name, str) or name not in DESIGNS:
        near = suggest(name, DESIGNS) if isinstance(name, str) else ""
        problems.append(Problem(place(("design",)), f"no such design{near}; give {FORMS}, got {quoted(given)}"))
        return None
    if not isinstance(options, Mapping | None):
        problems.append(Problem(place(("design", name)), f"options by name, got {quoted(options)}"))
        return None
    try:
        return DESIGNS[name].model_validate(dict(options or {}))
    except ValidationError as error:
        problems += problems_of(error, DESIGNS[name], options or {}, ("design", name), place)
        return None


def check_design(
    design: Design, factors: Sequence[Factor], place: Callable[[Loc], str], problems: list[Problem]
) -> None:
    """Add to `problems` why the design cannot hold the factors."""
    mistakes = [*(() if design.name == Search.name else ranges(factors)), *design.mistakes(factors)]
    problems += [Problem(place(loc), message) for loc, message in mistakes]


def design_of(study: Mapping[str, Any]) -> Design:
    """The design of a study as it stands in study.yaml. Raises `InputError` when it is none."""
    problems: list[Problem] = []
    design = read_design(study["design"], lambda loc: ".".join(map(str, loc)), problems)
    if design is None:
        raise InputError(problems)
    return design
