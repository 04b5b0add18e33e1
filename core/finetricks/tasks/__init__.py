"""What is being learnt: data, model and metric. The names of this package are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetricks.tasks.models import load_saved
    from finetricks.tasks.task import Task, load_task

__all__ = ["Task", "load_saved", "load_task"]

_MODULE_OF = {"Task": "task", "load_saved": "models", "load_task": "task"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
