"""What a run saves: a model that transformers loads, or, where tricks changed its structure, one that it refuses."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import every
from finetricks import Task, installed, load, predict, run

BUILDING = sorted(name for name in every.CASES if "build" in vars(installed().get(name)))
TAKEN_OFF = {name for name in BUILDING if "finish" in vars(installed().get(name))}


def task_in(folder: Path, name: str) -> Task:
    """The tiny task, its model in a folder, its examples as a test set too."""
    every.model_for(name).save_pretrained(folder / "model")
    every.tokenizer().save_pretrained(folder / "model")
    task = every.task_for(name)
    rows = task.splits["train"]
    pd.DataFrame({column: rows[column][:] for column in task.text_columns}).to_csv(folder / "rows.csv", index=False)
    return dataclasses.replace(
        task, model_name=str(folder / "model"), splits={"train": rows, "valid": rows, "test": rows}
    )


@pytest.mark.parametrize("name", BUILDING)
def test_it_is_loaded_with_its_structure_or_not_at_all(name: str, tmp_path: Path, caplog: Any) -> None:
    task = task_in(tmp_path, name)
    text = list(task.text_columns) if len(task.text_columns) == 2 else task.text_columns[0]
    recipe = every.recipe(name, epochs=1, max_length=every.MAX_LENGTH)
    document = recipe.to_dict() | {
        "model": task.model_name,
        "data": {"train": str(tmp_path / "rows.csv"), "text": text},
    }
    out = tmp_path / "run"
    run(type(recipe)(**document), out, task=task)
    scored = pd.read_csv(out / "predictions" / "test.csv").filter(like="score:").to_numpy()
    again = predict(out, tmp_path / "rows.csv").filter(like="score:").to_numpy()
    assert again == pytest.approx(scored, abs=1e-6)
    model, tokenizer = load(out)
    assert not model.training
    if name in TAKEN_OFF:
        plain = AutoModelForSequenceClassification.from_pretrained(out / "model")
        batch = tokenizer(["w1 w2 w3"], return_tensors="pt")
        with torch.no_grad():
            assert torch.equal(plain(**batch).logits, model(**batch).logits)
        return
    for kind in (AutoModelForSequenceClassification, BertForSequenceClassification):
        with pytest.raises(OSError, match="no file named model.safetensors"):
            kind.from_pretrained(out / "model")
    assert "ft.load" in (out / "model" / "README.md").read_text()


def test_the_page_names_all_that_plain_transformers_cannot_load() -> None:
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "use-the-model.md").read_text()
    _, told = page.split("which stays there:")
    named = re.findall(r"`(\w+)`", told.partition(", and those")[0])
    assert named == sorted(set(BUILDING) - TAKEN_OFF)
