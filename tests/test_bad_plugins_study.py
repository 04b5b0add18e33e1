"""A study of bad tricks on a real Ray: each fails its own cells, and the others go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import tiny
from bad_plugins import CHANGING, GIVING, HEADER, IMPURE, ODD, RAISING, TRAINED, Bad, plain
from finetricks.catalog import installed
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.limit import TookTooLong, forget, limited, trail_of
from finetricks_tuning.study import Study
from finetricks_tuning.summary import Summary
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

ONE_OF_EACH = [RAISING[-1], ODD[0], GIVING[0], CHANGING[2], IMPURE[0]]
DIVERGING = [case for case in GIVING if "not finite" in case.words][:1]
HANGING = [plain("hangs", "regularize", "", "time.sleep(1000)", "took longer than cell_minutes allows")]
KILLING = [
    plain("ends_its_process", "regularize", "", "os._exit(0)", "worker process was lost again and again"),
    plain("crashes", "loss", "", "ctypes.string_at(0)", "worker process was lost again and again"),
    plain("interrupts", "freeze", "", "raise KeyboardInterrupt", "interrupts"),
    plain("signals", "init", "", "os.kill(os.getpid(), 9)", "worker process was lost again and again"),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


def swept(task: Path, folder: Path, cases: list[Bad], **settings: object) -> tuple[Summary, dict[str, Trial]]:
    (folder / "corpus.py").write_text(HEADER + "\n\n" + "\n\n".join(case.source for case in cases))
    study = Study(
        recipe={
            "model": str(task / "model"),
            "data": {"train": str(task / "train.csv"), "valid": 0.5},
            "training": {"epochs": 2, "batch_size": 15, "checkpoint": 1},
        },
        factors=[*(case.name for case in cases), "weight_decay"],
        seeds=1,
        catalog=installed().with_file(folder / "corpus.py"),
        **settings,
    )
    summary = sweep(study, folder / "out")
    found, problems = Ledger(folder / "out" / "trials.jsonl").read()
    assert problems == []
    assert [path for path in (folder / "out" / "cells").iterdir() if path.name.startswith(".")] == []
    return summary, {trial.configuration: trial for trial in found.values()}


HANGS = """
import sys, time
from pathlib import Path
from finetricks.guard import _enter
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.limit import limited

order = CellOrder("key", "c", {}, {}, "task", {})
with limited(order, Path(sys.argv[1]), 0.05):
    _enter(b"trick 'hangs' of corpus.py, hook 'loss'")
    time.sleep(1000)  # longer than this test may take
"""
ORDER = CellOrder("key", "c", {}, {}, "task", {})


def test_a_cell_whose_time_is_up_is_ended_and_has_failed_when_it_is_tried_again(tmp_path: Path) -> None:
    def passes() -> bool:
        with limited(ORDER, tmp_path, 100):
            return True

    assert passes()
    assert list((tmp_path / "cells").iterdir()) == []
    assert subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], check=False, timeout=400).returncode == 1
    with pytest.raises(
        TookTooLong, match=r"took longer than cell_minutes allows, the last time within trick 'hangs' of corpus.py"
    ):
        passes()
    assert passes()


def test_what_a_cell_left_whose_study_was_killed_is_not_held_against_it(tmp_path: Path) -> None:
    stack = trail_of(ORDER, tmp_path).with_suffix(".late")
    stack.parent.mkdir()
    stack.write_text("Timeout (0:01:00)!")
    forget(tmp_path)
    with limited(ORDER, tmp_path, None):
        pass
    assert list(stack.parent.iterdir()) == []


def test_a_cell_is_limited_where_its_trail_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail_of(ORDER, tmp_path).mkdir(parents=True)  # in its place
    begun: list[float] = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda seconds, **_: begun.append(seconds))
    with limited(ORDER, tmp_path, 2):
        assert begun == [120]


def check(cases: list[Bad], status: str, trials: dict[str, Trial]) -> None:
    for case in cases:
        trial = trials[case.name]
        assert trial.status == status
        assert f"trick {case.name!r}" in (trial.error or "")
        assert "corpus.py" in (trial.error or "")
        assert f"hook {case.hook!r}" in (trial.error or "")
        assert case.words in (trial.error or "")


def test_every_bad_trick_fails_its_own_cells(task: Path, local_ray: None, tmp_path: Path) -> None:
    summary, trials = swept(task, tmp_path, [*ONE_OF_EACH, *DIVERGING])
    check(ONE_OF_EACH, "failed", trials)
    check(DIVERGING, "diverged", trials)
    assert trials[DIVERGING[0].name].diverged_at == 0
    assert [name for name, trial in trials.items() if trial.status == "finished"] == ["baseline", "weight_decay"]
    assert summary.complete
    assert summary.counts == {"planned": 8, "finished": 2, "failed": 5, "diverged": 1, "not_run": 0}


@pytest.mark.nightly
def test_tricks_that_end_their_process_are_tried_again_and_then_have_failed(
    task: Path, local_ray: None, tmp_path: Path
) -> None:
    summary, trials = swept(task, tmp_path, [*KILLING, *HANGING], cell_minutes=2)
    check([*KILLING, *HANGING], "failed", trials)
    assert [name for name, trial in trials.items() if trial.status == "finished"] == ["baseline", "weight_decay"]
    assert summary.complete


@pytest.mark.nightly
def test_the_whole_corpus_in_one_study(task: Path, local_ray: None, tmp_path: Path) -> None:
    summary, trials = swept(task, tmp_path, list(TRAINED))
    not_finite = [case for case in TRAINED if "not finite" in case.words]
    check(not_finite, "diverged", trials)
    assert [c.name for c in TRAINED if c not in not_finite and trials[c.name].status != "failed"] == []
    assert {name for name, trial in trials.items() if trial.status == "finished"} == {"baseline", "weight_decay"}
    assert summary.complete
