"""The docs say what the code does: every hook, trick and command appears, and the example trick works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetricks import Progress, installed
from finetricks.catalog import snake_case
from finetricks.cli import application
from finetricks.hooks import HOOKS

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


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []
