"""Whether a cluster answers. Ray itself would wait for minutes."""

from __future__ import annotations

import socket

from finetricks.errors import InputError

SECONDS = 5.0


def check_address(address: str) -> None:
    """Raise `InputError` when nothing listens at `host:port` or `ray://host:port`; `auto` is left to Ray."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--address {address}: give host:port, ray://host:port, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {error}") from None
