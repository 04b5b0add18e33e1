"""`report --watch`: when it goes on, and when it ends."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetricks.cli import main
from finetricks_tuning.ledger import Ledger
from test_report import EFFECTS, manifest, trials


def until(there: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def write_study(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace(manifest(list(EFFECTS), 2), **changes).write(folder)  # type: ignore[arg-type]
    for cell in trials(2):
        Ledger(folder / "trials.jsonl").append(cell)


def test_ctrl_c_ends_the_watching_and_leaves_a_page_that_stands_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, ended="")
    page = tmp_path / "report.html"
    refreshed: list[bool] = []
    # What is started in the background is born deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        refreshed.append(until(lambda: page.exists() and "http-equiv" in page.read_text()))
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(SystemExit) as ended:
            main(["report", str(tmp_path), "--watch"])
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 0
    assert refreshed == [True]
    assert "http-equiv" not in page.read_text()
    assert "So far (8 cells)" in capsys.readouterr().out
