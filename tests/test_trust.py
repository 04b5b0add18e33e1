"""Code that comes with a model runs only where the user has said so on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from finetricks import ModelError, RecipeError, run
from finetricks.recipe import Recipe
from finetricks_tuning.study import Study

CODE = """
import os, sys
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

open(os.environ["EXECUTED"], "a").write("x")

class OwnConfig(BertConfig):
    model_type = "own_bert"

class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""

COMMANDS = """
import sys
from finetricks.cli import main
def code(*arguments):
    try:
        return main([*arguments])
    except SystemExit as end:
        return end.code
recipe, out, rows = sys.argv[1:4]
for more in ([], ["--trust-remote-code"]):
    each = (["check", recipe], ["explain", recipe], ["train", recipe, "--out", out],
            ["predict", out, rows, "--out", out + "/new.csv"])
    print("codes", *(code(*arguments, *more) for arguments in each))
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
    return folder


def recipe_dict(task: Path) -> dict[str, object]:
    data = {"train": str(task / "train.csv"), "valid": 0.25}
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}
    return {"model": str(task / "model"), "data": data, "training": training}


def test_it_runs_with_the_flag_and_not_without(task: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(Recipe(**recipe_dict(task)).to_yaml())
    environment = os.environ | {"EXECUTED": str(tmp_path / "executed"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), str(task / "test.csv")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said = " ".join(done.stderr.split())
    codes = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("codes")]
    assert codes == [["2", "2", "2", "2"], ["0", "0", "0", "0"]], said
    assert said.count("comes with code of its own, which is executed only if you say that you trust it") == 3
    assert "Traceback" not in said
    assert (tmp_path / "executed").exists()


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
