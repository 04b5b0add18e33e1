"""The tasks of a study: what is tokenised how often."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from finetricks.tasks import task as tasks_of_core
from finetricks_tuning.prepare import prepare
from finetricks_tuning.study import Study


def test_a_study_of_several_lengths_tokenises_each_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write_task(tmp_path)
    counts: list[int] = []
    tokenize = tasks_of_core.tokenize

    def counted(texts, *rest):
        counts.append(len(rest[1]))
        return tokenize(texts, *rest)

    monkeypatch.setattr(tasks_of_core, "tokenize", counted)
    recipe = {"model": str(folder / "model"), "data": {"train": str(folder / "train.csv"), "valid": 0.25}}
    study = Study(recipe=recipe, factors=[{"training.max_length": {"values": [6, 8]}}], seeds=2)
    prepared = prepare(study)
    assert counts == [45, 15]  # train and valid
    assert sorted(task.max_length for task in prepared.tasks.values()) == [6, 8, 32]
    assert len({id(task.splits["train"]) for task in prepared.tasks.values()}) == 1
