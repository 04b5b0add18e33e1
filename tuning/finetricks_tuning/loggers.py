"""Cells in TensorBoard, MLflow and Weights & Biases, by Ray's own loggers: a run for each cell, with its curves.

They are shown a cell when it has ended, from the files that it wrote. So they cost its training nothing, and one that
fails is said and left out: a study never depends on them.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from finetricks.errors import InputError
from finetricks.folder import METRICS
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import FINISHED, Trial
from finetricks_tuning.searcher import trials_in

logger = logging.getLogger(__name__)

PROJECT = "finetricks"
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def _tensorboard(study: Path) -> LoggerCallback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(study: Path) -> LoggerCallback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{study / 'mlflow' / 'mlflow.db'}"
    (study / "mlflow").mkdir(exist_ok=True)
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=study.name)


def _wandb(study: Path) -> LoggerCallback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT") or PROJECT, group=study.name)


MAKE: Mapping[str, Callable[[Path], LoggerCallback]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise `InputError` for a logger whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"the logger {name} needs a package that is not installed: pip install {PACKAGES[name]}")


@dataclass(frozen=True, eq=False)
class LoggedCell:
    """A cell as Ray's loggers see a trial of Tune."""

    trial_id: str
    name: str
    config: dict[str, Any]
    local_path: str
    experiment_dir_name: str

    @classmethod
    def of(cls, trial: Trial, study: Path, logger: str) -> LoggedCell:
        """As one of the loggers sees it: what that writes lies in a folder of its name, in the study's."""
        tricks = {name: dict(values) for name, values in trial.tricks.items()}
        config = {"configuration": trial.configuration, "seed": trial.seed, "tricks": tricks}
        name = f"{trial.configuration}, seed {trial.seed}"
        return cls(trial.key[:16], name, config, str(study / logger / _file_name(trial)), study.name)

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


def _file_name(trial: Trial) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_.=+" else "_" for letter in trial.configuration)
    return f"{plain[:80]}-seed{trial.seed}-{trial.key[:8]}"


class CellLoggers(Callback):  # type: ignore[misc]
    """Shows each cell that has ended to some of Ray's loggers.

    Args:
        study: the study's folder.
        names: `tensorboard` writes to its folder `tensorboard`, `mlflow` to MLFLOW_TRACKING_URI or to a database in its
            folder `mlflow`, `wandb` to the project WANDB_PROJECT or `finetricks`.

    Raises:
        InputError: one of them cannot be set up.
    """

    def __init__(self, study: Path, names: Sequence[str]) -> None:
        self._study = study
        self._loggers = {name: _set_up(name, study) for name in names}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for each in trials_in(trial.last_result):
            self.log(each)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for name, each in list(self._loggers.items()):
            self._try(name, partial(each.on_experiment_end, trials, **info))

    def log(self, trial: Trial) -> None:
        """Show a cell to all loggers."""
        points = list(_points(trial, cell_folder(self._study, trial.key) / METRICS))
        for name, each in list(self._loggers.items()):
            cell = LoggedCell.of(trial, self._study, name)
            self._try(name, partial(_log, each, cell, points, failed=trial.status != FINISHED))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a tracking server answers
            logger.warning("the logger %s fails and is left out from now on: %s", name, error)
            del self._loggers[name]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore them, and a study is resumed from its ledger."""
        return {}


def _set_up(name: str, study: Path) -> LoggerCallback:
    check_loggers([name])
    try:
        made = MAKE[name](study)
        made.setup()
    except Exception as error:  # no key, no server
        raise InputError(f"the logger {name} cannot be set up: {error}") from error
    return made


def _log(each: LoggerCallback, cell: LoggedCell, points: Sequence[Mapping[str, Any]], *, failed: bool) -> None:
    cell.init_local_path()
    each.log_trial_start(cell)
    for point in points:
        each.log_trial_result(point["training_iteration"], cell, dict(point))
    each.log_trial_end(cell, failed)


def _points(trial: Trial, metrics: Path) -> Iterator[dict[str, Any]]:
    """What was measured at each evaluation, and at last what the ledger holds, each with its optimizer step."""
    step = 0
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
        found = json.loads(line)
        step = found["step"]
        yield {"training_iteration": step} | _numbers({"valid": found["valid"], "train_loss": found["train_loss"]})
    last = _numbers({**trial.metrics, "seconds": trial.seconds})
    yield {"training_iteration": step, "status": trial.status} | last


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not defined."""
    return {
        key: _numbers(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
