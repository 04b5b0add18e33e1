"""Two processes (gloo) train as one does: after each thaw too, and with a trick's second pass (rule 9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny


def two_ranks(mode: str, folder: Path) -> dict[str, Any]:
    worker = Path(__file__).with_name("ddp_worker.py")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nproc-per-node=2",
    ]
    done = subprocess.run(
        [*launch, str(worker), mode, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


def test_a_hand_written_loop_over_two_ranks_equals_one_process(tmp_path: Path) -> None:
    result = two_ranks("loop", tmp_path)
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.TwicePass(), epochs=4, optimizer="sgd", learning_rate=0.05)
    alone = tiny.train(recipe.bind(tiny.bert(dropout=0.0), tiny.loader(drop_last=True)))
    assert result["stages"] == 4
    assert result["spread"] == 0.0
    assert result["losses"] == pytest.approx(alone, abs=1e-6)


def test_the_trainer_keeps_two_ranks_equal_through_every_thaw(tmp_path: Path) -> None:
    result = two_ranks("trainer", tmp_path)
    assert result["find_unused"] is True
    assert result["stages"] == 4
    assert result["spread"] == 0.0
    assert len(set(result["losses"])) > 10
    resumed = result["resumed"]
    assert (resumed["from"], resumed["equal"]) == ("checkpoint-12", True)
    assert all("checkpoint-12 is damaged (optimizer.pt differs" in told for told in resumed["refused"])
