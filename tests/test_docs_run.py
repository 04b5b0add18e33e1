"""The code and the commands of the tutorial and of the how-to pages work as printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))
from blocks import run, same  # noqa: E402

TUTORIAL = [DOCS / "tutorial" / f"{name}.md" for name in ("1-train", "2-study", "3-report", "4-trick", "5-cluster")]
HOW_TO = sorted(DOCS.glob("how-to/*.md"))
SMALLER = {
    "rows: 256": "rows: 24",
    "valid: 0.1": "valid: 0.02",
    "epochs: 3": "epochs: 1",
    "max_length: 32": "max_length: 8",
}
"""What makes the first page of the tutorial a matter of seconds: its commands run, its figures are others."""


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_page_works_as_printed(page: Path, tmp_path: Path) -> None:
    for library in ("trl", "peft", "lightning") if page.stem == "other-trainers" else ():
        pytest.importorskip(library, reason=f"the page shows {library}, which is not installed")
    run(page.read_text(), tmp_path)


def test_the_tutorial_runs(tmp_path: Path) -> None:
    run(TUTORIAL[0].read_text(), tmp_path, smaller=SMALLER)


def test_the_page_on_writing_a_trick_works_as_printed(tmp_path: Path) -> None:
    run(TUTORIAL[3].read_text(), tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    for page in TUTORIAL:  # each goes on with the files of those before
        run(page.read_text(), tmp_path)


@pytest.mark.nightly
def test_the_first_screen_works_as_printed(tmp_path: Path) -> None:
    run((DOCS / "index.md").read_text(), tmp_path)


@pytest.mark.parametrize(
    ("told", "printed"),
    [
        ("accuracy 0.57", "accuracy 0.61"),
        ("a\n...\nz\n", "a\nb\nc\nz\n"),
        ("a\n...\nz\n", "a\nz\n"),
        ("...\nz\n", "z\n"),
        ("x ▲ helps +0.1", "x ○ undecided -0.2"),
    ],
)
def test_what_differs_between_machines_is_not_compared(told: str, printed: str) -> None:
    assert same(told, printed)


@pytest.mark.parametrize(
    ("told", "printed"), [("24 steps", "25 steps"), ("accuracy 0.5", "recall 0.5"), ("", "warning")]
)
def test_what_should_be_equal_is_compared(told: str, printed: str) -> None:
    assert not same(told, printed)


def test_a_page_is_run_in_order_and_its_output_compared(tmp_path: Path) -> None:
    page = '```txt title="a.txt"\none\n```\n\n```console\n$ cat a.txt\none\n$ false\n$ echo $?\n1\n```\n'
    assert run(page, tmp_path) == page
    with pytest.raises(AssertionError, match=r"(?s)cat a.txt.*\+one"):
        run(page.replace("cat a.txt\none", "cat a.txt\ntwo"), tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        run("```console\n$ false\n```\n", tmp_path)
