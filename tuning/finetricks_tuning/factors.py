"""What a study varies: factors, each with an off level and one or more others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator

from finetricks.settings import Settings
from finetricks.stack import Named

OFF = "off"


Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""A whole number that Optuna can draw."""


class Range(Settings):
    """Values to search: all from `low` to `high`, both among them; whole numbers where both are."""

    low: Whole | float
    high: Whole | float
    log: bool = Field(default=False, description="Whether they are drawn evenly on a logarithmic scale.")

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"`low` is below `high`, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"on a logarithmic scale `low` is above 0, got {self.low}")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        return f"{shown(self.low)}..{shown(self.high)}"


@dataclass(frozen=True)
class Level:
    """One setting of a factor: tricks that are added to the recipe, or settings that replace the recipe's own.

    Attributes:
        label: what stands in names and tables: `stlr`, `discriminative_lr(decay=2.6)`, `training.epochs=5`.
        tricks: names and configured instances.
        settings: values by dotted path (`training.learning_rate`, `model`).
        ranges: values to search, by the trick's field or the setting's path; such a level is run only `at` some.
        fixed: the values beside those of the ranges that were given to its trick.
        of: the label of the level that this is one point of; empty for any other.
        searched: the values of this point.
    """

    label: str
    tricks: tuple[Named, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    searched: Mapping[str, float] = field(default_factory=dict)

    def at(self, values: Mapping[str, float]) -> Level:
        """The level with these values in place of its ranges."""
        if not self.tricks:
            ((path, value),) = values.items()
            return Level(f"{path}={shown(value)}", settings=dict(values), of=self.label, searched=values)
        ((name, trick),) = self.tricks
        given = trick.model_dump(exclude_unset=True) | dict(values)
        label = label_of(name, dict(self.fixed) | dict(values))
        return Level(label, ((name, type(trick).model_validate(given)),), of=self.label, searched=values)

    def same_as(self, other: Level) -> bool:
        """Whether both do the same to a recipe, however they are written."""
        return self.tricks == other.tricks and self.settings == other.settings


@dataclass(frozen=True)
class Factor:
    """A name, the level at which the recipe is left as it is, and the levels to compare with it.

    `given` is the factor as a study file would write it, in plain JSON values.
    """

    name: str
    off: Level
    levels: tuple[Level, ...]
    given: Any

    @property
    def trick_names(self) -> tuple[str, ...]:
        """The tricks that any of the levels adds, each once."""
        return tuple(dict.fromkeys(name for level in self.levels for name, _ in level.tricks))


def shown(value: Any) -> str:
    """A value as it stands in labels: `10` for 10 and 10.0, `0.0001`, `adamw`, `[1, 2]`."""
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else json.dumps(value, default=str)


def label_of(name: str, values: Mapping[str, Any]) -> str:
    """`stlr`, or with the values that were given `stlr(ratio=10)`."""
    inside = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
    return f"{name}({inside})" if inside else name
