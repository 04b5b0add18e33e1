"""The command line: what it prints, where, and its exit codes. In this process; the last few in one of their own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from jsonschema import Draft202012Validator

import tiny
from finetricks import __version__, installed
from finetricks.cli import BUILT_IN, main

TRICKS = '''
from typing import Annotated, Literal
import torch
from pydantic import Field
from finetricks import ParamOptions, Trick, hookimpl
from finetricks.trick import Choice

class Fall(Trick):
    """Linearly from the base rate to [floor] of it.

    Source: this test.
    """

    neutral = {"floor": 1.0}
    conflicts = {"rise": "one falls, the other rises"}

    floor: Annotated[float, Field(ge=0, le=1, description="Where it ends."), Choice(0.0, 0.1)] = 0.0
    shape: Literal["line", "curve"] = "line"
    steps: Annotated[int, Field(gt=0)] | None = None

    @hookimpl
    def schedule(self, progress):
        return 1 - (1 - self.floor) * progress.fraction

class Rise(Trick):
    """The other way round."""

    @hookimpl
    def schedule(self, progress):
        return progress.fraction

class FromTop(Trick):
    """One layer an epoch, from the top."""

    @hookimpl
    def freeze(self, progress, layers):
        return layers.names[: max(len(layers.names) - 1 - progress.epoch, 0)]

    @hookimpl(wrapper=True)
    def loss(self):
        return (yield)

class Breaks(Trick):
    """Raises what it is told to."""

    what: str

    @hookimpl(wrapper=True)
    def loss(self, step):
        loss = yield
        if self.what == "interrupt":
            raise KeyboardInterrupt
        if self.what == "error":
            raise ZeroDivisionError("one [over] none")
        return loss * float("nan")
'''
RECIPE = """\
model: model
data:
  train: train.csv
  test: test.csv
  valid: 0.25
training:
  epochs: 2
  batch_size: 8
  learning_rate: 1.0e-2
tricks:
  - fall: {floor: 0.5}
  - from_top
"""


@dataclass
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*arguments: str | Path) -> Answer:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    (folder / "tricks.py").write_text(TRICKS)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the task, as the current one."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A finished run."""
    out = folder / "finished"
    with pytest.raises(SystemExit) as exit_:
        main(["train", str(folder / "recipe.yaml"), "--out", str(out), "--plugin", str(folder / "tricks.py")])
    assert exit_.value.code == 0
    return out


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, entry_points: str) -> None:
    """Put a distribution on the path, as pip would."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    monkeypatch.syspath_prepend(str(folder))
    installed.cache_clear()


@pytest.fixture
def known_afterwards() -> object:
    """Forget the distributions of a test when it ends."""
    yield
    installed.cache_clear()


# -- tricks ----------------------------------------------------------------------------------------------


def test_list_shows_the_tricks_and_where_they_come_from(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    answer = cli("list", "--plugin", "tricks.py", "--json")
    tricks = {trick["name"]: trick for trick in json.loads(answer.out)}
    assert tricks["from_top"] == {
        "name": "from_top",
        "summary": "One layer an epoch, from the top.",
        "hooks": ["freeze", "loss"],
        "wraps": ["loss"],
        "from": str(here / "tricks.py"),
        "written_for": None,
    }
    assert tricks["stlr"]["from"] == f"finetricks {__version__}"
    table = cli("list", "--plugin", "tricks.py").out
    assert "freeze, wraps loss" in table
    assert "[floor]" in table


def test_a_broken_trick_is_warned_of_with_its_distribution_and_the_rest_works(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_afterwards: object
) -> None:
    install(tmp_path, monkeypatch, "their-tricks", "[finetricks]\nsnapped = no_such_module:Snapped\n")
    for command in ("list", "schema"):
        answer = cli(command)
        assert answer.code == 0
        assert "warning: trick 'snapped' of their-tricks 1.2 does not load: ModuleNotFoundError" in answer.err
        assert "stlr" in answer.out
        assert "snapped" not in answer.out
    answer = cli("show", "snapped")
    assert answer.code == 2
    assert "error: trick 'snapped' of their-tricks 1.2 does not load" in answer.err


def test_show_is_the_card_of_a_trick(cli: Cli, here: Path) -> None:
    answer = cli("show", "fall", "--plugin", "tricks.py")
    assert answer.code == 0
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert lines[0] == f"fall (schedule; from {here / 'tricks.py'})"
    assert "Linearly from the base rate to [floor] of it." in lines
    assert "Source: this test." in lines
    assert "floor number ≥ 0, ≤ 1 0.0 0.0, 0.1 Where it ends." in lines
    assert 'shape "line" or "curve" "line"' in lines
    assert "steps integer > 0 or null null" in lines
    assert 'neutral at: {"floor": 1.0}' in lines
    assert "conflicts: rise (one falls, the other rises)" in lines
    assert "required" in cli("show", "breaks", "--plugin", "tricks.py").out


def test_show_as_json(cli: Cli, here: Path) -> None:
    card = json.loads(cli("show", "fall", "--plugin", "tricks.py", "--json").out)
    assert card["neutral"] == {"floor": 1.0}
    assert card["fields"]["floor"] == {
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
        "required": False,
        "default": 0.0,
        "search": [0.0, 0.1],
        "description": "Where it ends.",
    }


def test_schema_knows_the_plugin_file(cli: Cli, here: Path) -> None:
    schema = json.loads(cli("schema", "--plugin", "tricks.py").out)
    assert Draft202012Validator(schema).is_valid({"tricks": [{"fall": {"floor": 1}}]})
    assert not Draft202012Validator(schema).is_valid({"tricks": [{"fall": {"floor": 2}}]})


# -- recipes ---------------------------------------------------------------------------------------------


def test_check_says_what_a_recipe_would_train(cli: Cli, here: Path) -> None:
    answer = cli("check", "recipe.yaml", "--plugin", "tricks.py", "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == {
        "ok": True,
        "summary": {
            "model": f"{here / 'model'}, 4 layers",
            "data": "classification of 2 labels; rows: 45 train, 15 valid, 12 test",
            "tricks": "fall, from_top",
            "training": "2 epochs, batches of 8, learning rate 0.01, seed 0",
            "steps": "12, 6 an epoch",
            # By hand: 6 steps x 2 frozen blocks, then 6 x (1 frozen + 3 live); the second epoch finds block.0.
            "replay": "Replay leaves out 6 of 36 block passes of training (forward 1, backward 2): 1.2x, "
            "in 1 MiB at the most; exact",
        },
        # One layer an epoch: of four layers two are reached in two epochs.
        "warnings": ["2 of 4 layers never thaw within the 12 steps: embeddings, block.0"],
    }
    answer = cli("check", "recipe.yaml", "--plugin", "tricks.py")
    assert answer.out.split()[:2] == ["ok", "recipe.yaml"]
    assert "warning: 2 of 4 layers never thaw" in answer.err


def test_check_of_a_recipe_without_a_task_loads_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("tricks: []")
    answer = cli("check", tmp_path / "bare.yaml")
    assert answer.code == 0
    assert "names no model or no data" in answer.err


WRONG = {
    "unknown trick": ("tricks: [fal]", "wrong.yaml:1 tricks.0.fal: unknown trick 'fal' (did you mean 'fall'?)"),
    "out of range": ("tricks:\n  - fall: {floor: 2}", "wrong.yaml:2 tricks.0.fall.floor: input should be less than or"),
    "two owners": ("tricks: [fall, rise]", "fall and rise both own the 'schedule' hook; pick one"),
    "declared conflict": ("tricks: [fall, rise]", "fall and rise exclude one another: one falls, the other rises"),
    "missing file": ("data:\n  train: nowhere.csv", "wrong.yaml:2 data.train: no such file: "),
    "unknown key": ("trainig: {}", "wrong.yaml:1 trainig: unknown key 'trainig' (did you mean 'training'?)"),
    "unknown field": ("training:\n  epoch: 3", "unknown key 'epoch' (did you mean 'epochs'?)"),
    "broken YAML": ("model: minilm\ntricks: [a\n", "wrong.yaml:3: not YAML: "),
    "not a mapping": ("- stlr", "a recipe is a mapping with the keys model, data, training, tricks, layers"),
    "missing column": (
        "model: model\ndata: {train: train.csv, text: body}",
        "'body'",
    ),
    "no such model": ("model: ./nowhere", "wrong.yaml:1 model: no such folder: "),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("command", ["check", "explain", "train"])
def test_a_mistake_in_a_recipe_is_exit_code_2_and_a_message(
    what: str, command: str, cli: Cli, here: Path, tmp_path: Path
) -> None:
    content, message = WRONG[what]
    (here / "wrong.yaml").write_text(content)
    out = ["--out", tmp_path / "run"] if command == "train" else []
    answer = cli(command, "wrong.yaml", "--plugin", "tricks.py", *out)
    assert answer.code == 2
    assert message in answer.err
    assert all(line.startswith("error: ") for line in answer.err.splitlines())
    assert answer.out == ""


def test_all_mistakes_are_shown_at_once_each_on_a_line(cli: Cli, here: Path) -> None:
    (here / "wrong.yaml").write_text("training:\n  epochs: 0\n  seed: x\ntricks:\n  - nonsense\n")
    assert len(cli("check", "wrong.yaml").err.splitlines()) == 3
    answer = cli("check", "wrong.yaml", "--json")
    assert answer.code == 2
    problems = json.loads(answer.out)["problems"]
    assert [problem["place"] for problem in problems] == [
        "wrong.yaml:2 training.epochs",
        "wrong.yaml:3 training.seed",
        "wrong.yaml:5 tricks.0.nonsense",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.yaml"], "cannot read"),
        (["check", "recipe.yaml", "--set", "training"], "--set training: write it as name=value"),
        (["check", "recipe.yaml", "--set", "training.epochs=-1"], "--set training.epochs: input should be greater"),
        (["check", "recipe.yaml", "--plugin", "nowhere.py"], "no such plugin file"),
        (["show", "nothing_like_it"], "unknown trick 'nothing_like_it'"),
        (["explain", "recipe.yaml", "--out", "plan.gif"], "plan.gif: the suffix says which kind of picture"),
        (["predict", "model", "test.csv"], "holds no run"),
        (["predict", "finished", "test.csv", "--out", "./test.csv"], "is the file to label; name another"),
        (["train", "recipe.yaml"], "Missing option '--out'"),
        (["trian", "recipe.yaml"], "No such command 'trian'. Did you mean 'train'?"),
        (["list", "--jsn"], "--jsn"),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_code_2_and_a_message(
    arguments: list[str], message: str, cli: Cli, here: Path
) -> None:
    answer = cli(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("command", [["explain"], ["train", "--out", "out"]])
def test_a_study_is_no_recipe_and_says_so(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("recipe: {model: minilm, data: {train: stdlib_docstrings}}\nfactors: [stlr]\n")
    answer = cli(command[0], study, *command[1:])
    assert answer.code == 2
    assert "no recipe but a study" in answer.err.replace("\n", " ")


def test_explain_as_json_is_the_plan(cli: Cli, here: Path) -> None:
    plan = json.loads(cli("explain", "recipe.yaml", "--plugin", "tricks.py", "--json").out)
    assert [group["layer"] for group in plan["groups"]] == ["embeddings", "block.0", "block.1", "head"]
    assert plan["total_steps"] == 12
    assert plan["learning_rate"]["head"][6] == pytest.approx(1e-2 * 0.75)  # halfway down to a half
    assert plan["stages"] == [
        {"from": 0, "to": 6, "frozen": ["embeddings", "block.0", "block.1"]},
        {"from": 6, "to": 12, "frozen": ["embeddings", "block.0"]},
    ]


def test_explain_prints_tables_and_draws_the_picture(
    cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    picture = tmp_path / "plan.svg"
    answer = cli("explain", "recipe.yaml", "--plugin", "tricks.py", "--set", "training.epochs=4", "--out", picture)
    assert answer.code == 0
    assert "embeddings to block.1" in answer.out
    assert f"picture: {picture}" in answer.out
    assert "never thaw" not in answer.err  # four layers in four epochs
    assert b">block.0<" in picture.read_bytes()


# -- runs ------------------------------------------------------------------------------------------------


def test_train_ends_with_the_metrics_and_the_folder(cli: Cli, here: Path, tmp_path: Path) -> None:
    answer = cli("train", "recipe.yaml", "--plugin", "tricks.py", "--out", tmp_path / "run", "--set", "data.test=null")
    assert answer.code == 0
    # A note of the plan, but no bar where there is no terminal.
    assert answer.err == "note: 2 of 4 layers never thaw within the 12 steps: embeddings, block.0\n"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"{result['valid']['accuracy']:.4f}" in answer.out
    assert str(tmp_path / "run") in answer.out


def test_resume_of_a_finished_run_gives_its_result_as_json(cli: Cli, here: Path, finished: Path) -> None:
    answer = cli("train", "recipe.yaml", "--plugin", "tricks.py", "--out", finished, "--resume", "--json")
    result = json.loads(answer.out)
    assert set(result) == {"valid", "test", "seconds", "steps", "notes", "folder"}
    assert result["valid"] == json.loads((finished / "result.json").read_text())["valid"]
    assert result["steps"] == 12


def test_a_folder_in_the_current_one_is_told_as_its_user_named_it(cli: Cli, here: Path, finished: Path) -> None:
    answer = cli("train", "recipe.yaml", "--plugin", "tricks.py", "--out", "finished", "--resume")
    assert answer.out.endswith("; the run's folder: finished\n")


def test_a_folder_that_holds_another_run_is_refused(cli: Cli, here: Path, finished: Path) -> None:
    train = ["train", "recipe.yaml", "--plugin", "tricks.py", "--out", finished]
    before = (finished / "result.json").read_bytes()
    answer = cli(*train)
    assert answer.code == 2
    assert "already holds a run: --resume continues it, --overwrite replaces it" in answer.err
    assert cli(*train, "--resume", "--set", "training.seed=1").code == 2
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        (
            "nan",
            1,
            "error: diverged at step 0: the loss is not finite\n"
            "error: the first value that is not finite is what trick 'breaks' of HERE/tricks.py gave in its hook "
            "'loss'\n",
        ),
        (
            "error",
            1,
            "error: ZeroDivisionError: one [over] none\nerror: (FINETRICKS_DEBUG=1 shows where)\n"
            "error: raised by trick 'breaks' of HERE/tricks.py in its hook 'loss'\n",
        ),
        ("interrupt", 130, "interrupted; the same command with --resume goes on from the last checkpoint\n"),
    ],
)
def test_work_that_fails_is_a_message_and_no_traceback(
    what: str, code: int, message: str, *, cli: Cli, here: Path, tmp_path: Path
) -> None:
    (here / "breaks.yaml").write_text(RECIPE.replace("- from_top", f"- breaks: {{what: {what}}}"))
    answer = cli("train", "breaks.yaml", "--plugin", "tricks.py", "--out", tmp_path / "run")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err == message.replace("HERE", str(here))


def test_the_traceback_is_shown_on_demand(
    cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETRICKS_DEBUG", "1")
    (here / "breaks.yaml").write_text(RECIPE.replace("- from_top", "- breaks: {what: error}"))
    answer = cli("train", "breaks.yaml", "--plugin", "tricks.py", "--out", tmp_path / "run")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert "tricks.py" in answer.err


def test_predict_labels_new_rows(cli: Cli, here: Path, finished: Path, tmp_path: Path) -> None:
    answer = cli("predict", finished, "test.csv", "--plugin", "tricks.py")
    assert (answer.code, answer.err) == (0, "")
    (tmp_path / "out.csv").write_text(answer.out)
    rows = pd.read_csv(tmp_path / "out.csv")
    assert list(rows.columns) == ["text", "label", "prediction", "score:bird", "score:fish"]
    assert len(rows) == 12
    told = cli("predict", finished, "test.csv", "--plugin", "tricks.py", "--out", tmp_path / "new" / "rows.csv")
    assert told.out == f"12 rows labelled: {tmp_path / 'new' / 'rows.csv'}\n"
    assert (tmp_path / "new" / "rows.csv").read_text() == answer.out
    records = json.loads(cli("predict", finished, "test.csv", "--plugin", "tricks.py", "--json").out)
    assert [record["prediction"] for record in records] == rows["prediction"].tolist()


# -- what other distributions add ------------------------------------------------------------------------

THEIRS = '''
from typing import Annotated
import typer
from finetricks import InputError

def greet(name: Annotated[str, typer.Argument()]) -> None:
    """Greet someone."""
    if name == "nobody":
        raise InputError("there is nobody to greet")
    typer.echo(f"hello {name}")

def check_menu(file, overrides, catalog):
    if "soup" in file.read_text():
        raise InputError("no soup today")
    return {"dishes": "[2]", "overrides": " ".join(overrides)}
'''


def test_a_distribution_adds_a_command(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_afterwards: object
) -> None:
    (tmp_path / "their_commands.py").write_text(THEIRS)
    install(tmp_path, monkeypatch, "theirs", "[finetricks.commands]\ngreet = their_commands:greet\n")
    assert "Greet someone." in cli("--help").out
    assert cli("greet", "Ada").out == "hello Ada\n"
    assert cli("greet", "nobody") == Answer(2, "", "error: there is nobody to greet\n")


def test_commands_that_cannot_be_used_take_only_themselves_down(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_afterwards: object
) -> None:
    (tmp_path / "their_commands.py").write_text(THEIRS)
    both = "greet = their_commands:greet\n"
    install(tmp_path, monkeypatch, "first", f"[finetricks.commands]\n{both}cook = no_such_module:cook\n")
    install(tmp_path, monkeypatch, "second", f"[finetricks.commands]\n{both}train = their_commands:greet\n")
    answer = cli("--help")
    assert answer.code == 0
    for message in (
        "warning: 'cook' of first 1.2 does not load: ModuleNotFoundError: No module named 'no_such_module'",
        "warning: 'greet' is left out: first 1.2 and second 1.2 both announce it in finetricks.commands",
        "warning: 'train' of second 1.2 is left out: finetricks has a 'train' of its own",
    ):
        assert message in answer.err
    assert all(f" {name} " in answer.out for name in BUILT_IN)
    assert "greet" not in answer.out


def test_a_distribution_checks_files_of_its_own_kind(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_afterwards: object
) -> None:
    (tmp_path / "their_commands.py").write_text(THEIRS)
    install(tmp_path, monkeypatch, "theirs", "[finetricks.checkers]\ndishes = their_commands:check_menu\n")
    menu = tmp_path / "menu.yaml"
    menu.write_text("dishes: [bread, cheese]")
    answer = cli("check", menu, "--set", "a=b")
    assert answer.code == 0
    assert [line.split() for line in answer.out.splitlines()][1:] == [["dishes", "[2]"], ["overrides", "a=b"]]
    menu.write_text("dishes: [soup]")
    assert cli("check", menu) == Answer(2, "", "error: no soup today\n")


# -- as a program ----------------------------------------------------------------------------------------


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finetricks", *arguments], stderr=subprocess.PIPE, text=True, check=False, **options
    )


def test_help_and_version_answer_at_once_and_import_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answers = [program("--help", stdout=subprocess.PIPE) for _ in range(3)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of work, not of waiting for a busy machine.
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3 < 0.4
    assert {answer.returncode for answer in answers} == {0}
    assert all(f" {name} " in answers[0].stdout for name in BUILT_IN)
    code = (
        "import sys; from finetricks.cli import application; application();"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'ray', 'numpy'};"
        "print({module.split('.')[0] for module in sys.modules} & heavy)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"
    assert program("--version", stdout=subprocess.PIPE).stdout == f"finetricks {__version__}\n"


@pytest.mark.parametrize("arguments", [("--help",), ("show", "fall", "--plugin", "tricks.py", "--json")])
def test_a_pipe_that_is_closed_is_no_error(arguments: tuple[str, ...], here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert program(*arguments, stdout=writing).stderr == ""
    finally:
        os.close(writing)


def test_a_mistake_is_exit_code_2_of_the_process(tmp_path: Path) -> None:
    answer = program("check", str(tmp_path / "nowhere.yaml"), stdout=subprocess.PIPE)
    assert answer.returncode == 2
    assert answer.stderr == f"error: cannot read {tmp_path / 'nowhere.yaml'}: No such file or directory\n"
