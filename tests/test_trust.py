"""Code that comes with a model runs only where the user has said so on the command line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from finetricks import ModelError, RecipeError, run
from finetricks.cli import main
from finetricks.recipe import Recipe
from finetricks.runner import task_of
from finetricks_tuning.study import Study

CODE = """
import os, sys
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

open(os.environ["EXECUTED"], "a").write("x")

class OwnConfig(BertConfig):
    model_type = "own_bert"

class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task whose model needs code that lies in its folder."""
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    (folder / "model" / "own.py").write_text(CODE)
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"model_type": "own_bert", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "model" / "tokenizer_config.json", folder / "plain.json")
    tokenizer = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def recipe_dict(task: Path) -> dict[str, object]:
    data = {"train": str(task / "train.csv"), "valid": 0.25}
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}
    return {"model": str(task / "model"), "data": data, "training": training}


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the model's code makes; what transformers copies of that code goes into a folder of the test's."""
    from transformers import dynamic_module_utils

    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "executed"  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def test_it_runs_with_the_flag_and_not_without(
    task: Path, tmp_path: Path, executed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(Recipe(**recipe_dict(task)).to_yaml())
    recipe, out, rows = str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), str(task / "test.csv")
    commands = [
        ["check", recipe],
        ["explain", recipe],
        ["train", recipe, "--out", out],
        ["predict", out, rows, "--out", f"{out}/new.csv"],
    ]
    assert [code(*command) for command in commands] == [2, 2, 2, 2]
    assert not executed.exists()
    assert [code(*command, "--trust-remote-code") for command in commands] == [0, 0, 0, 0]
    assert executed.exists()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("comes with code of its own, which is executed only if you say that you trust it") == 3
    assert "Traceback" not in said


def code(*arguments: str) -> object:
    try:
        return main([*arguments])
    except SystemExit as end:
        return end.code


def test_a_task_whose_tokenizer_needs_code_can_be_sent_to_another_process(task: Path, executed: Path) -> None:
    """That process cannot import the code from where this one has it."""
    sent = pickle.dumps(task_of(Recipe(**recipe_dict(task)), True))
    assert b"transformers_modules" not in sent
    assert executed.exists()
    there = pickle.loads(sent)
    assert type(there.tokenizer).__name__ == "OwnTokenizer"
    assert there.tokenizer.pad_token is not None


@pytest.mark.nightly
def test_a_study_runs_with_the_flag_and_not_without(task: Path, tmp_path: Path) -> None:
    study = {"recipe": recipe_dict(task), "factors": ["stlr"], "seeds": 1, "confirm": 0}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    environment = os.environ | {"EXECUTED": str(tmp_path / "executed"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-m", "finetricks", "sweep", "study.yaml", "--out", "out"]
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 250}
    done = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "executed").exists()
    done = subprocess.run([*command, "--trust-remote-code"], check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in (tmp_path / "out" / "trials.jsonl").read_text().splitlines()]
    assert [(trial["status"], trial["error"]) for trial in trials] == [("finished", None)] * 2


def test_without_the_flag_nothing_is_executed(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    monkeypatch.setenv("HF_HUB_TRUST_REMOTE_CODE", "1")
    for _ in range(2):
        with pytest.raises(ModelError, match="--trust-remote-code on the command line"):
            run(Recipe(**recipe_dict(task)), tmp_path / "out")
    assert not (tmp_path / "executed").exists()


def test_a_known_kind_of_model_is_loaded_without_the_code_beside_it(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    folder = shutil.copytree(task, tmp_path / "task")
    config = folder / "model" / "config.json"
    config.write_text(config.read_text().replace("own_bert", "bert"))
    shutil.copy(folder / "plain.json", folder / "model" / "tokenizer_config.json")
    run(Recipe(**recipe_dict(folder)), tmp_path / "out")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("place", ["", "data", "training"])
def test_no_recipe_and_no_study_can_ask_for_it(task: Path, place: str) -> None:
    given = recipe_dict(task)
    (given[place] if place else given)["trust_remote_code"] = True  # type: ignore[index]
    with pytest.raises(RecipeError, match="trust_remote_code"):
        Recipe(**given) if place else Recipe.from_document(_document(given))
    study = {"recipe": recipe_dict(task), "factors": ["stlr"], "trust_remote_code": True}
    with pytest.raises((RecipeError, TypeError), match="trust_remote_code"):
        Study(**study)


def _document(given: dict[str, object]) -> object:
    from finetricks.yaml_file import Document

    return Document(given)
