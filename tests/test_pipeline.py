"""Several recipes in one file: read, checked, run one after another, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging

import killing
import tiny
from finetricks import Recipe, RecipeError, load, pipeline_run, run
from finetricks.checkpoint import Checkpoints
from finetricks.cli import main
from finetricks.folder import RunFolder
from finetricks.pipeline import NewLSTM, Pipeline
from finetricks_plugins.language_model.cache import Entry

STEPS = """\
steps:
  lstm:
    new_lstm: {corpus: train.csv, embedding_size: 8, hidden_size: 12, layers: 2}
  pretrain:
    model: {step: lstm}
    tricks:
      - further_pretraining: {text: in_domain, corpus: train.csv, steps: 6, checkpoint: 2, learning_rate: 4.0e-3}
  classify:
    model: {step: pretrain}
    data: {train: train.csv, test: test.csv, valid: 0.2}
    training: {epochs: 3, batch_size: 16, learning_rate: 1.0e-2, checkpoint: 2}
    tricks: [discriminative_lr, stlr, gradual_unfreezing, concat_pooling]
"""
PROBE = """\
steps:
  probe:
    model: model
    data: {train: train.csv, valid: 0.2}
    training: {epochs: 1, batch_size: 16, learning_rate: 1.0e-2}
    tricks: [last_layer]
  tune:
    model: {step: probe}
    data: {train: train.csv, valid: 0.2}
    training: {epochs: 1, batch_size: 16}
    tricks: [predict_only]
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    (folder / "steps.yaml").write_text(STEPS)
    (folder / "probe.yaml").write_text(PROBE)
    return folder


@pytest.fixture(autouse=True)
def _bars_are_put_back() -> Iterator[None]:
    """The command line turns the libraries' progress bars off for its process."""
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


def command(*arguments: str | Path) -> int | str | None:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def results_of(out: Path) -> dict[str, Any]:
    """What the steps left: weights, predictions, metrics; no times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix in (".safetensors", ".csv") or path.name == "tokenizer.json":
            found[name] = path.read_bytes()
        elif path.name == "result.json":
            found[name] = {**json.loads(path.read_text()), "seconds": 0}
    return found


# -- run -------------------------------------------------------------------------------------------------


def test_killed_within_and_between_steps_it_comes_to_the_same_bits(task: Path, tmp_path: Path) -> None:
    """Killed as the LSTM is written, in its pretraining, after that step, and in the classifier's training."""
    killing.warm_up()

    def kill_after(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> Callable[[], None]:
        def act() -> None:
            call = getattr(owner, name)

            def dying(*arguments: Any, **more: Any) -> Any:
                given = call(*arguments, **more)
                if when(*arguments):
                    os.kill(os.getpid(), signal.SIGKILL)
                return given

            setattr(owner, name, dying)
            train()

        return act

    out = tmp_path / "killed"

    def train() -> None:
        assert command("train", task / "steps.yaml", "--out", out, "--resume") == 0

    def in_classify(checkpoints: Checkpoints, step: int, *_: Any) -> bool:
        return checkpoints.folder.parent.name == "classify" and step == 4

    kills = [
        kill_after(pipeline_run, "flush"),
        kill_after(Entry, "save_progress"),
        kill_after(RunFolder, "write_result"),
        kill_after(Checkpoints, "save", in_classify),
    ]
    there = []
    for kill in kills:
        assert killing.in_child(kill, out) == signal.SIGKILL
        there.append({path.name for path in out.iterdir()} - {"steps.yaml"})
    assert there == [{".lstm.partial"}, {"lstm", "pretrain"}, {"lstm", "pretrain"}, {"lstm", "pretrain", "classify"}]
    assert {path.name for path in (out / "classify" / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    finished = (out / "pretrain" / "result.json").stat()
    assert killing.in_child(train, out) == 0
    assert (out / "pretrain" / "result.json").stat() == finished

    left_alone = tmp_path / "left_alone"
    whole = lambda: command("train", task / "steps.yaml", "--out", left_alone)  # noqa: E731
    assert killing.in_child(whole, left_alone) == 0
    assert results_of(out) == results_of(left_alone)
    assert set(results_of(out)) >= {
        "lstm/model/model.safetensors",
        "pretrain/model/model.safetensors",
        "classify/predictions/test.csv",
    }


def test_a_step_begins_with_the_model_of_the_one_before_head_and_all(task: Path, tmp_path: Path) -> None:
    assert command("train", task / "probe.yaml", "--out", tmp_path / "out") == 0
    probe, tune = (load(tmp_path / "out" / name)[0] for name in ("probe", "tune"))
    assert tiny.equal(probe, tune)  # which trains nothing


def test_what_was_pretrained_has_no_head_and_the_next_step_draws_one(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("train", task / "steps.yaml", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["pretrain", "classify"]
    assert told["pretrain"]["valid"] == {}
    assert told["classify"]["steps"] == 9
    assert command("predict", out / "pretrain", task / "test.csv") == 2
    assert "its model has no head and labels nothing" in capsys.readouterr().err
    assert command("predict", out / "classify", task / "test.csv") == 0
    # The body that the classifier began with is the one that was pretrained.
    data = {"train": str(task / "train.csv"), "valid": 0.2}
    recipe = Recipe(model=str(out / "pretrain" / "model"), data=data, tricks=["predict_only"])
    run(recipe, tmp_path / "as_it_is")
    body, _ = load(tmp_path / "as_it_is")
    pretrained = load_file(out / "pretrain" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, body.lstm.state_dict()[name]) for name, tensor in pretrained.items())


def test_other_steps_are_not_gone_on_with(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    train = ("train", task / "probe.yaml", "--out", out)
    assert command(*train) == 0
    for arguments, told in (
        ((), "already holds steps: --resume continues them, --overwrite replaces them"),
        (("--resume", "--overwrite"), "exclude one another"),
        (
            ("--resume", "--set", "steps.tune.training.epochs=2"),
            "tune holds another step; what differs: training.epochs: 1.0 there, 2.0 here. Bring the step back, or",
        ),
    ):
        capsys.readouterr()
        assert command(*train, *arguments) == 2
        assert told in capsys.readouterr().err.replace("\n", "")
    shutil.rmtree(out / "tune")  # as it is told to
    assert command(*train, "--resume", "--set", "steps.tune.training.epochs=2") == 0
    shutil.rmtree(out / "probe")
    assert command(*train, "--resume", "--set", "steps.tune.training.epochs=2") == 2
    assert "tune went on from probe, which is no longer there" in capsys.readouterr().err.replace("\n", "")
    (out / "tune" / "mine.txt").write_text("mine")
    assert command(*train, "--overwrite") == 2
    assert "also holds mine.txt" in capsys.readouterr().err.replace("\n", "")
    (out / "tune" / "mine.txt").unlink()
    assert command(*train, "--overwrite") == 0
    assert json.loads((out / "tune" / "result.json").read_text())["steps"] == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    assert command("train", task / "probe.yaml", "--out", tmp_path / "other") == 2
    assert "holds no steps" in capsys.readouterr().err


# -- check -----------------------------------------------------------------------------------------------


def test_check_says_what_each_step_is(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", task / "steps.yaml", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"]["lstm: model"] == "a new LSTM"
    assert told["summary"]["pretrain: model"] == "that of lstm, 4 layers"
    assert told["summary"]["classify: model"] == "that of pretrain, 4 layers"
    assert told["summary"]["classify: steps"] == "9, 3 an epoch"
    assert any(line.startswith("classify: 1 of 4 layers never thaw") for line in told["warnings"])


def test_all_that_is_wrong_is_said_before_the_first_step_begins(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--set", "steps.classify.data.label=lable")
    for arguments in (("check", task / "steps.yaml"), ("train", task / "steps.yaml", "--out", tmp_path / "out")):
        assert command(*arguments, *wrong) == 2
        error = capsys.readouterr().err.replace("\n", " ")
        assert "steps.classify train.csv" in error
        assert "lable" in error
    assert not (tmp_path / "out").exists()


def test_a_step_is_explained(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("explain", task / "probe.yaml", "--step", "probe", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stages"] == [
        {"from": 0, "to": 3, "frozen": ["embeddings", "block.0", "block.1"]}
    ]
    assert command("explain", task / "steps.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total_steps"] == 9
    assert command("explain", task / "steps.yaml", "--step", "pretrain") == 2
    assert "no step that trains on data has that name; those with data are classify" in capsys.readouterr().err
    (task / "recipe.yaml").write_text("model: model\ndata: {train: train.csv}\n")
    assert command("explain", task / "recipe.yaml", "--step", "one") == 2


FIRST = "steps:\n  one:\n    model: model\n    data: {train: train.csv}\n"
PRETRAINED = "    tricks: [{further_pretraining: {text: in_domain, corpus: train.csv}}]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            FIRST + "  two:\n    model: {step: on}\n    data: {train: train.csv}\n",
            "steps.yaml:6 steps.two.model: no step 'on' (did you mean 'one'?); the steps are one, two",
        ),
        (
            "steps:\n  one:\n    model: {step: two}\n    data: {train: train.csv}\n"
            "  two:\n    model: {step: one}\n    data: {train: train.csv}\n",
            "steps.yaml:3 steps.one.model: 'two' comes later; a step begins with the model of one before it",
        ),
        (
            "steps:\n  one:\n    model: {step: one}\n    data: {train: train.csv}\n",
            "steps.yaml:3 steps.one.model: 'one' is this step itself; a step begins with the model of one before it",
        ),
        (
            FIRST + "    tricks: [concat_pooling]\n  two:\n    model: {step: one}\n    data: {train: train.csv}\n",
            "steps.yaml:7 steps.two.model: 'one' changes the model's structure (concat_pooling), so that no other "
            "recipe can begin with it; leave that to the last step",
        ),
        (FIRST + "    epochs: 3\n", "unknown key 'epochs'"),
        (FIRST + "seeds: 3\n", "steps.yaml:5 seeds: unknown key 'seeds'; a file of steps has the one key steps"),
        (
            "steps:\n  one:\n    model: model\n    tricks: [stlr]\n",
            "steps.yaml:2 steps.one: names no data, and no trick that learns from text of its own (further_pretraining "
            "with a corpus)",
        ),
        ("steps:\n  one:\n    data: {train: train.csv}\n", "steps.one: names no model"),
        ("steps:\n  one:\n    model: {stage: two}\n    data: {train: train.csv}\n", "or {step: NAME} of a step before"),
        ("steps:\n  one: recipe.yaml\n", "a recipe with the keys model, data, training, tricks, layers, got 'recipe"),
        ("steps: []\n", "a mapping of names to recipes, in their order, got []"),
        ("steps:\n  a/b: {model: model}\n", "the step 'a/b' needs a name of letters"),
        (
            "steps:\n  one:\n    new_lstm: {corpus: train.csv}\n    tricks: [stlr]\n",
            "new_lstm makes a model and does no more; move tricks to a step after it",
        ),
        ("steps:\n  one:\n    new_lstm: {corpus: none.txt}\n", "steps.yaml:3 new_lstm.corpus: no such file"),
        ("steps:\n  one:\n    new_lstm: {corpus: train.csv, hidden: 3}\n", "unknown key 'hidden'"),
        (
            "steps:\n  one:\n    model: model\n" + PRETRAINED.replace("train.csv", "none.txt"),
            "steps.yaml:4 tricks.0.further_pretraining.corpus: no such file",
        ),
    ],
)
def test_wrong_files_are_refused_with_one_message(task: Path, text: str, told: str) -> None:
    (task / "wrong").mkdir(exist_ok=True)
    for name in ("model", "train.csv"):
        if not (task / "wrong" / name).exists():
            (task / "wrong" / name).symlink_to(task / name)
    (task / "wrong" / "steps.yaml").write_text(text)
    with pytest.raises(RecipeError) as refused:
        Pipeline.load(task / "wrong" / "steps.yaml")
    (problem,) = refused.value.problems
    assert told in str(problem)
    assert "at least 1 item" not in problem.message  # of the files that are there


def test_what_acts_in_training_is_refused_where_nothing_trains(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "model: model\n" + PRETRAINED.replace("[{", "[stlr, {").strip() + "\n"
    (task / "pretrain.yaml").write_text(text)
    assert command("train", task / "pretrain.yaml", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert (
        "tricks.stlr: acts in training (its hooks: schedule), and a recipe without `data` only makes weights" in error
    )
    assert not (tmp_path / "out").exists()


def test_a_new_lstm_takes_what_its_command_takes(task: Path) -> None:
    lstm = NewLSTM(corpus=str(task / "train.csv"), embedding_size=4, hidden_size=6, layers=2, bidirectional=True)
    folder = lstm.create(task / "lstm")
    config = json.loads((folder / "config.json").read_text())
    assert (config["embedding_size"], config["num_hidden_layers"], config["bidirectional"]) == (4, 2, True)
