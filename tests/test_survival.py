"""What a study survives, with real signals and real file systems: nothing that was recorded is lost or run again."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.yaml_file import dump_yaml
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.worker import STOP
from recorded import (
    EVERY,
    PLUGIN,
    STEPS,
    Run,
    alive,
    equals_undisturbed,
    hold_of,
    may_mount,
    runs_of,
    study,
    study_dict,
    wait_until,
)

pytestmark = pytest.mark.waits

PROGRAM = "import sys; from finetricks.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def command(folder: Path, *more: str, study_dict: dict[str, Any]) -> list[str]:
    (folder / "study.yaml").write_text(dump_yaml(study_dict))
    arguments = ["sweep", str(folder / "study.yaml"), "--out", str(folder / "out"), "--plugin", str(PLUGIN), *more]
    return [sys.executable, "-c", PROGRAM, *arguments]


def latest(runs: list[Run]) -> Run:
    """The run to which the record's last line belongs."""
    return max(runs, key=lambda run: run.line)


def start(of: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(of, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    def happened() -> bool:
        assert process.poll() is None, process.communicate()
        return what()

    wait_until(happened)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_interrupted_twice_and_robbed_of_a_worker_it_equals_an_undisturbed_study(
    task: Path, tmp_path: Path
) -> None:
    record, ledger = tmp_path / "record", tmp_path / "out" / LEDGER
    of = study_dict(task, record, seconds=0.2)

    def one_has_saved() -> bool:
        """Whether the process that did the latest step is in the middle of a cell, with a checkpoint."""
        runs = runs_of(record)[before:]
        return bool(runs) and EVERY < latest(runs).steps[-1] < STEPS - 2

    hold = hold_of(record)

    def hold_a_cell(process: subprocess.Popen[str], more_than: str = "") -> int:
        """Let all cells wait at their next step, once one has saved after new results; the process that has it."""
        wait_for(lambda: ledger.exists() and ledger.read_text() != more_than and one_has_saved(), process)
        hold.touch()
        return latest(runs_of(record)[before:]).process

    def released(worker: int) -> None:
        """Let cells go on again, once the worker is gone: it must not end its cell in the meantime."""
        wait_until(lambda: not alive(worker))
        hold.unlink()

    before = 0
    with start(command(tmp_path, study_dict=of)) as killed:
        worker = hold_a_cell(killed)
        killed.kill()
    released(worker)
    after_kill = ledger.read_text()

    before = len(runs_of(record))
    with start(command(tmp_path, "--resume", study_dict=of)) as interrupted:
        worker = hold_a_cell(interrupted, after_kill)
        interrupted.send_signal(signal.SIGINT)
        wait_for((tmp_path / "out" / STOP).exists, interrupted)  # Python makes one of two that come at once
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=300)
    released(worker)
    assert interrupted.returncode == 130
    assert "stopped before the end; this goes on: finetricks sweep" in said
    assert "Traceback" not in said
    after_interrupt = ledger.read_text()
    assert after_interrupt.startswith(after_kill)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]["not_run"] > 0

    before = len(runs_of(record))
    with start(command(tmp_path, "--resume", study_dict=of)) as robbed:
        worker = hold_a_cell(robbed, after_interrupt)
        os.kill(worker, signal.SIGKILL)
        released(worker)
        _, said = robbed.communicate(timeout=300)
    assert robbed.returncode == 0, said
    assert ledger.read_text().startswith(after_interrupt)
    assert lines(ledger) == 12  # no cell ran twice

    # What was lost went on from its checkpoint: each kill finds two cells at most, and one of these may have been
    # writing its checkpoint.
    runs = [run.steps for run in runs_of(record)]
    lost = [steps for steps in runs if steps[-1] < STEPS - 1]
    assert 3 <= len(lost) <= 5
    assert sum(map(len, runs)) <= 12 * STEPS + 3 * 2 * 2 * EVERY
    assert all(steps[0] % EVERY == 0 for steps in runs)
    assert sum(steps[0] > 0 for steps in runs) >= sum(steps[-1] >= EVERY for steps in lost) >= 3
    equals_undisturbed(study(task, record, seconds=0.2), tmp_path / "out", tmp_path / "undisturbed")


# -- disks -----------------------------------------------------------------------------------------------

ON_A_SMALL_DISK = """\
mount -t tmpfs -o size=4m tmpfs {disk}
{sweep} 2> {folder}/said
echo $? > {folder}/code
cp {disk}/out/trials.jsonl {folder}/after_full
rm {disk}/ballast
touch {folder}/enough
{resume} 2>> {folder}/said_then
echo $? >> {folder}/code
cp -r {disk}/out {folder}/out
"""


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace")
@pytest.mark.nightly
def test_a_full_disk_stops_the_study_and_nothing_is_lost(task: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    record = tmp_path / "record"
    filling = {"file": disk / "ballast", "ledger": disk / "out" / LEDGER, "lines": 3, "enough": tmp_path / "enough"}
    tricks = ({"filling": {name: value if name == "lines" else str(value) for name, value in filling.items()}},)
    of = study_dict(task, record, seconds=0.02, tricks=tricks)
    sweep = command(tmp_path, study_dict=of)
    sweep[sweep.index("--out") + 1] = str(disk / "out")
    script = ON_A_SMALL_DISK.format(
        disk=disk, folder=tmp_path, sweep=shlex.join(sweep), resume=shlex.join([*sweep, "--resume"])
    )
    subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script], check=True, timeout=400)
    said = re.sub(r"\s+", " ", (tmp_path / "said").read_text())
    assert (
        f"error: cannot write in {disk}/out: No space left on device. The study was stopped; nothing that was recorded "
        "is lost. Make room, or make it writable, and go on with --resume"
    ) in said
    assert "Traceback" not in said
    assert (tmp_path / "code").read_text().split() == ["1", "0"]
    recorded = (tmp_path / "after_full").read_text()
    assert 3 <= len(recorded.splitlines()) < 12
    assert (tmp_path / "out" / LEDGER).read_text().startswith(recorded)
    assert lines(tmp_path / "out" / LEDGER) == 12
    equals_undisturbed(study(task, record, seconds=0.02, tricks=tricks), tmp_path / "out", tmp_path / "undisturbed")
