"""How long a cell may take, and where its process was when it was lost: a trick may hang, or end the process."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from finetricks.errors import FinetricksError
from finetricks.guard import last_on, trail
from finetricks_tuning.cell_run import CELLS, CellOrder, cell_folder


class TookTooLong(FinetricksError):
    """The cell was ended because its time was up."""


def trail_of(order: CellOrder, study: Path) -> Path:
    """The file in which a cell's process keeps where it is. Beside the cell's folder, which may be removed."""
    folder = cell_folder(study, order.place or order.key)
    return folder.with_name(f".{folder.name}.at")


def stack_of(trail: Path) -> Path:
    """The file in which a cell that took too long leaves its stack; empty where its process was lost before."""
    return trail.with_suffix(".late")


def forget(study: Path) -> None:
    """Take away what cells have left whose study was ended before anyone found it. To be done while none runs."""
    for path in (study / CELLS).glob(".*"):
        if path.suffix in (".at", ".late"):
            path.unlink(missing_ok=True)


@contextmanager
def limited(order: CellOrder, study: Path, minutes: float | None) -> Iterator[None]:
    """Run a cell in the block, for so long.

    What hangs cannot be stopped from within its process. So the process is ended, by a thread that needs no Python, and
    leaves its stack in a file; whoever runs the cell next finds it.

    Raises:
        TookTooLong: the file is there. It is taken away.
    """
    at = trail_of(order, study)
    stack = stack_of(at)
    with suppress(OSError):
        (study / CELLS).mkdir(exist_ok=True)
    if stack.exists() and stack.stat().st_size:
        where = last_on(at)
        for path in (stack, at):
            path.unlink(missing_ok=True)
        raise TookTooLong(
            f"took longer than cell_minutes allows{where and f', the last time within {where}'}; raise it, and "
            "--resume --retry-failed goes on from the last checkpoint"
        )
    with ExitStack() as around:
        with suppress(OSError):  # a full disk: the cell will tell
            around.enter_context(trail(at))
        if minutes is not None:
            with suppress(OSError):
                around.callback(stack.unlink, missing_ok=True)
                file = around.enter_context(stack.open("w", encoding="utf-8"))
                faulthandler.dump_traceback_later(minutes * 60, exit=True, file=file)
                around.callback(faulthandler.cancel_dump_traceback_later)
        yield
