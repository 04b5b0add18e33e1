"""What must hold for every built-in trick: all that the kit holds a third party's to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import every
from every import CASES
from finetricks import installed
from finetricks.testing import CheckFailed
from finetricks.testing.kit import Case, Findings
from finetricks.testing.subject import Subject

EXPECTED = {
    "full-acts": "a name for training everything, to stand beside `last_layer` and `predict_only` in a study",
    "layer_pooling-fields": "a layer's number, from the top too: how many there are is the model's to say",
    "lstm_forget_bias-fields": "a bias may be any number",
}
"""What tricks do not hold, each with the reason."""
PAIRS = "beside_each"
"""Every pair of built-in tricks is tried in test_every_pair.py, once and at values at which both act."""


def test_every_built_in_trick_has_a_case() -> None:
    ours = {name for name, entry in installed().entries.items() if entry.distribution == "finetricks"}
    assert ours == set(CASES)


FOUND = [
    Findings(Subject(installed().get(name)(**case.values), every.bench_for(name)))
    for name, case in sorted(CASES.items())
]


def cases() -> Iterator[Any]:
    for found in FOUND:
        for check in found.checks:
            if check.name != PAIRS:
                name = f"{found.subject.name}-{check.name}"
                why = EXPECTED.get(name)
                marks = [pytest.mark.xfail(strict=True, raises=CheckFailed, reason=why)] if why else []
                yield pytest.param(Case(found, check), id=name, marks=marks)


@pytest.mark.parametrize("check", cases())
def test_it_holds_what_every_trick_must(check: Case) -> None:
    check()
