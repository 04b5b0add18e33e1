"""What must hold for every built-in trick: all that the kit holds a third party's to."""

from __future__ import annotations

import pytest

import every
from every import CASES
from finetricks import installed
from finetricks.testing.kit import Case, Findings
from finetricks.testing.subject import Subject

# A name for training everything, to stand beside `last_layer` and `predict_only` in a study.
INERT = {"full"}
PAIRS = "beside_each"
"""Every pair of built-in tricks is tried in test_every_pair.py, once and at values at which both act."""


def test_every_built_in_trick_has_a_case() -> None:
    ours = {name for name, entry in installed().entries.items() if entry.distribution == "finetricks"}
    assert ours == set(CASES)


FOUND = [
    Findings(Subject(installed().get(name)(**case.values), every.bench_for(name)))
    for name, case in sorted(CASES.items())
]


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(Case(found, check), id=f"{found.subject.name}-{check.name}")
        for found in FOUND
        for check in found.checks
        if check.name != PAIRS and not (check.name == "acts" and found.subject.name in INERT)
    ],
)
def test_it_holds_what_every_trick_must(check: Case) -> None:
    check()
