"""Studies that were run apart joined into one: the same comparison with other seeds, or with other tricks.

Nothing is run. A cell's key says what it is, so the ledgers can be put together; what could make cells of two studies
incomparable (data, versions, device) is checked first.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetricks.atomic import write_atomically
from finetricks.catalog import Catalog
from finetricks.errors import InputError
from finetricks_tuning.cell import DATA_SOURCES
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.folder import STUDY, refuse_links_in, writing
from finetricks_tuning.ledger import FINISHED, Ledger, Trial
from finetricks_tuning.manifest import CONFIRM, Manifest, PlannedCell
from finetricks_tuning.results import write_summary
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, Summary

DEFINING = ("recipe", "design", "strategy", "metric", "tune_learning_rate", "cpus_per_cell", "workers_per_cell")
"""Keys of a study that must be equal. Seeds and factors are joined; of all others the first study's hold."""

VERSIONS = ("torch", "transformers")


@dataclass(frozen=True)
class Part:
    """One of the studies: what its folder holds."""

    folder: Path
    study: Study
    manifest: Manifest
    trials: Mapping[str, Trial]

    @classmethod
    def read(cls, folder: Path, catalog: Catalog | None) -> Part:
        manifest = Manifest.read(folder)  # says so when there is no study
        refuse_links_in(folder)  # what they point to would be copied
        trials, _ = Ledger(folder / LEDGER).read()
        return cls(folder, Study.load(folder / STUDY, catalog=catalog), manifest, trials)


@dataclass(frozen=True)
class Merged:
    """The joined study: its results, and what its user should know, a sentence each."""

    summary: Summary
    notes: tuple[str, ...]


def merge(folders: Sequence[str | Path], out: str | Path, *, catalog: Catalog | None = None) -> Merged:
    """Join studies into a new one in `out`, which `report` and `sweep --resume` take as any other.

    It has the seeds and the factors of all of them; a cell that several have run is taken from the first that finished
    it. What none of them has run, `sweep --resume` will.

    Raises:
        InputError: the studies are not parts of one comparison, with what differs; or `out` is not empty.
    """
    parts = [Part.read(Path(folder).absolute(), catalog) for folder in folders]
    if len(parts) < 2:
        raise InputError("name at least two studies to join")
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; name a new folder")
    study = _joined_study(parts, catalog)
    manifest = _joined_plan(parts, study, out)
    trials, sources, notes = _joined_ledger(parts)
    _check_comparable(parts)
    with writing(out, study, overwrite=False):
        manifest.write(out)
        for key, source in sources.items():
            if cell_folder(source, key).is_dir():
                shutil.copytree(cell_folder(source, key), cell_folder(out, key))
        write_atomically(out / LEDGER, "".join(f"{trial.to_json()}\n" for trial in trials.values()))
        return Merged(write_summary(out), tuple(notes))


def _joined_study(parts: Sequence[Part], catalog: Catalog | None) -> Study:
    first, *rest = (part.study.to_dict() for part in parts)
    joined = dict(first)
    for part, given in zip(parts[1:], rest, strict=True):
        if differing := [key for key in DEFINING if _without_places(given[key]) != _without_places(first[key])]:
            raise InputError(
                f"{part.folder} and {parts[0].folder} are not parts of one study: they differ in {', '.join(differing)}"
            )
        joined["seeds"] = [*joined["seeds"], *(seed for seed in given["seeds"] if seed not in joined["seeds"])]
        joined["factors"] = [*joined["factors"], *(f for f in given["factors"] if f not in joined["factors"])]
    study = Study(**joined, catalog=catalog)
    names = {configuration.name for configuration in study.configurations}
    for part in parts:
        if missing := [c.name for c in part.study.configurations if c.name not in names]:
            raise InputError(
                f"the design {study.design.name} over the factors of all studies has no configuration {missing[0]!r}, "
                f"which {part.folder} has; studies of this design can be joined when their factors are the same"
            )
    return study


def _without_places(given: Any) -> Any:
    """A recipe without where its data and its model lie, which may differ from machine to machine."""
    if not isinstance(given, Mapping) or "training" not in given:
        return given
    data = {key: value for key, value in (given["data"] or {}).items() if key not in DATA_SOURCES}
    training = {key: value for key, value in given["training"].items() if key != "checkpoint"}
    return {**given, "data": data, "training": training, "model": Path(str(given["model"])).name}


def _joined_plan(parts: Sequence[Part], study: Study, out: Path) -> Manifest:
    first = parts[0].manifest
    configurations = {configuration.name: configuration.levels for configuration in study.configurations}
    cells: dict[tuple[str, str, int], PlannedCell] = {}
    for part in parts:
        for name, levels in part.manifest.configurations.items():  # an adaptive design has added some
            configurations.setdefault(name, dict(levels))
        for cell in part.manifest.cells:
            place = (cell.phase, cell.configuration, cell.seed)
            if cell.phase != CONFIRM and cells.setdefault(place, cell).key != cell.key:
                raise InputError(
                    f"{part.folder} has another cell {cell.configuration!r}, seed {cell.seed}, than the studies before "
                    "it: data, model, source of a trick, versions or device differ; such cells cannot be compared"
                )
        if (part.manifest.valid_examples, part.manifest.greater_is_better) != (
            first.valid_examples,
            first.greater_is_better,
        ):
            raise InputError(f"{part.folder} and {parts[0].folder} score another number of examples: other data")
    warnings = dict.fromkeys(warning for part in parts for warning in part.manifest.warnings)
    return Manifest(
        study=study.to_dict(),
        configurations=configurations,
        cells=tuple(cells.values()),
        left_out=tuple(left_out.to_dict() for left_out in study.left_out),
        greater_is_better=first.greater_is_better,
        valid_examples=first.valid_examples,
        warnings=tuple(warnings),
        command=f"finetricks sweep {out / STUDY} --out {out}",
        rates={name: rate for part in reversed(parts) for name, rate in part.manifest.rates.items()},
        regularisers=tuple(dict.fromkeys(name for part in parts for name in part.manifest.regularisers)),
        loss_of_the_shares=first.loss_of_the_shares,
    )


def _joined_ledger(parts: Sequence[Part]) -> tuple[dict[str, Trial], dict[str, Path], list[str]]:
    """The trials by key, the study that each is taken from, and where studies disagree."""
    trials: dict[str, Trial] = {}
    sources: dict[str, Path] = {}
    notes = []
    for part in parts:
        for key, trial in part.trials.items():
            before = trials.get(key)
            if before is None or (before.status != FINISHED and trial.status == FINISHED):
                trials[key], sources[key] = trial, part.folder
            elif before.status == trial.status == FINISHED and before.metrics != trial.metrics:
                notes.append(
                    f"{trial.configuration}, seed {trial.seed}, has other results in {part.folder} than in "
                    f"{sources[key]}, which are kept: this training is not deterministic there"
                )
    return trials, sources, notes


def _check_comparable(parts: Sequence[Part]) -> None:
    """Of every configuration, all runs were made on the same data and device, with the same versions."""
    seen: dict[tuple[str, str], tuple[Any, Path]] = {}
    for part in parts:
        for trial in part.trials.values():
            for what, value in _circumstances(trial):
                known, folder = seen.setdefault((trial.configuration, what), (value, part.folder))
                if known != value:
                    raise InputError(
                        f"{trial.configuration!r} was run with another {what} in {part.folder} ({value}) than in "
                        f"{folder} ({known}); such runs cannot be compared"
                    )


def _circumstances(trial: Trial) -> Iterable[tuple[str, Any]]:
    environment = trial.environment
    libraries = environment.get("libraries", {})
    found = {name: libraries.get(name) for name in VERSIONS}
    found |= {what: environment.get(what) for what in ("device", "threads")}
    if isinstance(data := environment.get("data"), str):
        found["data set"] = data[:12]
    return [(what, value) for what, value in found.items() if value is not None]
