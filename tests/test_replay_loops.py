"""Replay in the Trainer, in a run's folder, and between processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import set_seed

import tiny
from finetricks import Recipe, TrickTrainer, run
from finetricks.cli import main
from finetricks.explain import replay_in_words
from test_replay import bert, collate, texts


def trainer_of(folder: Path, replay: str, *tricks: Any, **args: Any) -> TrickTrainer:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "replay": replay}
    recipe = Recipe(tricks=tricks, training=settings)
    quiet = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in texts()]
    torch.manual_seed(0)
    model = bert()
    set_seed(0)
    return TrickTrainer(
        recipe=recipe,
        model=model,
        args=recipe.training_arguments(folder, **(quiet | args)),
        train_dataset=rows,
        eval_dataset=rows[:16],
        data_collator=collate,
    )


def trained(folder: Path, replay: str, *tricks: Any, **args: Any) -> tuple[list[Any], nn.Module, dict[str, Any]]:
    """The losses that were logged, of training and evaluation; the model; what replay came to."""
    trainer = trainer_of(
        folder, replay, *tricks, logging_strategy="steps", logging_steps=1, eval_strategy="epoch", **args
    )
    trainer.train()
    told = [(entry.get("loss"), entry.get("eval_loss")) for entry in trainer.state.log_history]
    assert trainer.session is not None
    return told, trainer.model, trainer.session.replay


@pytest.mark.parametrize("tricks", [("gradual_unfreezing",), ("last_layer", "label_smoothing")])
def test_in_a_trainer(tmp_path: Path, tricks: tuple[str, ...]) -> None:
    plain, one, _ = trained(tmp_path, "off", *tricks, gradient_accumulation_steps=2)
    replayed, other, record = trained(tmp_path, "auto", *tricks, gradient_accumulation_steps=2)
    assert plain == replayed
    assert tiny.equal(one, other)
    assert record["hits"] > 0
    assert not record["off"]


def test_off_beside_noise_on_the_embeddings(tmp_path: Path) -> None:
    _, _, record = trained(tmp_path, "auto", "last_layer", neftune_noise_alpha=5.0)
    assert "NEFTune" in record["off"]


def test_a_run_with_its_evaluations(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    results = {}
    for replay in ("off", "auto"):
        recipe = Recipe(
            model=str(folder / "model"),
            data={"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "valid": 0.2},
            tricks=["last_layer"],
            training={"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "replay": replay},
        )
        results[replay] = run(recipe, tmp_path / replay)
    assert results["off"].valid == results["auto"].valid
    assert results["off"].test == results["auto"].test
    for name in ("valid", "test"):
        files = [(tmp_path / replay / "predictions" / f"{name}.csv").read_text() for replay in results]
        assert files[0] == files[1]
    record = json.loads((tmp_path / "auto" / "result.json").read_text())["replay"]
    assert record["hits"] > 2 * 48
    assert record["exact"] is True


def test_explain_and_check_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.write_task(tmp_path)
    file = tmp_path / "recipe.yaml"
    recipe = Recipe(
        model=str(folder / "model"),
        data={"train": str(folder / "train.csv")},
        tricks=["last_layer"],
        training={"epochs": 4, "batch_size": 9},
    )
    file.write_text(recipe.to_yaml())
    told = "Replay leaves out 36 of 48 block passes"  # 4 epochs of 6 steps, two blocks forward; all but the first epoch
    for command in ("explain", "check"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(file)])
        assert not ended.value.code
        assert told in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("training", "words", "tolerance"),
    [
        ({}, "exact", 0.0),
        ({"replay": "memory"}, "how exact is measured in the run", None),
        ({"replay_dtype": "fp16"}, "states to 5e-04", 2.0**-11),  # half of a unit in the last of 11 binary digits
        ({"replay_dtype": "bf16"}, "states to 4e-03", 2.0**-8),  # ... of 8
    ],
)
def test_the_plan_says_how_exact_it_is(training: dict[str, Any], words: str, tolerance: float) -> None:
    recipe = Recipe(tricks=["last_layer"], training={"epochs": 4, "batch_size": 8, "learning_rate": 1e-3} | training)
    plan = recipe.bind(tiny.bert(), tiny.loader()).plan
    assert replay_in_words(plan).endswith(f"; {words}")
    assert plan.to_dict()["replay"]["tolerance"] == tolerance


def test_between_two_processes(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("replay_worker.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(worker), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["loop"]["off"] == result["loop"]["auto"]
    assert result["trainer"]["off"] == result["trainer"]["auto"]
    assert result["hits"]["loop"] > 0
    assert result["hits"]["trainer"] > 0
