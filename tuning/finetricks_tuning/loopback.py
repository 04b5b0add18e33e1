"""Keep a Ray of one's own to this machine."""

from __future__ import annotations

import os

SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def keep_to_this_machine() -> None:
    """Let a local Ray, and the processes that it starts, listen on the loopback address only.

    On Linux they would listen on every interface, whatever address `ray.init` is told. Without clusters Ray uses the
    loopback address, as it does on Windows and macOS; it reads the switch when it is imported, so call this before. A
    value that the user has set stays.
    """
    os.environ.setdefault(SWITCH, "0")
