"""A run in two processes (gloo): the model of one process, and an end on one rank is an end on both."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from finetricks.catalog import installed
from finetricks.distributed import ALONE, Ranks
from finetricks.errors import CheckpointError
from finetricks.recipe import Recipe
from finetricks.runner import run
from finetricks.saved import predict
from finetricks.streams import child
from finetricks.tasks.predictions import read_predictions

HERE = Path(__file__).parent
PLUGIN = HERE / "distributed_tricks.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
BOUND = 240
"""Seconds within which everything must end, the imports included."""

FREEZING = {
    "gradual_unfreezing": ["gradual_unfreezing", {"discriminative_lr": {"decay": 2.6}}],
    "two_stage": [{"two_stage": {"fraction": 0.5}}],
    "thaw_and_penalty": ["gradual_unfreezing", {"l2_sp": {}}, "stlr"],
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows of which 45 are trained on, and a model with dropout; beside it the same model without."""
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    plain = folder / "without_dropout"
    plain.mkdir()
    for file in (folder / "model").iterdir():
        plain.joinpath(file.name).write_bytes(file.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (plain / "config.json").write_text(json.dumps(config))
    return folder


def described(task: Path, tricks: list[Any], model: str = "model", **training: Any) -> dict[str, Any]:
    return {
        "model": str(task / model),
        "data": {"train": str(task / "train.csv"), "test": str(task / "test.csv"), "valid": 0.25},
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "threads": 1} | training,
        "tricks": tricks,
    }


def exact(task: Path, tricks: list[Any]) -> dict[str, Any]:
    """Without dropout, by SGD, every step recorded. 45 rows in batches of 11: parts of 6 and 5, and at last 1 and 0."""
    return described(task, tricks, "without_dropout", optimizer="sgd", learning_rate=0.05, batch_size=11, evaluate=1)


def start(folder: Path, jobs: dict[str, Any]) -> list[subprocess.Popen[bytes]]:
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(HERE / "distributed_worker.py")]
    return [
        subprocess.Popen([*command, str(rank), "2", str(folder)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        for rank in range(2)
    ]


def finish(folder: Path, processes: list[subprocess.Popen[bytes]]) -> tuple[list[int], list[dict[str, Any]]]:
    """The exit codes, and what each rank wrote down."""
    until = time.monotonic() + BOUND
    try:
        codes = [process.wait(max(until - time.monotonic(), 0)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    return codes, [json.loads(file.read_text()) if file.exists() else {} for file in files]


KILLED_AT, SAVED_AT, EVERY = 10, 8, 4
MICRO_BATCHES = {8: 15, 10: 19, 18: 33}
"""How many are done by a step: 41 rows in batches of 4 are 11 an epoch, two of them a step, the epoch's last alone."""


def interrupted(task: Path, file: Path) -> dict[str, Any]:
    """A run with everything that resume must restore: dropout, AdamW, freezing, and a state that differs by rank."""
    tricks = [
        "gradual_unfreezing",
        {"early_stopping": {"patience": None}},
        "running_mean",
        {"killed": {"file": str(file), "at": KILLED_AT}},
    ]
    return described(task, tricks, checkpoint=EVERY, evaluate=3, accumulation=2, batch_size=4)


@pytest.fixture(scope="module")
def killed(task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], list[dict[str, Any]]]:
    """A run whose rank 1 was killed; `out` is resumed, `copy` stays as it was left."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "kill").write_text("1")
    job = {"recipe": interrupted(task, folder / "kill"), "out": str(folder / "out")}
    codes, outcomes = finish(folder / "ranks", start(folder / "ranks", {"killed": job}))
    shutil.copytree(folder / "out", folder / "copy")
    return folder, codes, outcomes


@pytest.fixture(scope="module")
def outcomes(task: Path, killed: tuple[Path, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two ranks saw of one run after another in one process group."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = {name: {"recipe": exact(task, tricks)} for name, tricks in FREEZING.items()}
    jobs |= {
        "everything": {"recipe": described(task, ["gradual_unfreezing", "auxiliary_lm"], accumulation=2)},
        "batch_norm": {"recipe": described(task, ["concat_pooling"], eval_batch_size=4)},
        "fails": {"recipe": described(task, ["fails_on_one"])},
        "diverges": {"recipe": described(task, ["infinite_on_one"])},
        "stops": {"recipe": described(task, ["stops_on_first"])},
        "taken": {"recipe": described(task, ["stops_on_first"]), "out": str(folder / "stops")},
        "wrong": {"recipe": described(task, [{"early_stopping": {"metric": "no_such"}}])},
        "resumed": {"recipe": interrupted(task, killed[0] / "kill"), "out": str(killed[0] / "out"), "resume": True},
        "whole": {"recipe": interrupted(task, killed[0] / "kill")},
        "again": {"recipe": exact(task, FREEZING["two_stage"])},
    }
    jobs = {name: {"out": str(folder / name), **job} for name, job in jobs.items()}
    codes, seen = finish(folder / "ranks", start(folder / "ranks", jobs))
    assert codes == [0, 0]
    return [folder, *seen]


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", FREEZING)
def test_two_ranks_do_what_one_process_does_with_the_same_batch(
    name: str, task: Path, outcomes: list[Any], tmp_path: Path
) -> None:
    together = outcomes[0] / name
    alone = run(Recipe(**exact(task, FREEZING[name])), tmp_path / "alone")
    one, two = metrics_of(tmp_path / "alone"), metrics_of(together)
    assert [line["step"] for line in two] == list(range(1, 16))  # 5 batches of an epoch, 3 epochs
    assert [line["frozen"] for line in two] == [line["frozen"] for line in one]
    assert [line["train_loss"] for line in two] == pytest.approx([line["train_loss"] for line in one], abs=1e-6)
    weights = [load_file(out / "model" / "model.safetensors") for out in (tmp_path / "alone", together)]
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], rtol=0, atol=1e-6), key
    assert json.loads((together / "result.json").read_text())["valid"] == pytest.approx(alone.valid, abs=1e-6)


@pytest.mark.parametrize("name", [*FREEZING, "everything"])
def test_the_ranks_are_equal_bit_for_bit_at_every_stage(name: str, outcomes: list[Any]) -> None:
    for rank in outcomes[1:]:
        assert rank[name]["error"] is None
        assert all(step["equal"] for step in rank[name]["seen"])
    stages = {tuple(step["frozen"]) for step in outcomes[1][name]["seen"]}
    assert len(stages) >= (2 if name == "two_stage" else 3)


def test_both_ranks_evaluate_the_model_that_is_saved(task: Path, outcomes: list[Any]) -> None:
    # Each rank's batch norm has seen rows of its own, and each scores batches of its own.
    out = outcomes[0] / "batch_norm"
    alone, together = predict(out, task / "test.csv"), read_predictions(out / "predictions" / "test.csv")
    for name in ("score:bird", "score:fish"):
        assert list(together[name]) == pytest.approx(list(alone[name]), abs=1e-6)


def test_dropout_is_drawn_for_each_rank(task: Path, outcomes: list[Any]) -> None:
    stream = Recipe(**exact(task, [])).streams.dropout
    for rank in range(2):
        drawn = [step["dropout_seed"] for step in outcomes[1 + rank]["everything"]["seen"]]
        # 45 rows in batches of 8 are 6 micro-batches, two of them a step
        assert drawn == [child(stream, step, micro, rank) for step in range(9) for micro in range(2)]


def test_an_error_on_one_rank_is_an_error_on_both(outcomes: list[Any]) -> None:
    first, second = (rank["fails"] for rank in outcomes[1:])
    assert second["error"] == "ValueError: rank 1 has had enough"
    assert first["error"].startswith(
        "OtherRankFailed: rank 1 of 2 failed: ValueError: rank 1 has had enough\nraised by"
    )
    assert re.search("trick 'fails_on_one' of .*distributed_tricks.py in its hook 'regularize'", first["error"])
    assert len(first["seen"]) == len(second["seen"]) == 3


def test_a_loss_that_is_not_finite_on_one_rank_ends_both_at_its_step(outcomes: list[Any]) -> None:
    for rank in outcomes[1:]:
        assert rank["diverges"]["error"] == "Diverged: diverged at step 2: the loss is not finite"


def test_what_rank_0_decides_holds_for_all(outcomes: list[Any]) -> None:
    for rank in outcomes[1:]:
        assert rank["stops"]["error"] is None
        assert rank["stops"]["steps"] == 2 * 6  # two epochs of three: 41 rows (45 less 4 held out) in batches of 8


def test_what_cannot_begin_is_refused_on_all(outcomes: list[Any]) -> None:
    refused = "already holds a run: --resume continues it, --overwrite replaces it"
    assert re.match(f"InputError: .*{refused}", outcomes[1]["taken"]["error"])
    assert re.match(f"OtherRankFailed: rank 0 of 2 failed: .*{refused}", outcomes[2]["taken"]["error"])
    assert all("no_such" in rank["wrong"]["error"] for rank in outcomes[1:])
    assert not (outcomes[0] / "wrong").exists()


def test_a_group_that_has_seen_failures_gives_the_same_bits(outcomes: list[Any]) -> None:
    for file in ("model/model.safetensors", "predictions/valid.csv", "predictions/test.csv"):
        assert (outcomes[0] / "again" / file).read_bytes() == (outcomes[0] / "two_stage" / file).read_bytes()


def test_the_other_rank_ends_with_an_error_when_one_is_killed(killed: tuple[Path, Any, Any]) -> None:
    folder, codes, outcomes = killed
    assert codes[1] == -9
    assert outcomes[0]["killed"]["error"] is not None
    assert len(outcomes[0]["killed"]["seen"]) == MICRO_BATCHES[KILLED_AT]
    assert not (folder / "copy" / "result.json").exists()


def test_resume_after_a_killed_rank_equals_uninterrupted_bit_for_bit(
    killed: tuple[Path, Any, Any], outcomes: list[Any]
) -> None:
    resumed, whole = killed[0] / "out", outcomes[0] / "whole"
    for rank in outcomes[1:]:
        assert rank["whole"]["steps"] == rank["resumed"]["steps"] == 18
        assert len(rank["whole"]["seen"]) == MICRO_BATCHES[18]
        assert len(rank["resumed"]["seen"]) == MICRO_BATCHES[18] - MICRO_BATCHES[SAVED_AT]
    for file in ("model/model.safetensors", "predictions/valid.csv", "predictions/test.csv"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    for one, other in zip(metrics_of(resumed), metrics_of(whole), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_checkpoint_of_two_ranks_is_not_resumed_by_one(task: Path, killed: tuple[Path, Any, Any]) -> None:
    recipe = Recipe(**interrupted(task, killed[0] / "kill"), catalog=installed().with_file(PLUGIN))
    with pytest.raises(CheckpointError, match="what differs: ranks: 2 there, 1 here"):
        run(recipe, killed[0] / "copy", resume=True)


@pytest.mark.parametrize("rows", [1, 2, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_batch_is_shared_out_once_and_weighted_by_its_parts(rows: int, size: int) -> None:
    batch = list(range(rows))
    ranks = [Ranks(rank, size) for rank in range(size)]
    weights = [rank.weight(rows) for rank in ranks]
    own = [list(rank.part(batch)) for rank, weight in zip(ranks, weights, strict=True) if weight]
    assert sorted(itertools.chain(*own)) == batch
    assert all(rank.part(batch) for rank in ranks)
    means = [sum(rank.part(batch)) / len(rank.part(batch)) for rank in ranks]
    mean = sum(weight * value for weight, value in zip(weights, means, strict=True)) / size
    assert mean == pytest.approx((rows - 1) / 2)


def test_a_process_alone_exchanges_nothing() -> None:
    model = tiny.bert()
    assert Ranks.current() == ALONE
    assert ALONE.wrap(model) is model
    assert ALONE.of_first(lambda: 3) == 3
    with pytest.raises(ValueError, match="mine"), ALONE.together():
        raise ValueError("mine")


def test_torchrun_trains_a_recipe_on_two_ranks(task: Path, outcomes: list[Any], tmp_path: Path) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(json.dumps(exact(task, FREEZING["two_stage"])))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command = ["--nproc-per-node=2", "-m", "finetricks", "train", str(written), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*launch, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("the run's folder") == 1
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert weights == (outcomes[0] / "two_stage" / "model" / "model.safetensors").read_bytes()
