"""The docs say what the code does: every hook, trick and command appears, and the example trick works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from finetricks import Progress, Recipe, installed
from finetricks.catalog import snake_case
from finetricks.cli import application, main
from finetricks.hooks import HOOKS
from finetricks.testing import ORDER
from finetricks.testing.check import CHECKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WRITING = (ROOT / "docs" / "writing-a-trick.md").read_text()


def test_the_readme_names_every_trick_and_every_command() -> None:
    ours = [name for name, entry in installed().entries.items() if entry.distribution == "finetricks"]
    assert [name for name in ours if f"| `{name}` |" not in README] == []
    commands = [command.name or snake_case(command.callback.__name__) for command in application().registered_commands]
    text = README + "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert [name for name in commands if f"finetricks {name}" not in text] == []


def test_generated_pages_are_what_the_tricks_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + "run `python docs/generate.py`"


def test_every_hook_is_documented() -> None:
    assert [hook for hook in HOOKS if f"| `{hook}(" not in WRITING] == []


def test_the_example_trick_works(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", WRITING, re.DOTALL)[0]
    path = tmp_path / "my_trick.py"
    path.write_text(code)
    trick = installed().with_file(path).get("cooldown")(share=0.2)
    # 10 steps: held for 8, then 1, 1/2
    values = [trick.schedule(Progress(step, 10, 10)) for step in range(10)]
    assert values == pytest.approx([1.0] * 9 + [0.5])


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


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "examples/plugin/README.md",
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []
