"""A study as Optuna keeps one, for its dashboard and its importance plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.catalog import Catalog
from finetricks.errors import InputError
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.designs.search import trial_of
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.manifest import COMPARE, Manifest
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER

if TYPE_CHECKING:
    from finetricks_tuning.factors import Factor, Level


def export_to_optuna(folder: Path, storage: str, name: str, catalog: Catalog | None = None) -> int:
    """Write the configurations of the study in `folder` as trials of a new Optuna study.

    A trial's value is the configuration's mean on valid over its seeds, which stand in its user attributes; one that
    lost a cell is pruned.

    Args:
        storage: as Optuna takes it: `sqlite:///study.db`, or any other database's URL.
        name: of the Optuna study.
        catalog: where the names of tricks are looked up; the installed ones by default.

    Returns:
        How many trials were written.

    Raises:
        InputError: the folder holds no study, the storage cannot be used, or holds a study of that name.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    manifest = Manifest.read(folder)
    study = Study(**manifest.study, catalog=catalog)
    trials, _ = Ledger(folder / LEDGER).read()
    values: dict[str, dict[int, float | None]] = {name: {} for name in manifest.configurations}
    for cell in manifest.cells:
        if cell.phase == COMPARE and cell.key in trials:
            values[cell.configuration][cell.seed] = trials[cell.key].value(manifest.study["metric"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        exported = optuna.create_study(
            study_name=name, storage=storage, direction="maximize" if manifest.greater_is_better else "minimize"
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(f"{storage} holds a study {name!r} already; give another --name") from None
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise InputError(f"{storage} cannot be used: {str(error).splitlines()[0]}") from None
    known = {configuration: of for configuration, of in values.items() if of}
    for configuration, of in known.items():
        whole = [value for value in of.values() if value is not None]
        mean = sum(whole) / len(whole) if len(whole) == len(of) else None
        notes = {"configuration": configuration, "seeds": {str(seed): value for seed, value in of.items()}}
        exported.add_trial(trial_of(_configuration(study, manifest, configuration), mean, notes))
    return len(known)


def _configuration(study: Study, manifest: Manifest, name: str) -> Configuration:
    labels, points = manifest.configurations[name], manifest.points.get(name, {})
    return Configuration(tuple((f, _level(f, labels[f.name], points.get(f.name, {}))) for f in study.factors))


def _level(factor: Factor, label: str, values: Mapping[str, float]) -> Level:
    points = (level.at(values) if level.ranges.keys() == values.keys() and values else level for level in factor.levels)
    return next(level for level in (factor.off, *points) if level.label == label)
