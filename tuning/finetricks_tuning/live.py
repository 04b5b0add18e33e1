"""A study as it runs: a live table in a terminal, a line a cell elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from finetricks.cli.console import new_table
from finetricks_tuning.effects import Effect
from finetricks_tuning.report import SIGNS, duration
from finetricks_tuning.status import Status
from finetricks_tuning.summary import Summary

if TYPE_CHECKING:
    from finetricks_tuning.dry_run import DryRun


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Status], None]]:
    """Give what shows each new status on `console`."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, transient=True) as live:
        yield lambda status: live.update(_table(status))


class _Lines:
    """One line whenever more cells are done, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = -1

    def __call__(self, status: Status) -> None:
        if status.done > self._done:
            self._done = status.done
            self._console.print(_progress(status), highlight=False)


def _progress(status: Status) -> str:
    left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
    return f"{status.done} of {status.planned} cells done{left}"


def _table(status: Status) -> Table:
    table = new_table("configuration", "seeds done", f"mean {status.metric}", "")
    table.caption = f"{_progress(status)}; Ctrl-C finishes the running cells and stops"
    table.caption_justify = "left"
    for row in status.configurations:
        now = [f"{row.running} running"] if row.running else []
        now += [f"{row.lost} failed or diverged"] if row.lost else []
        mean = "" if row.mean is None else f"{row.mean:.4f}"
        table.add_row(escape(row.name), f"{row.finished} of {row.planned}", mean, ", ".join(now))
    return table


def dry_run_table(found: DryRun) -> Table:
    """The configurations that have cells to run, and what one takes."""
    table = new_table("configuration", "cells", "a cell")
    by_name: dict[str, list[float]] = {}
    for cell, seconds in found.cells:
        by_name.setdefault(cell.configuration.name, []).append(seconds)
    for name, seconds_of in by_name.items():
        table.add_row(escape(name), str(len(seconds_of)), duration(max(seconds_of)))
    return table


def results_table(summary: Summary) -> Table:
    """The verdicts, for the terminal."""
    baseline = summary.baseline.mean
    shown = "no finished cell" if baseline is None else f"{baseline:.4f}"
    confidence = 100 * (1 - summary.manifest.study["alpha"])
    table = new_table(
        f"{summary.metric} (baseline {shown})", "verdict", "difference", f"{confidence:g} % interval", "seeds"
    )
    for row in summary.rows:
        table.add_row(escape(row.name), *_cells(row))
    return table


def _cells(row: Effect) -> tuple[str, str, str, str]:
    difference = "" if row.estimate is None else f"{row.estimate:+z.4f}"
    interval = "" if row.ci is None else f"{row.ci[0]:+z.4f} to {row.ci[1]:+z.4f}"
    return f"{SIGNS.get(row.verdict, '·')} {row.verdict}", difference, interval, str(row.seeds)
