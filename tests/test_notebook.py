"""The example notebook runs, and shows what stands in it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from notebook import differences, execute  # noqa: E402

NOTEBOOK = ROOT / "examples" / "finetricks.ipynb"


def test_it_shows_what_it_shows_when_it_is_executed(tmp_path: Path) -> None:
    assert differences(nbformat.read(NOTEBOOK, as_version=4), execute(NOTEBOOK, tmp_path)) == []
    assert (tmp_path / "runs" / "study" / "report.html").is_file()


def test_it_is_whole_and_of_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 8 <= len(code) <= 12
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert [output.output_type for cell in code for output in cell.outputs].count("error") == 0
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    text = NOTEBOOK.read_text()
    assert len(text) < 200_000
    assert [word for word in ("/home/", "/root/", "/tmp/", "/work/", "\\u001b", str(ROOT)) if word in text] == []
    links = [
        target.rstrip(").,")
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for target in cell.source.split("](")[1:]
    ]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link.partition(")")[0]).exists()] == []


@pytest.mark.parametrize(
    ("shows", "other"),
    [("e-04", "e-05"), ("5 paired seeds", "6 paired seeds"), ("24 steps", "25 steps")],
)
def test_another_figure_is_found(shows: str, other: str) -> None:
    told = nbformat.read(NOTEBOOK, as_version=4)
    now = copy.deepcopy(told)
    changed = 0
    for cell in now.cells:
        for output in cell.get("outputs", []):
            if shows in output.get("text", ""):
                output.text = output.text.replace(shows, other)
                changed += 1
    assert changed == 1
    (found,) = differences(told, now)
    assert other in found
    assert differences(told, told) == []
