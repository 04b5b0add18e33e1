"""The files of examples/literature run as printed, on tiny models and data; and the docs' index leaves out no trick."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer
from transformers.utils import logging

import tiny
from finetricks import installed, run
from finetricks.cli import main
from finetricks.pipeline import holds_steps
from finetricks.yaml_file import dump_yaml, load_yaml
from finetricks_tuning.study import Study

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "examples" / "literature").glob("*.yaml"))
CONTENT: dict[Path, Any] = {file: load_yaml(file).data for file in FILES}
STUDIES = [file for file in FILES if "factors" in CONTENT[file]]
RECIPES = [file for file in FILES if file not in STUDIES]
INDEX = ROOT / "docs" / "literature" / "index.md"


@pytest.fixture(autouse=True)
def _bars_are_put_back() -> Iterator[None]:
    """The command line turns the libraries' progress bars off for its process."""
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six blocks, as `minilm` has, and every file that the examples name."""
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    tiny.bert(blocks=6).save_pretrained(folder / "model")
    assert AutoTokenizer.from_pretrained(folder / "model").mask_token
    shutil.copy(folder / "train.csv", folder / "valid.csv")
    rows = [line.rsplit(",", 1) for line in (folder / "train.csv").read_text().splitlines()[1:]]
    texts = [text for text, _ in rows]
    for name in ("corpus.txt", "domain.txt", "others.txt"):
        (folder / name).write_text("\n".join(texts) + "\n")
    long = [
        f"{' '.join([text] * 8)},{label}" for text, label in rows
    ]  # of 40 tokens and more, where the model takes 32
    (folder / "reviews.csv").write_text("\n".join(["text,label", *long]) + "\n")
    other = [f"{text},{'long' if text.count(' ') > 4 else 'short'}" for text in texts]
    (folder / "other.csv").write_text("\n".join(["text,label", *other]) + "\n")
    halves = [rows[index // 2] for index in range(len(rows))]
    pairs = [f"{a},{b},{'same' if x == y else 'other'}" for (a, x), (b, y) in zip(rows, halves, strict=True)]
    (folder / "pairs.csv").write_text("\n".join(["premise,hypothesis,label", *pairs]) + "\n")
    return folder


@pytest.fixture
def here(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files, in which the commands are run. Beside the examples are those that no command names."""
    shutil.copytree(task, tmp_path, dirs_exist_ok=True)
    examples = tmp_path / "examples" / "literature"
    examples.mkdir(parents=True)
    for name in ("train.csv", "domain.txt", "others.txt"):
        shutil.copy(task / name, examples)
    monkeypatch.chdir(tmp_path)
    return examples


def command_of(file: Path) -> list[str]:
    """The command that a file's comment prints, without the program."""
    lines = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    found = re.search(r"^finetricks (.*?[^\\])$", "\n".join(lines), re.MULTILINE | re.DOTALL)
    assert found, file
    return shlex.split(found[1].replace("\\\n", " "))


def smaller(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe, a file of steps or a study on a tiny model, with few rows, steps and epochs."""
    if "steps" in content:
        return {"steps": {name: smaller(step) for name, step in content["steps"].items()}}
    if "recipe" in content:
        return {**content, "recipe": smaller(content["recipe"]), "factors": shorter(content["factors"]), "confirm": 0}
    if "new_lstm" in content:
        return {"new_lstm": {**content["new_lstm"], "embedding_size": 8, "hidden_size": 8}}
    found = {**content, "tricks": shorter(content["tricks"])}
    if isinstance(found["model"], str):
        found["model"] = str(Path.cwd() / "model")
    if "data" in found:
        found["training"] = {**found["training"], "batch_size": 16, "epochs": min(found["training"]["epochs"], 6)}
        found["data"] = {**found["data"], **({"rows": 40} if "rows" in found["data"] else {})}
    return found


def shorter(value: Any) -> Any:
    """Tricks or factors with three steps of pretraining."""
    if isinstance(value, list):
        return [shorter(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: {**inner, "steps": 3} if name == "further_pretraining" else shorter(inner)
        for name, inner in value.items()
    }


def command(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as end:
        return end.code


def results() -> dict[str, dict[str, Any]]:
    found = Path("runs").rglob("result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_runs_as_printed(file: Path, here: Path) -> None:
    words = command_of(file)
    assert words[:3] == ["train", f"examples/literature/{file.name}", "--out"]
    content = smaller(CONTENT[file])
    (here / file.name).write_text(dump_yaml(content))
    assert command(words) == 0
    found = results()
    steps = content["steps"] if holds_steps(content) else {file.stem: content}
    assert found.keys() == {name for name, step in steps.items() if "new_lstm" not in step}
    for name, result in found.items():
        trains = "data" in steps[name]
        assert (result["steps"] > 0) == trains
        assert trains == bool(result["valid"])
        assert all(math.isfinite(value) for value in result["valid"].values())


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_configuration_of_a_study_trains(file: Path, here: Path) -> None:
    content = smaller(CONTENT[file])
    content["recipe"]["training"]["epochs"] = 5 if "sequential_unfreezing" in file.read_text() else 1  # k is 5
    (here / file.name).write_text(dump_yaml(content))
    settings = [word for word in command_of(file) if word.startswith("recipe.")]
    study = Study.load(here / file.name, settings)
    assert not study.left_out
    for index, configuration in enumerate(study.configurations):
        result = run(configuration.recipe(study.recipe, 0), Path("runs") / str(index), save_model=False)
        assert math.isfinite(result.valid[study.settings.metric])


@pytest.mark.nightly
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_runs_as_printed(file: Path, here: Path) -> None:
    words = command_of(file)
    assert words[:3] == ["sweep", f"examples/literature/{file.name}", "--out"]
    content = {**smaller(CONTENT[file]), "seeds": 2}
    (here / file.name).write_text(dump_yaml(content))
    assert command(words) == 0
    (written,) = Path("runs").rglob("summary.json")
    summary = json.loads(written.read_text())
    assert summary["rows"]
    assert summary["counts"]["finished"] == summary["counts"]["planned"]


def test_every_file_has_its_page() -> None:
    for file in FILES:
        (page,) = set(re.findall(r"docs/literature/\w+\.md", file.read_text()))
        assert f"examples/literature/{file.name}" in (ROOT / page).read_text()


def test_the_index_maps_every_trick_to_its_paper_and_leads_to_every_file() -> None:
    rows = [line for line in INDEX.read_text().splitlines() if line.startswith("|")]
    ours = [name for name, entry in installed().entries.items() if entry.distribution == "finetricks"]
    listed = {name: row for row in rows for name in re.findall(r"\[`(\w+)`\]\(\.\./tricks\.md#\w+\)", row)}
    assert sorted(listed) == sorted(ours)
    assert all(re.search(r"\b(19|20)\d\d\b|no paper", row) for row in listed.values())
    text = INDEX.read_text()
    assert [file.name for file in FILES if file.name not in text] == []
