"""The learning curves of a study's cells, from the folders that they were run in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from finetricks.folder import METRICS
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import Value
from finetricks_tuning.manifest import COMPARE, Manifest


def learning_curves(folder: Path, manifest: Manifest, names: Iterable[str]) -> dict[str, dict[float, list[float]]]:
    """By configuration and epoch, the metric on valid of each seed.

    Only cells of the comparison; what a cell has not written (yet), or cannot be read, is left out. Configurations
    with fewer than two evaluations have no curve.
    """
    metric = manifest.study["metric"]
    found: dict[str, dict[float, list[float]]] = {name: defaultdict(list) for name in names}
    for cell in manifest.cells:
        if cell.phase == COMPARE and cell.configuration in found:
            for epoch, value in _curve(cell_folder(folder, cell.key) / METRICS, metric):
                found[cell.configuration][epoch].append(value)
    return {name: dict(sorted(curve.items())) for name, curve in found.items() if len(curve) > 1}


def _curve(path: Path, metric: str) -> list[tuple[float, float]]:
    try:
        lines = [_LINE.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):  # pydantic's is a ValueError
        return []
    curve = [(line.epoch, line.valid.get(metric)) for line in lines]
    return [(epoch, value) for epoch, value in curve if value is not None]


@dataclass(frozen=True)
class _Line:
    """What is read of a line."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    epoch: Value
    valid: dict[str, Value | None]


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)
