"""Every built-in trick in two processes (gloo, DistributedDataParallel): equal at each step, and as one process is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import machines
from every import CASES
from finetricks.distributed import ALONE
from machines import SIX_STEPS
from modes import EXACT, MODES, REASONS

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
PLAIN = SIX_STEPS | {"optimizer": "sgd", "learning_rate": 1e-2}  # AdamW makes of a rounding of 1e-8 one of 1e-3
COMPILED = ("gradual_unfreezing", "multi_task")

Outcomes = tuple[dict[str, Any], dict[str, Any]]


def together(folder: Path, training: dict[str, Any], names: list[str]) -> Outcomes:
    """What each of two processes saw of the tricks."""
    (folder / "jobs.json").write_text(json.dumps({"names": names, "training": training}))
    command = [sys.executable, str(Path(__file__).with_name("machines_worker.py"))]
    with (folder / "said").open("w") as said:
        pair = [
            subprocess.Popen([*command, str(rank), str(folder)], env=ENVIRONMENT, stdout=said, stderr=said)
            for rank in range(2)
        ]
        try:
            codes = [process.wait(270) for process in pair]
        finally:
            for process in pair:
                process.kill()
    assert codes == [0, 0], (folder / "said").read_text()[-3000:]
    one, two = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2))
    return one, two


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return together(tmp_path_factory.mktemp("plain"), PLAIN, sorted(CASES))


@pytest.mark.parametrize("name", sorted(CASES))
def test_two_processes_train_as_one(name: str, plain: Outcomes) -> None:
    one, two = plain[0][name], plain[1][name]
    assert "error" not in one, one["error"]
    assert one == two  # every loss, and the weights at every step, to the bit
    assert one["broken"] == []
    alone = machines.among_ranks(name, ALONE, PLAIN)
    assert (one["changed"], one["stages"]) == (alone["changed"], alone["stages"])
    if name in REASONS:
        assert one["losses"] != pytest.approx(alone["losses"], abs=1e-6), "the reason is none: take it out"
    else:
        assert one["losses"] == pytest.approx(alone["losses"], abs=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_stay_equal_in_every_mode(mode: str, plain: Outcomes, tmp_path: Path) -> None:
    names = list(COMPILED) if mode == "compile" else sorted(CASES)
    one, two = together(tmp_path, PLAIN | MODES[mode], names)
    assert one == two
    for name in names:
        assert "error" not in one[name], one[name]["error"]
        assert one[name]["broken"] == []
        if mode in EXACT:
            assert one[name]["losses"] == pytest.approx(plain[0][name]["losses"], abs=1e-6)
