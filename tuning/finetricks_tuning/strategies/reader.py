"""Reads the strategy of a study file: a name, or `{name: {option: value}}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from finetricks.errors import InputError, Problem, quoted, suggest
from finetricks.validation import problems_of
from finetricks.yaml_file import Loc
from finetricks_tuning.strategies import STRATEGIES, Strategy

FORMS = f"{', '.join(STRATEGIES)}, or {{name: {{option: value}}}}"


def read_strategy(given: Any, place: Callable[[Loc], str], problems: list[Problem]) -> Strategy | None:
    """The strategy that `given` names; `None`, with what is wrong added to `problems`, if it names none."""
    name, options = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, None)
    if not isinstance(name, str) or name not in STRATEGIES:
        near = suggest(name, STRATEGIES) if isinstance(name, str) else ""
        problems.append(Problem(place(("strategy",)), f"no such strategy{near}; give {FORMS}, got {quoted(given)}"))
        return None
    if not isinstance(options, Mapping | None):
        problems.append(Problem(place(("strategy", name)), f"options by name, got {quoted(options)}"))
        return None
    try:
        return STRATEGIES[name].model_validate(dict(options or {}))
    except ValidationError as error:
        problems += problems_of(error, STRATEGIES[name], options or {}, ("strategy", name), place)
        return None


def strategy_of(study: Mapping[str, Any]) -> Strategy:
    """The strategy of a study as it stands in study.yaml. Raises `InputError` when it is none."""
    problems: list[Problem] = []
    strategy = read_strategy(study.get("strategy", "full"), lambda loc: ".".join(map(str, loc)), problems)
    if strategy is None:
        raise InputError(problems)
    return strategy
