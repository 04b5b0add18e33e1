"""Every fine-tuning trick a plugin of one small core.

Importing this package imports neither torch nor transformers nor Ray: its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetricks.catalog import Catalog as Catalog
    from finetricks.catalog import installed as installed
    from finetricks.errors import (
        CheckpointError as CheckpointError,
    )
    from finetricks.errors import (
        DataError as DataError,
    )
    from finetricks.errors import (
        Diverged as Diverged,
    )
    from finetricks.errors import (
        FinetricksError as FinetricksError,
    )
    from finetricks.errors import (
        InputError as InputError,
    )
    from finetricks.errors import (
        LayersError as LayersError,
    )
    from finetricks.errors import (
        ModelError as ModelError,
    )
    from finetricks.errors import (
        Problem as Problem,
    )
    from finetricks.errors import (
        RecipeError as RecipeError,
    )
    from finetricks.errors import (
        TrickConflict as TrickConflict,
    )
    from finetricks.errors import (
        TrickError as TrickError,
    )
    from finetricks.hooks import Context as Context
    from finetricks.hooks import ParamOptions as ParamOptions
    from finetricks.hooks import hookimpl as hookimpl
    from finetricks.layers import Layers as Layers
    from finetricks.layers import find_layers as find_layers
    from finetricks.plan import Group as Group
    from finetricks.plan import Plan as Plan
    from finetricks.plan import compile_plan as compile_plan
    from finetricks.progress import Progress as Progress
    from finetricks.progress import Stage as Stage
    from finetricks.recipe import Recipe as Recipe
    from finetricks.runner import Result as Result
    from finetricks.runner import plan_of as plan_of
    from finetricks.runner import run as run
    from finetricks.saved import load as load
    from finetricks.saved import predict as predict
    from finetricks.session import Session as Session
    from finetricks.stack import Stack as Stack
    from finetricks.step import Step as Step
    from finetricks.streams import Streams as Streams
    from finetricks.tasks import Task as Task
    from finetricks.tasks import load_task as load_task
    from finetricks.trainer import TrickMixin as TrickMixin
    from finetricks.trainer import TrickTrainer as TrickTrainer
    from finetricks.trick import Choice as Choice
    from finetricks.trick import InputFile as InputFile
    from finetricks.trick import InputFiles as InputFiles
    from finetricks.trick import Trick as Trick

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
    "runner": ["Result", "plan_of", "run"],
    "saved": ["load", "predict"],
    "session": ["Session"],
    "stack": ["Stack"],
    "step": ["Step"],
    "streams": ["Streams"],
    "tasks": ["Task", "load_task"],
    "trainer": ["TrickMixin", "TrickTrainer"],
    "trick": ["Choice", "InputFile", "InputFiles", "Trick"],
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
