"""The reproductions: their studies can be run, and their pages say what the ledgers and the papers' files hold."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoConfig

import tiny
from finetricks.pipeline import Pipeline
from finetricks.pipeline_run import run_pipeline
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "reproductions"
sys.path.insert(0, str(FOLDER))
import page as pages  # noqa: E402

STUDIES = sorted(file for file in FOLDER.glob("*.yaml") if "steps" not in yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_can_be_run(file: Path) -> None:
    assert Study.load(file).left_out == ()


@pytest.mark.parametrize("name", pages.ORDER)
def test_the_rows_of_a_page_are_configurations_of_its_studies(name: str) -> None:
    spec = yaml.safe_load((pages.PAPER / f"{name}.yaml").read_text())
    files = [file for file in STUDIES if file.stem in spec.get("studies", ()) or file.stem.startswith(name)]
    known = [{c.name for c in Study.load(file).configurations} for file in files]
    for table in spec.get("tables", ()):
        rows = {row["row"]: row for row in table["rows"]}
        assert table["against"] in rows
        for row in rows.values():
            own = known[min(row.get("folder", 0), len(known) - 1)]
            assert [c for c in own if pages.fnmatchcase(c, row["configuration"])], row


def test_the_index_is_what_the_papers_files_say() -> None:
    assert (ROOT / "docs" / "reproductions" / "index.md").read_text() == pages.index()


@pytest.mark.parametrize("name", pages.ORDER)
def test_a_page_holds_what_its_file_says(name: str) -> None:
    spec = yaml.safe_load((pages.PAPER / f"{name}.yaml").read_text())
    written = (ROOT / "docs" / "reproductions" / f"{name}.md").read_text()
    assert all(spec[key].strip() in written for key in ("question", "source", "differs", "full", "reduced", "run"))
    assert (spec["findings"].strip() in written) == ("Neither was run for this page" not in written)
    assert "TODO" not in written


def test_the_language_model_of_the_lstm_can_be_made(tmp_path: Path) -> None:
    texts = tiny.write_task(tmp_path) / "train.csv"
    settings = [f"steps.lstm.new_lstm.corpus={texts}"]
    for step in ("pretrain", "tune"):
        trick = f"steps.{step}.tricks.further_pretraining"
        settings += [f"{trick}.corpus={texts}", f"{trick}.steps=1"]
    results = run_pipeline(Pipeline.load(FOLDER / "ulmfit_lstm.yaml", settings), tmp_path / "out")
    assert list(results) == ["pretrain", "tune"]
    config = AutoConfig.from_pretrained(tmp_path / "out" / "tune" / "model")
    assert len(config.layer_widths) == 4  # embeddings and three layers, as the paper's


def test_variance_components_by_hand() -> None:
    # Row means 1, 3; column means 1.5, 2.5; residuals all 0.5 in size. Mean squares: rows 2 * var(1, 3) = 4, columns
    # 2 * var(1.5, 2.5) = 1, residual 4 * 0.25 / 1 = 1. Components (4 - 1) / 2 = 1.5, (1 - 1) / 2 = 0, and 1.
    found = pages.components(np.array([[0.0, 2.0], [3.0, 3.0]]))
    assert [part for part, *_ in found.values()] == pytest.approx([1.5, 0.0, 1.0])
    assert [share for _, share, *_ in found.values()] == pytest.approx([0.6, 0.0, 0.4])
    # F with 1 and 1 degrees of freedom: P(F > f) = 1 - 2/pi * atan(sqrt f).
    assert found["rows"][2] == pytest.approx(1 - 2 / math.pi * math.atan(2.0))


def test_a_page_is_written_from_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write_task(tmp_path)
    recipe = {
        "model": str(folder / "model"),
        "data": {"train": str(folder / "train.csv"), "valid": 0.25, "test": str(folder / "test.csv")},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2, "init_seed": 0},
    }
    factors = [{"training.init_seed": {"values": [0, 1]}}]
    summary = sweep(Study(recipe=recipe, factors=factors, seeds=2, confirm=0), tmp_path / "out")
    rows = [
        {"row": "off", "configuration": "baseline", "paper": 5.0},
        {"row": "on", "configuration": "training.init_seed=1", "paper": 4.0},
    ]
    table = {"metric": "accuracy", "error": True, "measure": "error, %", "paper": "paper", "against": "off"}
    texts = dict.fromkeys(("question", "source", "differs", "full", "reduced", "run", "findings"), "text")
    spec = texts | {
        "title": "T",
        "budget": "B",
        "folders": ["OUT"],
        "tables": [table | {"title": "Valid", "rows": rows}, table | {"title": "Test", "split": "test", "rows": rows}],
        "seeds": {
            "rows": "factor:training.init_seed",
            "names": ["init", "order"],
            "metric": "accuracy",
            "measure": "accuracy",
        },
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setattr(pages, "PAPER", tmp_path)
    written = pages.page("made", [tmp_path / "out"])
    off, on = summary.configurations
    lines = [line for line in written.splitlines() if line.startswith("| on |")]
    assert f"| on | {100 * (1 - on.mean):.2f} |" in lines[0]
    assert f"| 2 | {100 * (off.mean - on.mean):+.2f} |" in lines[0]
    assert lines[0].endswith("| 4.00 | -1.00 |")
    test = [row["test:accuracy"] for row in pages.cells_of([tmp_path / "out"]) if row["configuration"] == on.name]
    assert f"| on | {100 * (1 - sum(map(float, test)) / 2):.2f} |" in lines[1]
    assert f"| 1 | {100 * on.values[0]:.2f} | {100 * on.values[1]:.2f} |" in written
    assert "Neither was run for this page" in pages.page("made", [])
