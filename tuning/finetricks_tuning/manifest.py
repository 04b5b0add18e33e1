"""What a study planned so far, `cells.json`: all that its report needs beside the ledger.

Written before the first cell of each round starts, so that a report can be made at any time, without the data, the
model or the tricks at hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from finetricks.atomic import write_atomically
from finetricks.errors import InputError, quoted
from finetricks.validation import first_of

FILE = "cells.json"
TUNE, START, COMPARE, CONFIRM = "tune", "start", "compare", "confirm"
"""What a cell is run for: to find its configuration's learning rate, to judge whether its seed goes on, for the
comparison, or on a fresh seed."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the plan: its key in the ledger, its configuration, its seed, and what it is run for."""

    key: str
    configuration: str
    seed: int
    phase: str = COMPARE


@dataclass(frozen=True)
class Manifest:
    """A study's plan.

    Attributes:
        study: as in study.yaml, every default filled in.
        configurations: the levels of each, by its name, baseline first.
        cells: in the order in which they are run.
        left_out: configurations that cannot be run: name and reason.
        greater_is_better: of the metric.
        valid_examples: how many examples the metric is computed on.
        points: the values that a search chose: by configuration, factor, and field or setting.
        warnings: what a reader of the results must know.
        command: what runs the study again.
        decisions: what was decided on the way, a sentence each.
        rates: the learning rate of each configuration, where the study tuned it.
        recommendation: as `Recommendation.to_dict`, before it is confirmed; `None` where there is none (yet).
        ended: why there is nothing more to run; empty while there is.
        regularisers: the tricks that it compares which hold a model back from fitting its training examples.
        loss_of_the_shares: the training loss of knowing only the classes' shares; `None` where the loss is another.
    """

    study: Mapping[str, Any]
    configurations: Mapping[str, Mapping[str, str]]
    cells: tuple[PlannedCell, ...]
    left_out: tuple[Mapping[str, str], ...]
    greater_is_better: bool
    valid_examples: int
    points: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: str = ""
    decisions: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    recommendation: Mapping[str, Any] | None = None
    ended: str = ""
    regularisers: tuple[str, ...] = ()
    loss_of_the_shares: Annotated[float, Field(ge=0, le=100)] | None = None

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises `InputError` when the folder holds no study."""
        path = folder / FILE
        if not os.path.isfile(path):  # of a name that is too long, too
            raise InputError(f"{folder} holds no study ({FILE} is missing); `finetricks sweep` writes one")
        try:
            found = _MANIFEST.validate_json(path.read_bytes(), strict=True)
            _STUDY.validate_python(found.study)
            _RECOMMENDATION.validate_python(found.recommendation)
            told = found._inconsistent()
        except ValidationError as error:
            told = first_of(error)
        except OSError as error:
            told = error.strerror or str(error)
        if told:
            raise InputError(f"{path} cannot be read ({told}); run `finetricks sweep --resume` again")
        return found

    def _inconsistent(self) -> str:
        """Why its parts do not go together; empty where they do."""
        if not self.configurations:
            return "it names no configuration"
        factors = set(next(iter(self.configurations.values())))
        for name, levels in self.configurations.items():
            if set(levels) != factors:
                return f"the configuration {quoted(name)} has other factors than the first"
        for cell in self.cells:  # those that confirm may be of a combination that was not compared
            if cell.configuration not in self.configurations and cell.phase != CONFIRM:
                return f"it has cells of {quoted(cell.configuration)}, which is none of its configurations"
        if self.recommendation and self.recommendation["configuration"] == next(iter(self.configurations)):
            return "it recommends the baseline"
        return ""


@dataclass(frozen=True)
class _Recommendation:
    """As `Recommendation.to_dict` gives it, before it is confirmed."""

    configuration: str
    tricks: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...]
    effect: None = None


@dataclass(frozen=True)
class _Study:
    """What a report needs of the study, whatever else it says."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    seeds: list[int]
    metric: str
    alpha: Annotated[float, Field(gt=0, lt=1)]
    design: Any


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
_STUDY: TypeAdapter[_Study] = TypeAdapter(_Study)
_RECOMMENDATION: TypeAdapter[_Recommendation | None] = TypeAdapter(_Recommendation | None)
