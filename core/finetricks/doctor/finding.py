"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "look", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check has seen.

    Attributes:
        level: `ok`; `look`, for what may be meant so; `wrong`, for what cannot be.
        what: was seen, with its figures.
        do: what to do about it; empty where nothing is to be done.
    """

    level: Level
    what: str
    do: str = ""


def ok(what: str) -> Finding:
    return Finding("ok", what)


def look(what: str, do: str) -> Finding:
    return Finding("look", what, do)


def wrong(what: str, do: str) -> Finding:
    return Finding("wrong", what, do)
