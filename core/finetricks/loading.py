"""Third parties' code at import: what it raises, and how long it may take.

It is run in a thread of its own, which is left behind when the time is up. So code that holds the interpreter's lock
for ever, or ends the process (`os._exit`), is beyond this; and what may only be done in the main thread (setting a
signal's handler) cannot be done at import.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from finetricks.errors import FinetricksError, InputError, ends_program, in_words

logger = logging.getLogger(__name__)

SECONDS = "FINETRICKS_LOAD_SECONDS"
"""The environment variable that says how long the import of a trick may take."""

DEFAULT_SECONDS, SAID_AFTER = 300.0, 15.0
"""A trick's module may be the first to import torch, from a slow disk; after the second it is said who is at it."""


class LoadFailed(FinetricksError):
    """Code did not load: what it raised, in words."""


def load(function: Callable[[], Any], who: str, module: str = "") -> Any:
    """Give what `function` gives, which imports code of a third party.

    Args:
        who: whose code it is, in words.
        module: what it imports, if it does; one that is there already needs no thread. Nor may there be one where the
            thread that asks is importing something itself: the two could wait for one another's modules.

    Raises:
        LoadFailed: it raised something, or took longer than FINETRICKS_LOAD_SECONDS.
        InputError: that variable holds no number of seconds.
    """
    outcome: dict[str, Any] = {}

    def attempt() -> None:
        try:
            outcome["value"] = function()
        except BaseException as error:  # a third party's module may raise anything: SystemExit, one of its own
            outcome["error"] = error

    if module in _given_up:
        raise LoadFailed(_given_up[module])
    at_once = _is_there(module) or _importing()
    if at_once:
        attempt()
    else:
        _in_time(attempt, who, module)
    if (error := outcome.get("error")) is not None:
        if at_once and ends_program(error):
            raise error  # in a thread of its own it can only be the module's
        raise LoadFailed(in_words(error)) from error
    return outcome["value"]


def _is_there(module: str) -> bool:
    """Whether a module is imported, and so is done; one whose package hangs is asked for in a thread all the same."""
    if any(stuck.split(".")[0] == module.split(".", maxsplit=1)[0] for stuck in _given_up):
        return False
    found = sys.modules.get(module)
    return found is not None and not getattr(getattr(found, "__spec__", None), "_initializing", False)


def _importing() -> bool:
    """Whether this thread is within an import."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


_given_up: dict[str, str] = {}
"""Modules whose import has not ended, with what was said: to ask again would be to wait again."""


def _limit() -> float:
    given = os.environ.get(SECONDS)
    try:
        seconds = DEFAULT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InputError(f"the environment variable {SECONDS} is {given!r}; give a number of seconds above 0")
    return min(seconds, threading.TIMEOUT_MAX)


def _in_time(function: Callable[[], None], who: str, module: str) -> None:
    limit = _limit()
    thread = threading.Thread(target=function, name=f"loading {who}", daemon=True)
    thread.start()
    thread.join(min(SAID_AFTER, limit))
    if thread.is_alive():
        logger.warning("%s is still loading", who)
        thread.join(max(limit - SAID_AFTER, 0.0))
    if thread.is_alive():
        told = f"its import has not ended after {limit:g} seconds ({SECONDS} sets the limit)"
        if module:
            _given_up[module] = told
        raise LoadFailed(told)
