"""Every fine-tuning trick a plugin of one small core.

Importing this package imports neither torch nor transformers nor Ray: its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetricks.catalog import Catalog, installed
    from finetricks.errors import (
        CheckpointError,
        DataError,
        Diverged,
        FinetricksError,
        InputError,
        LayersError,
        ModelError,
        Problem,
        RecipeError,
        TrickConflict,
        TrickError,
    )
    from finetricks.hooks import Context, ParamOptions, hookimpl
    from finetricks.layers import Layers, find_layers
    from finetricks.plan import Group, Plan, compile_plan
    from finetricks.progress import Progress, Stage
    from finetricks.recipe import Recipe
    from finetricks.run import Result, plan_of, run
    from finetricks.saved import load, predict
    from finetricks.session import Session
    from finetricks.stack import Stack
    from finetricks.step import Step
    from finetricks.streams import Streams
    from finetricks.tasks import Task, load_task
    from finetricks.trainer import TrickMixin, TrickTrainer
    from finetricks.trick import Choice, Trick

_HOME = {
    "catalog": ["Catalog", "installed"],
    "errors": [
        "CheckpointError",
        "DataError",
        "Diverged",
        "FinetricksError",
        "InputError",
        "LayersError",
        "ModelError",
        "Problem",
        "RecipeError",
        "TrickConflict",
        "TrickError",
    ],
    "hooks": ["Context", "ParamOptions", "hookimpl"],
    "layers": ["Layers", "find_layers"],
    "plan": ["Group", "Plan", "compile_plan"],
    "progress": ["Progress", "Stage"],
    "recipe": ["Recipe"],
    "run": ["Result", "plan_of", "run"],
    "saved": ["load", "predict"],
    "session": ["Session"],
    "stack": ["Stack"],
    "step": ["Step"],
    "streams": ["Streams"],
    "tasks": ["Task", "load_task"],
    "trainer": ["TrickMixin", "TrickTrainer"],
    "trick": ["Choice", "Trick"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = [  # noqa: PLE0604  every name of the table
    *_MODULE_OF,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
