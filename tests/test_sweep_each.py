"""A study on several data sets that is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from finetricks_tuning import sweep_each as module
from finetricks_tuning.ledger import Ledger
from finetricks_tuning.results import write_results
from finetricks_tuning.status import Status
from finetricks_tuning.study import Study
from test_report import EFFECTS, manifest, trials


def test_an_interrupt_begins_no_further_data_set_and_each_status_names_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sweep` gives an incomplete summary after Ctrl-C, which it does not pass on."""
    task = tiny.write_task(tmp_path)
    data = {"train": str(task / "train.csv"), "valid": 0.5}
    study = Study(
        recipe={"model": str(task / "model"), "data": data},
        factors=["stlr"],
        seeds=2,
        data_sets={"whole": {}, "part": {"rows": 12}},
    )
    begun: list[str] = []
    seen: list[str] = []

    def interrupted(one: Study, out: Path, *, on_update: Any, **_: Any) -> Any:
        begun.append(out.name)
        out.mkdir(parents=True)
        replace(manifest(list(EFFECTS), 2), ended="").write(out)
        on_update(Status("accuracy", "compare", (), 0, 2, None))
        return SimpleNamespace(complete=False)

    monkeypatch.setattr(module, "sweep", interrupted)
    across = module.sweep_each(study, tmp_path / "out", on_update=lambda status: seen.append(status.data_set))
    assert begun == ["whole"]
    assert seen == ["whole"]
    assert not across.complete


def test_a_study_with_a_data_set_that_has_not_begun_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("data_sets: {first: {}, second: {}}\n")
    first = tmp_path / "data_sets" / "first"
    first.mkdir(parents=True)
    manifest(list(EFFECTS), 2).write(first)
    for cell in trials(2):
        Ledger(first / "trials.jsonl").append(cell)
    assert not write_results(tmp_path, refresh=2).complete
    assert "http-equiv" in (tmp_path / "report.html").read_text()
