"""The docs say what the code does: hooks, tricks, commands, options and names, in both directions."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import finetricks
import tiny
from finetricks import Recipe, installed
from finetricks.cli import application, main
from finetricks.folder import OWN
from finetricks.hooks import HOOKS
from finetricks.settings import Data, Training
from finetricks.testing import ORDER
from finetricks.testing.check import CHECKS
from finetricks_tuning.study import StudySettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
from blocks import FENCE  # noqa: E402

README = (ROOT / "README.md").read_text()
WRITING = (DOCS / "writing-a-trick.md").read_text()
PAGES = [
    "README.md",
    "README.zh.md",
    "examples/plugin/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")),
]


def command_line() -> dict[str, Any]:
    app: Any = typer.main.get_command(application())
    return dict(app.commands)


def test_the_readme_names_every_trick() -> None:
    ours = [name for name, entry in installed().entries.items() if entry.distribution == "finetricks"]
    assert [name for name in ours if f"| `{name}` |" not in README] == []


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + "run `python docs/generate.py`"


def test_every_hook_is_documented() -> None:
    assert [hook for hook in HOOKS if f"| `{hook}(" not in WRITING] == []
    reference = (DOCS / "reference" / "hooks.md").read_text()
    assert [hook for hook in HOOKS if f"## `{hook}`\n" not in reference] == []


def test_every_command_and_option_is_documented() -> None:
    page = (DOCS / "reference" / "commands.md").read_text()
    sections = dict(re.findall(r"^## finetricks ([\w-]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    commands = command_line()
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = [flag for one in command.params if one.name != "help" for flag in one.opts if flag.startswith("--")]
        assert [flag for flag in options if f"`{flag}`" not in sections[name]] == []


def test_the_console_blocks_about_writing_a_trick_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```console\n(.*?)```", WRITING, re.DOTALL)
    with_a_file, with_a_package = blocks  # the latter runs in tests/test_new_plugin.py
    assert "new-plugin" in with_a_package
    (tmp_path / "my_trick.py").write_text(re.findall(r"```python\n(.*?)```", WRITING, re.DOTALL)[0])
    tiny.write_task(tmp_path)
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    recipe = Recipe(
        model=str(tmp_path / "model"), data={"train": str(tmp_path / "train.csv"), "valid": 0.2}, training=settings
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    monkeypatch.chdir(tmp_path)
    for line in with_a_file.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "finetricks"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, line
    assert "Hold the rate, then fall linearly to zero" in capsys.readouterr().out
    assert Recipe.load("runs/cooldown/recipe.yaml", catalog=installed().with_file("my_trick.py")).tricks


def test_every_check_of_the_kit_is_documented() -> None:
    (table,) = re.findall(r"<!-- checks:.*?-->\n(.*?)<!-- end of checks -->", WRITING, re.DOTALL)
    assert [line for line in table.splitlines() if line.startswith("| `")] == [
        f"| `{name}` | {CHECKS[name].about.replace('|', chr(92) + '|')} |" for name in ORDER
    ]


def test_every_setting_is_documented() -> None:
    for page, models in (("recipe", (Data, Training)), ("study", (StudySettings,))):
        text = (DOCS / "reference" / f"{page}.md").read_text()
        assert [name for model in models for name in model.model_fields if f"| `{name}` |" not in text] == []


def test_every_public_name_is_documented() -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    names = {name for name in finetricks.__all__ if not name.startswith("__")}
    by_itself = {"TrickModule"}  # of finetricks.lightning, which needs an extra
    assert set(re.findall(r"^::: finetricks\.\w+\.(\w+)$", page, re.MULTILINE)) == names | by_itself


def test_every_file_of_a_run_is_documented() -> None:
    page = (DOCS / "reference" / "files.md").read_text()
    assert [name for name in OWN if f"| `{name}`" not in page and f"| `{name}/`" not in page] == []


def mentioned_commands(text: str) -> Iterator[list[str]]:
    """Every command of ours in a fenced block or between backticks, as words."""
    code = [found[2].replace("\\\n", " ") for found in FENCE.findall(text)]
    lines = [line for block in code for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`(finetricks [^`]+)`", FENCE.sub("", text).replace("\n", " "))]:
        if found := re.match(r"(?:\$ )?(finetricks .*)", line):
            yield shlex.split(found[1], comments=True)[1:]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_mentions_a_command_or_an_option_that_does_not_exist(page: str) -> None:
    commands = command_line()
    for words in mentioned_commands((ROOT / page).read_text()):
        if words[0].startswith(("-", "0")) or words[0] in ("COMMAND", "..."):  # --version, a version
            continue
        assert words[0] in commands, words
        known = {flag for one in commands[words[0]].params for flag in one.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, words


@pytest.mark.parametrize("page", [page for page in PAGES if "CHANGELOG" not in page])
def test_no_page_mentions_a_trick_that_does_not_exist(page: str) -> None:
    """In a recipe or a study: what stands in a list under `tricks` or `factors`."""
    known = {*installed().names(), "cooldown", "r_drop", "one_of"}
    for _, _, code in FENCE.findall((ROOT / page).read_text()):
        for block in re.findall(r"^(?:tricks|factors):((?:\n +.*)+|.*)", re.sub(r" *#.*", "", code), re.MULTILINE):
            named = re.findall(r"^ *- ([a-z]\w*)(?![\w.])", block, re.MULTILINE) or re.findall(
                r"[\[,] *([a-z]\w*)", block
            )
            assert [name for name in named if name not in known] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_other_sites_are_whole(page: str) -> None:
    links = re.findall(r"\]\((http[^)]*)\)", (ROOT / page).read_text())
    assert [link for link in links if not re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/\S*)?", link)] == []


def test_every_tutorial_page_is_there_in_both_languages() -> None:
    """That their blocks are equal is part of what is generated."""
    english = sorted(path.name for path in (DOCS / "tutorial").glob("*.md"))
    assert english == sorted(path.name for path in (DOCS / "zh" / "tutorial").glob("*.md"))
    for name in english:
        pages = [(folder / name).read_text() for folder in (DOCS / "tutorial", DOCS / "zh" / "tutorial")]
        assert FENCE.findall(pages[0]) == FENCE.findall(pages[1])
        assert f"(../zh/tutorial/{name})" in pages[0]
        assert f"(../../tutorial/{name})" in pages[1]
