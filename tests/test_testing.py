"""The kit is itself tested: for each check a broken trick fails exactly that one, and a good trick fails none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Annotated

import pytest
from pydantic import Field

import tiny
from finetricks import Trick, TrickError, hookimpl, installed
from finetricks.catalog import Catalog
from finetricks.testing import ORDER, Bench, CheckFailed, check_trick, parametrize_with_checks
from finetricks.testing.check import CHECKS
from finetricks.testing.kit import Findings
from finetricks.testing.subject import Subject
from one_fault import BROKEN, HEADER, SHRINKS, Broken

BESIDE = ("constant", "gradual_unfreezing", "stlr", "weight_decay")
"""The tricks beside which broken ones are tried: all that are installed take minutes."""
RUNS = ORDER[ORDER.index("loop") :]
"""The checks that train. In the day a broken trick is asked only the one that it fails, after those that must hold."""
GOOD = Broken("", "", SHRINKS, name="Good")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    path = tmp_path_factory.mktemp("tricks") / "broken_tricks_of_the_kit.py"
    path.write_text(HEADER + "\n\n" + "\n\n".join(case.source for case in [*BROKEN, GOOD]))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules[path.stem]


@pytest.fixture(autouse=True)
def few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {name: installed().entries[name] for name in BESIDE}
    monkeypatch.setattr("finetricks.testing.of_pairs.installed", lambda: Catalog(entries))


def test_every_check_is_broken_by_a_trick_and_has_its_place() -> None:
    assert {case.check for case in BROKEN} == set(CHECKS) == set(ORDER)
    for name, check in CHECKS.items():
        assert all(ORDER.index(first) < ORDER.index(name) for first in check.after)
        assert check.about


def looked_at(case: Broken, module: ModuleType, leave_out: Collection[str] = ()) -> None:
    """The trick fails exactly its check, of those that are not left out, and says so in its words."""
    found = Findings(Subject(getattr(module, case.kind)))
    asked = [check for check in found.checks if check.name == case.check or check.name not in leave_out]
    failures = {check.name: failure for check in asked if (failure := found.of(check)) is not None}
    assert [*failures] == [case.check], failures
    told = "\n".join([str(failures[case.check]), *getattr(failures[case.check], "__notes__", ())])
    assert case.words in told
    assert f"trick {found.subject.name!r} of {module.__file__}" in told
    assert f"check {case.check!r}" in told
    assert all(repr(hook) in told for hook in CHECKS[case.check].hooks & found.subject.hooks)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.kind)
def test_a_broken_trick_fails_its_check(case: Broken, module: ModuleType) -> None:
    looked_at(case, module, leave_out=RUNS)


@pytest.mark.nightly
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.kind)
def test_a_broken_trick_fails_exactly_its_check(case: Broken, module: ModuleType) -> None:
    looked_at(case, module)


def test_a_good_trick_fails_none_and_says_nothing(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    check_trick(module.Good)
    found = Findings(Subject(module.Good()))
    assert len(found.checks) == len(ORDER) - 7  # none of data, build, schedule, freeze, loss, finish; no neutral value
    assert capsys.readouterr() == ("", "")


def test_all_that_is_wrong_is_said_at_once(module: ModuleType) -> None:
    class TwoFaults(Trick):
        """Says not where it comes from, and cannot be pickled."""

        @hookimpl
        def schedule(self) -> float:
            return -1.0

    with pytest.raises(CheckFailed) as failed:
        check_trick(TwoFaults())
    told = str(failed.value)
    assert [name for name in ORDER if f"check {name!r}" in told] == [
        "docstring",
        "json_and_pickle",
        "schedule",
        "groups",
        "loop",
    ]
    assert "Traceback" not in told


def test_a_failure_that_is_expected_must_happen(module: ModuleType) -> None:
    check_trick(module.BrokenPenalty, expected_failures={"penalty": "no gradient at zero"}, leave_out=RUNS)
    with pytest.raises(
        CheckFailed, match=r"trick 'good' of .*: the check 'penalty' holds; expect it to fail no longer"
    ):
        check_trick(module.Good, expected_failures={"penalty": "it was so once"}, leave_out=RUNS)
    with pytest.raises(ValueError, match=r"no check 'penalties' \(did you mean 'penalty'\?\); the checks are name, "):
        check_trick(module.Good, expected_failures={"penalties": "a typo"})


def test_a_class_that_needs_values_is_given_as_an_instance() -> None:
    class Needs(Trick):
        """Needs a value."""

        share: Annotated[float, Field(gt=0)]

        @hookimpl
        def finish(self) -> None:
            pass

    with pytest.raises(TrickError, match=r"Needs cannot be made without values \(share\): check an instance, Needs"):
        check_trick(Needs)


def test_it_stands_on_a_model_of_ones_own(module: ModuleType) -> None:
    made: list[int] = []

    def make(seed: int):
        made.append(seed)
        return tiny.bert(seed=seed, blocks=1)

    check_trick(module.Good, on=Bench(make), leave_out=[name for name in RUNS if name != "resume"])
    assert set(made) == {0, 1, 9}


SUITE = """
from broken_tricks_of_the_kit import BrokenPenalty, BrokenLoop, Good
from finetricks.testing import ORDER, parametrize_with_checks

LONG = [name for name in ORDER if name not in ("name", "penalty", "loop", "acts", "same_seed")]

@parametrize_with_checks([Good(), BrokenLoop()], leave_out=LONG)
def test_plain(check):
    check()

@parametrize_with_checks([BrokenPenalty, Good], leave_out=LONG, expected_failures={"penalty": "no gradient at zero"})
def test_expecting(check):
    check()
"""


def test_pytest_shows_each_check(module: ModuleType, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    outcomes = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rfsx")
    outcomes.stdout.fnmatch_lines_random(
        [
            "*SKIPPED*not asked: the check 'loop' fails*",
            "*XFAIL*test_expecting?broken_penalty-penalty?*no gradient at zero*",
            "*FAILED*test_expecting?good-penalty?*XPASS*",
            "*FAILED*test_plain?broken_loop-loop?*",
            "*hook 'regularize', check 'loop': ValueError: no",
        ]
    )
    count = outcomes.parseoutcomes()
    assert (count["failed"], count["xfailed"]) == (2, 1)
    assert (count["passed"], count["skipped"]) == (15, 2)


@parametrize_with_checks([tiny.Decay], expected_failures={"docstring": "it is the tests' own"}, leave_out=RUNS)
def test_the_decorator_works_here_too(check) -> None:
    check()
