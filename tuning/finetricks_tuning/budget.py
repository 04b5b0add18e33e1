"""What a study may cost at most."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field, model_validator

from finetricks.settings import Settings
from finetricks_tuning.ledger import Trial


class Budget(Settings):
    """Limits of a study, over all its sessions: what a resumed study has spent counts.

    Attributes:
        cells: how many cells get a result.
        hours: of the slots in which cells run, all busy: cell hours divided by the cells that run at once.
        gpu_hours: cell hours times the GPUs of a cell.
    """

    cells: int | None = Field(default=None, gt=0)
    hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Budget:
        if self == Budget.model_construct():
            raise ValueError("give cells, hours or gpu_hours, e.g. {hours: 8}")
        return self

    def exhausted(self, trials: Collection[Trial], running: int, *, slots: float, gpus: float) -> str:
        """Why no further cell may begin, as a clause; empty where one may.

        A cell that has no result yet is expected to take as long as the others did on average.

        Args:
            trials: the study's cells that have a result.
            running: how many cells are at work.
            slots: how many cells run at once.
            gpus: of a cell.
        """
        if self.cells is not None and len(trials) + running >= self.cells:
            return f"the budget of {self.cells} cells is used up"
        spent = sum(trial.seconds for trial in trials)
        expected = spent / len(trials) if trials else 0.0
        hours = (spent + (running + 1) * expected) / 3600
        if self.hours is not None and hours / slots > self.hours:
            return f"the budget of {self.hours:g} hours has no room for another cell"
        if self.gpu_hours is not None and hours * gpus > self.gpu_hours:
            return f"the budget of {self.gpu_hours:g} GPU hours has no room for another cell"
        return ""
