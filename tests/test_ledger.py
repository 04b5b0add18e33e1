"""The ledger: what was recorded is never lost, and what was cut off is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from finetricks_tuning.ledger import Ledger, Trial


def trial(key: str, status: str = "finished") -> Trial:
    return Trial(key, "stlr", {"stlr": "stlr"}, {"stlr": {"ratio": 32.0}}, 0, status, {"valid": {"accuracy": 0.5}}, 1.5)


def test_a_trial_is_a_line_of_plain_json(tmp_path: Path) -> None:
    Ledger(tmp_path / "trials.jsonl").append(trial("k1"))
    line = json.loads((tmp_path / "trials.jsonl").read_text())
    assert line["configuration"] == "stlr"
    assert line["tricks"] == {"stlr": {"ratio": 32.0}}
    assert (line["seed"], line["status"], line["seconds"]) == (0, "finished", 1.5)
    assert line["metrics"] == {"valid": {"accuracy": 0.5}}


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    assert ledger.read() == ({}, [])
    for key in ("k1", "k2"):
        ledger.append(trial(key))
    trials, problems = ledger.read()
    assert list(trials) == ["k1", "k2"]
    assert problems == []
    assert trials["k1"].to_json() == trial("k1").to_json()


def test_of_two_records_of_a_cell_the_later_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.append(trial("k1", "failed"))
    ledger.append(trial("k1", "finished"))
    assert ledger.read()[0]["k1"].status == "finished"


@pytest.mark.parametrize("cut", [1, 20, -2])
def test_a_line_cut_off_by_a_kill_is_said_and_nothing_else_is_lost(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "trials.jsonl"
    ledger = Ledger(path)
    ledger.append(trial("k1"))
    path.write_text(path.read_text() + trial("k2").to_json()[:cut])
    trials, problems = ledger.read()
    assert list(trials) == ["k1"]
    assert problems == ["trials.jsonl:2 was cut off while it was written; its cell counts as not run"]
    ledger.append(trial("k3"))
    assert (list(ledger.read()[0]), ledger.read()[1]) == (["k1", "k3"], [])


def test_a_whole_line_that_lacks_only_its_line_break_counts(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(trial("k1").to_json())
    ledger = Ledger(path)
    assert list(ledger.read()[0]) == ["k1"]
    ledger.append(trial("k2"))
    assert (list(ledger.read()[0]), ledger.read()[1]) == (["k1", "k2"], [])


def test_a_corrupt_line_in_the_middle_is_said_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_bytes(trial("k1").to_json().encode() + b"\n\xff\x00garbage\n" + trial("k2").to_json().encode() + b"\n")
    trials, problems = Ledger(path).read()
    assert list(trials) == ["k1", "k2"]
    assert len(problems) == 1
    assert problems[0].startswith("trials.jsonl:2 is not a trial")
    Ledger(path).append(trial("k3"))
    assert b"garbage" in path.read_bytes()


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    given = json.loads(trial("k1").to_json()) | {"of_tomorrow": 1}
    assert Trial.from_json(json.dumps(given)).key == "k1"
    with pytest.raises(ValueError, match="configuration: field required"):
        Trial.from_json('{"key": "k1"}')


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.append(trial("k1"))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(OSError, match="is the disk full"):
            ledger.append(trial("k2"))
    assert (list(ledger.read()[0]), ledger.read()[1]) == (["k1"], [])


def _append_many(path: Path, writer: int) -> None:
    for index in range(50):
        Ledger(path).append(trial(f"{writer}-{index}"))


def test_several_writers_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    trials, problems = Ledger(path).read()
    assert (len(trials), problems) == (150, [])


def test_ten_thousand_trials_are_read_within_seconds(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("".join(trial(f"k{index}").to_json() + "\n" for index in range(10_000)))
    started = time.perf_counter()
    assert len(Ledger(path).read()[0]) == 10_000
    assert time.perf_counter() - started < 5
