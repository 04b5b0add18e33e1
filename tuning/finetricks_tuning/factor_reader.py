"""Reads the factors of a study file, and notes every problem instead of stopping at the first."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from finetricks.catalog import UnknownTrick
from finetricks.errors import Problem, quoted, suggest
from finetricks.recipe import Recipe
from finetricks.settings import Training
from finetricks.trick import Trick
from finetricks.validation import problems_of
from finetricks.yaml_file import Document, Loc
from finetricks_tuning.configurations import MOST
from finetricks_tuning.factors import OFF, Factor, Level, Range, label_of, shown

ONE_OF = "one_of"
NOT_FACTORS = {
    "seed": "the study's own `seeds` vary it",
    "checkpoint": "it changes nothing of the result",
    "threads": "`cpus_per_cell` sets it",
}
SETTINGS = ("model", *(f"training.{name}" for name in Training.model_fields if name not in NOT_FACTORS))
FORMS = "a trick's name, {trick: {key: value}}, {one_of: [...]}, or {training.learning_rate: {values: [...]}}"


class FactorReader:
    """Turns the entries under `factors:` into factors.

    Args:
        document: the study, for places and relative paths.
        base: the study's recipe; `None` when it could not be read, and what depends on it is then not checked.
        problems: where problems are noted.
    """

    def __init__(
        self,
        document: Document,
        base: Recipe | None,
        get: Callable[[str], type[Trick]],
        name_of: Callable[[type[Trick]], str],
        problems: list[Problem],
    ) -> None:
        self.document = document
        self.base = base
        self.get = get
        self.name_of = name_of
        self.problems = problems

    def note(self, loc: Loc, message: str) -> None:
        self.note_problem(Problem(self.document.place(loc), message))

    def note_problem(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def read(self, given: Any) -> tuple[Factor, ...]:
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            self.note(("factors",), f"a list of at least one factor: {FORMS}; got {quoted(given)}")
            return ()
        factors = []
        seen: dict[str, int] = {}
        in_base = {name for name, _ in self.base.tricks} if self.base else set()
        for index, entry in enumerate(given):
            factor = self._factor(("factors", index), entry)
            if factor is None:
                continue
            for name in factor.trick_names or (factor.name,):
                if name in in_base:
                    self.note(
                        ("factors", index),
                        f"{name} is in the recipe already, so it is in every configuration; "
                        "take it out of the recipe, or out of the factors",
                    )
                if name in seen:
                    self.note(("factors", index), f"{name} is a factor twice: here and as factor {seen[name] + 1}")
                seen.setdefault(name, index)
            factors.append(factor)
        return tuple(factors)

    def _factor(self, loc: Loc, entry: Any) -> Factor | None:
        if isinstance(entry, Trick):
            name = self.name_of(type(entry))
            return self._of_levels(name, [self._level(name, entry)], loc, entry)
        if isinstance(entry, str):
            name, values = entry, None
        elif isinstance(entry, Mapping) and len(entry) == 1:
            name, values = next(iter(entry.items()))
        else:
            self.note(loc, f"{FORMS}; got {quoted(entry)}")
            return None
        if name == ONE_OF:
            return self._one_of(loc, values)
        if name == "model" or (isinstance(name, str) and "." in name):
            return self._setting(loc, name, values)
        return self._of_levels(name, self._trick(loc, name, values), loc, entry)

    def _of_levels(self, name: str, levels: Sequence[Level], loc: Loc, entry: Any) -> Factor | None:
        self._no_level_twice(levels, loc)
        return Factor(name, Level(OFF), tuple(levels), self._plain(entry)) if levels else None

    def _one_of(self, loc: Loc, given: Any) -> Factor | None:
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
            self.note((*loc, ONE_OF), f"a list of at least two tricks, got {quoted(given)}")
            return None
        levels: list[Level] = []
        names: list[str] = []
        for index, entry in enumerate(given):
            part = self._factor((*loc, ONE_OF, index), entry)
            if part is not None and not part.trick_names:
                self.note((*loc, ONE_OF, index), f"one_of is for tricks; {part.name} is a setting")
            elif part is not None:
                levels += part.levels
                names += part.trick_names
        return self._of_levels(" | ".join(dict.fromkeys(names)), levels, loc, {ONE_OF: given})

    def _trick(self, loc: Loc, name: Any, given: Any) -> list[Level]:
        if not isinstance(name, str) or not (given is None or isinstance(given, Mapping)):
            self.note(loc, f"{FORMS}; got {quoted({name: given})}")
            return []
        try:
            kind = self.get(name)
        except UnknownTrick as error:
            self.note((*loc, name), str(error))
            return []
        given = given or {}
        wanted = [key for key, values in given.items() if _is_range(values)]
        ranges = {key: of for key in wanted if (of := self._range((*loc, name, key), given[key]))}
        if len(ranges) < len(wanted):
            return []
        ends = [{key: getattr(of, end) for key, of in ranges.items()} for end in ("high", "low")] if ranges else [{}]
        levels: list[Level] = []
        for end in ends:  # both are checked, and the last kept
            levels = self._values(loc, name, kind, given | end, ranges)
        return levels

    def _values(
        self, loc: Loc, name: str, kind: type[Trick], given: Mapping[str, Any], ranges: Mapping[str, Range]
    ) -> list[Level]:
        axes = [[(key, index, value) for index, value in _choices(values)] for key, values in given.items()]
        for (key, values), axis in zip(given.items(), axes, strict=True):
            if not axis:
                self.note(
                    (*loc, name, key), f"`values` is a list of at least one value, got {quoted(values['values'])}"
                )
        if (there := math.prod(len(axis) for axis in axes)) > MOST:
            self.note((*loc, name), f"these values have {there:,} combinations, at most {MOST:,} are taken; list fewer")
            return []
        levels = []
        for combination in itertools.product(*axes):
            values = {key: value for key, _, value in combination}
            index = {key: index for key, index, _ in combination}
            try:
                context = {"folder": self.document.folder, "must_exist": True}
                levels.append(self._level(name, kind.model_validate(values, context=context), values, ranges))
            except ValidationError as error:
                for problem in problems_of(error, kind, values, (*loc, name), self._place_within(len(loc) + 1, index)):
                    self.note_problem(problem)
        return levels

    def _range(self, loc: Loc, given: Mapping[str, Any]) -> Range | None:
        try:
            return Range.model_validate(dict(given))
        except ValidationError as error:
            for problem in problems_of(error, Range, given, loc, self.document.place):
                self.note_problem(problem)
            return None

    def _place_within(self, depth: int, index: Mapping[str, int | None]) -> Callable[[Loc], str]:
        def place(loc: Loc) -> str:
            key = loc[depth] if len(loc) > depth else None
            at = index.get(key) if isinstance(key, str) else None
            return self.document.place(loc if at is None else (*loc[: depth + 1], "values", at, *loc[depth + 1 :]))

        return place

    def _level(
        self,
        name: str,
        trick: Trick,
        values: Mapping[str, Any] | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> Level:
        given, ranges = _given(trick) if values is None else values, ranges or {}
        label = label_of(name, {key: str(ranges[key]) if key in ranges else value for key, value in given.items()})
        fixed = {key: value for key, value in given.items() if key not in ranges}
        return Level(label, ((name, trick),), ranges=ranges, fixed=fixed if ranges else {})

    def _setting(self, loc: Loc, path: str, given: Any) -> Factor | None:
        if path not in SETTINGS:
            reason = NOT_FACTORS.get(path.removeprefix("training."))
            because = f": {reason}" if reason else suggest(path, SETTINGS)
            self.note(
                (*loc, path), f"{quoted(path)} cannot be a factor{because}; settings that can: {', '.join(SETTINGS)}"
            )
            return None
        if _is_range(given):
            return self._range_of_setting((*loc, path), path, given)
        values = given.get("values") if isinstance(given, Mapping) and len(given) == 1 else None
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            self.note((*loc, path), f"write it as {path}: {{values: [...]}}, got {quoted(given)}")
            return None
        if self.base is None:
            return None
        checked = [self._value((*loc, path, "values", index), path, value) for index, value in enumerate(values)]
        own = self.base.model if path == "model" else getattr(self.base.training, path.removeprefix("training."))
        levels = [self._of_setting(path, value) for value in checked if value is not None]
        off = self._of_setting(path, own)
        others = [level for level in levels if not level.same_as(off)]
        self._no_level_twice(others, loc)
        if levels and not others:
            self.note((*loc, path), f"the only value is the recipe's own, {shown(own)}; give at least one other")
        written = self._plain({path: {"values": [level.settings[path] for level in others]}})
        return Factor(path, off, tuple(others), written) if others else None

    def _range_of_setting(self, loc: Loc, path: str, given: Mapping[str, Any]) -> Factor | None:
        if path in ("model", "training.max_length"):  # each value has data of its own
            self.note(loc, f"{path} is listed: {path}: {{values: [...]}}")
            return None
        searched = self._range(loc, given)
        if self.base is None or searched is None:
            return None
        for key, value in (("low", searched.low), ("high", searched.high)):
            if self._value((*loc, key), path, value) is None:
                return None
        off = self._of_setting(path, getattr(self.base.training, path.removeprefix("training.")))
        level = Level(f"{path}={searched}", settings={path: searched.low}, ranges={path: searched})
        return Factor(path, off, (level,), {path: dict(given)})

    def _of_setting(self, path: str, value: Any) -> Level:
        return Level(f"{path}={shown(value)}", settings={path: value})

    def _value(self, loc: Loc, path: str, value: Any) -> Any:
        """The value as the recipe would hold it; `None`, with a problem noted, when it cannot."""
        if path == "model":
            if not isinstance(value, str) or not value.strip():
                self.note(loc, f"a Hub name, a local folder, or a packaged model, got {quoted(value)}")
                return None
            folder = self.document.folder / os.path.expanduser(value)
            return os.path.realpath(folder) if os.path.isdir(folder) else value
        key = path.removeprefix("training.")
        try:
            return getattr(Training.model_validate({key: value}), key)
        except ValidationError as error:
            for problem in problems_of(error, Training, {key: value}, (), lambda _: self.document.place(loc)):
                self.note(loc, problem.message)
            return None

    def _plain(self, entry: Any) -> Any:
        """A factor as JSON values."""
        if isinstance(entry, Trick):
            return {self.name_of(type(entry)): _given(entry)}
        if isinstance(entry, Mapping):
            return {key: self._plain(value) for key, value in entry.items()}
        if isinstance(entry, list | tuple):
            return [self._plain(value) for value in entry]
        return entry

    def _no_level_twice(self, levels: Sequence[Level], loc: Loc) -> None:
        for index, level in enumerate(levels):
            twin = next((other for other in levels[:index] if level.same_as(other)), None)
            if twin is not None:
                self.note(loc, f"{level.label} and {twin.label} are the same; a level stands once")


def _given(trick: Trick) -> dict[str, Any]:
    return trick.model_dump(mode="json", exclude_defaults=True)


def _is_range(values: Any) -> bool:
    return isinstance(values, Mapping) and not {"low", "high"}.isdisjoint(values)


def _choices(values: Any) -> list[tuple[int | None, Any]]:
    """The values to try for a field, each with its index under `values`; a plain value is its own only choice."""
    if isinstance(values, Mapping) and set(values) == {"values"}:
        listed = values["values"]
        return list(enumerate(listed)) if isinstance(listed, Sequence) and not isinstance(listed, str) else []
    return [(None, values)]
