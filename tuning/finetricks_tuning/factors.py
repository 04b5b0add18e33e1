"""What a study varies: factors, each with an off level and one or more others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetricks.stack import Named

OFF = "off"


@dataclass(frozen=True)
class Level:
    """One setting of a factor: tricks that are added to the recipe, or settings that replace the recipe's own.

    Attributes:
        label: what stands in names and tables: `stlr`, `discriminative_lr(decay=2.6)`, `training.epochs=5`.
        tricks: names and configured instances.
        settings: values by dotted path (`training.learning_rate`, `model`).
    """

    label: str
    tricks: tuple[Named, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

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
