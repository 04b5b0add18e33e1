"""The example notebook runs from top to bottom, and shows what it is about."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from finetricks import Recipe
from finetricks_tuning.study import Study

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from notebook import EXACT, VARIES, differences, execute  # noqa: E402

NOTEBOOK = ROOT / "examples" / "finetricks.ipynb"
STUDY, SHELL = "%%writefile study.yaml\n", "%%bash\n"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_every_cell_runs_and_shows_what_stands_there(notebook: Any, tmp_path: Path) -> None:
    now = execute(NOTEBOOK, tmp_path)
    assert differences(notebook, now) == []
    outputs = [output for cell in now.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "\n24 steps\n" in text
    assert "head        factor 1.000  rate at step 23 1.51e-05" in text
    assert "label_smoothing " in text
    assert "report: runs/study/report.html" in text
    assert [list(output.data) for output in outputs if "image/png" in output.get("data", {})] == [["image/png"]]
    assert str(tmp_path) not in str(outputs)
    assert (tmp_path / "runs" / "study" / "report.html").is_file()


def test_it_is_whole_and_of_no_machine(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert 8 <= len(sources(notebook)) <= 12
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert [output.output_type for cell in code for output in cell.outputs].count("error") == 0
    text = NOTEBOOK.read_text()
    assert len(text) < 100_000
    assert text.count("image/png") == 1
    assert [word for word in ("/home/", "/root/", "/tmp/", "\\u001b", str(ROOT)) if word in text] == []
    links = [part for cell in notebook.cells if cell.cell_type == "markdown" for part in cell.source.split("](")[1:]]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link.partition(")")[0]).exists()] == []


def test_its_recipe_and_its_study_are_sound(notebook: Any, tmp_path: Path) -> None:
    code = sources(notebook)
    for source in code:
        if not source.startswith("%%"):
            ast.parse(source)
    first: dict[str, Any] = {}
    exec(code[0], first)
    assert isinstance(first["recipe"], Recipe)
    (study,) = [source.removeprefix(STUDY) for source in code if source.startswith(STUDY)]
    (tmp_path / "study.yaml").write_text(study)
    assert len(Study.load(tmp_path / "study.yaml").configurations) == 3
    assert [source.split()[1:3] for source in code if source.startswith(SHELL)] == [["finetricks", "sweep"]]


def shown(text: str, *tags: str) -> Any:
    cell = new_code_cell("...", metadata={"tags": list(tags)}, outputs=[new_output("stream", text=text)])
    return new_notebook(cells=[cell])


@pytest.mark.parametrize(
    ("told", "now", "tags"),
    [
        ("accuracy 0.57, 24 steps\n", "accuracy 0.61, 24 steps\n", ()),
        ("rate 1.5e-05\n", "rate 1.5e-05\n", (EXACT,)),
        ("tkinter\n", "asyncio\n", (VARIES,)),
    ],
)
def test_what_differs_between_machines_is_no_difference(told: str, now: str, tags: tuple[str, ...]) -> None:
    assert differences(shown(told, *tags), shown(now, *tags)) == []


@pytest.mark.parametrize(
    ("told", "now", "tags"),
    [("24 steps\n", "25 steps\n", ()), ("rate 1.5e-05\n", "rate 1.6e-05\n", (EXACT,)), ("tkinter\n", "asyncio\n", ())],
)
def test_another_figure_is_one(told: str, now: str, tags: tuple[str, ...]) -> None:
    (found,) = differences(shown(told, *tags), shown(now, *tags))
    assert now in found


def test_a_lost_output_is_one() -> None:
    other = copy.deepcopy(shown("tkinter\n", VARIES))
    other.cells[0].outputs = []
    assert "cell 0 shows []" in differences(shown("tkinter\n", VARIES), other)[0]
