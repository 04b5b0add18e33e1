"""Whether cells share processes is a matter of time and memory, never of the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import tiny
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep
from recorded import runs_of, study

pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.nightly
def test_a_process_for_each_cell_gives_the_same_bits_as_warm_ones_in_any_order(task: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"  # where it lies is part of the cells
    found = {}
    for isolation, seeds in (("warm", [0, 1]), ("process", [1, 0])):
        record.unlink(missing_ok=True)
        of = study(task, record, seconds=0.0, isolation=isolation, seeds=seeds)
        assert sweep(of, tmp_path / isolation).complete
        found[isolation], _ = Ledger(tmp_path / isolation / LEDGER).read()
        processes = {run.process for run in runs_of(record)}
        assert len(processes) == 4 if isolation == "process" else len(processes) <= 2
    warm, isolated = found["warm"], found["process"]
    assert len(warm) == 4
    assert warm.keys() == isolated.keys()
    for key, trial in warm.items():
        assert trial.metrics == isolated[key].metrics
        predictions = [cell_folder(tmp_path / how, key) / "predictions" / "valid.csv" for how in ("warm", "process")]
        assert predictions[0].read_bytes() == predictions[1].read_bytes()
