"""A study as it runs: a live table in a terminal, a line a cell elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from finetricks.cli.console import new_table
from finetricks_tuning.across import Across
from finetricks_tuning.effects import Effect
from finetricks_tuning.status import ConfigurationStatus, Status
from finetricks_tuning.summary import Summary
from finetricks_tuning.text import SIGNS, duration

if TYPE_CHECKING:
    from finetricks_tuning.dry_run import DryRun


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Status], None]]:
    """Give what shows each new status on `console`."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, transient=True) as live:
        yield lambda status: live.update(status_table(status, console.height))


class _Lines:
    """One line whenever more cells are done, for logs; of the next data set they begin at 0."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = -1

    def __call__(self, status: Status) -> None:
        if status.done != self._done:
            self._done = status.done
            self._console.print(_progress(status), highlight=False, markup=False)


def _progress(status: Status) -> str:
    over = status.seconds_left is None or status.done == status.planned
    left = "" if over else f", about {duration(status.seconds_left)} left"
    where = f"{status.data_set}: " if status.data_set else ""
    return f"{where}{status.done} of {status.planned} cells done{left}"


PHASES = {
    "tune": "finding learning rates",
    "start": "starting every seed",
    "compare": "comparing",
    "confirm": "on fresh seeds",
}
AROUND = 7  # lines beside its rows, and the one that the cursor is on


def status_table(status: Status, height: int) -> Group:
    """The study at a moment, in at most `height` lines: what runs and what is best, if not all has room.

    A configuration takes one line, however long its name and narrow the terminal. Below `AROUND` + 1 lines, one
    configuration is shown.
    """
    level = f"{100 * (1 - status.alpha):g} % interval"
    table = new_table("configuration", "seeds", f"mean {escape(status.metric)} ({level})", "")
    for column in table.columns[1:3]:
        column.no_wrap = True  # the others give way; their cells are cut
    shown = _shown(status, max(height - AROUND, 1))
    more = len(status.configurations) - len(shown)
    rest = f"... and {more} more configurations; " if more else ""
    for row in shown:
        now = [f"{row.running} running"] if row.running else []
        now += [f"{row.lost} lost"] if row.lost else []
        mean = "" if row.mean is None else f"{row.mean:.4f}"
        interval = "" if row.interval is None else f" ({row.interval[0]:.4f} to {row.interval[1]:.4f})"
        table.add_row(_line(row.name), f"{row.finished} of {row.planned}", f"{mean}{interval}", _line(", ".join(now)))
    phase = PHASES[status.phase]
    hint = "Ctrl-C finishes the running cells and stops"
    return Group(table, _line(f"  {phase}: {_progress(status)}"), _line(f"  {rest}{hint}"))


def _line(text: str) -> Text:
    return Text(text.replace("\n", " "), no_wrap=True, overflow="ellipsis")


def _shown(status: Status, most: int) -> list[ConfigurationStatus]:
    """The baseline, what runs, then the best; in the study's order."""
    sign = 1 if status.greater_is_better else -1

    def rank(place: int) -> tuple[bool, bool, bool, float]:
        row = status.configurations[place]
        return place > 0, not row.running, row.mean is None, -sign * (row.mean or 0.0)

    places = sorted(sorted(range(len(status.configurations)), key=rank)[:most])
    return [status.configurations[place] for place in places]


def dry_run_table(found: DryRun) -> Table:
    """The configurations that have cells to run, and what one takes."""
    table = new_table("configuration", "cells", "a cell")
    by_name: dict[str, list[float]] = {}
    for cell, seconds in found.cells:
        by_name.setdefault(cell.configuration.name, []).append(seconds)
    for name, seconds_of in by_name.items():
        table.add_row(escape(name), str(len(seconds_of)), duration(max(seconds_of)))
    return table


def results_table(found: Summary | Across) -> Table:
    """The verdicts, for the terminal."""
    alpha = found.alpha
    if isinstance(found, Across):
        told = f"{found.metric}, mean over {len(found.summaries)} data sets"
    else:
        baseline = found.baseline.mean
        told = f"{found.metric} (baseline {'no finished cell' if baseline is None else f'{baseline:.4f}'})"
    table = new_table(told, "verdict", "difference", f"{100 * (1 - alpha):g} % interval", "seeds")
    for row in found.rows or _best(found):
        table.add_row(escape(row.name), *_cells(row))
    return table


def seeds_table(found: Summary) -> Table:
    """The runs of a study without factors, the best first."""

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    stop_at = found.design.options.get("stop_at")
    early = [f"after {100 * stop_at:g} %"] if stop_at else []
    table = new_table("seed", *early, f"{found.metric} on valid", "on test", "folder")
    better = -1 if found.manifest.greater_is_better else 1
    runs = sorted(found.seed_runs, key=lambda run: (run.value is None, better * (run.value or run.started or 0.0)))
    for run in runs:
        table.add_row(str(run.seed), *(text(run.started) for _ in early), text(run.value), text(run.test), run.folder)
    return table


def _best(found: Summary | Across, most: int = 10) -> list[Effect]:
    """The best configurations of a study that gives no verdict on single levels."""
    if isinstance(found, Across):
        return []
    better = -1 if found.manifest.greater_is_better else 1
    known = [c.difference for c in found.configurations if c.difference and c.difference.estimate is not None]
    return sorted(known, key=lambda row: better * (row.estimate or 0.0))[:most]


def _cells(row: Effect) -> tuple[str, str, str, str]:
    difference = "" if row.estimate is None else f"{row.estimate:+z.4f}"
    interval = "" if row.ci is None else f"{row.ci[0]:+z.4f} to {row.ci[1]:+z.4f}"
    return f"{SIGNS.get(row.verdict, '·')} {row.verdict}", difference, interval, str(row.seeds)
