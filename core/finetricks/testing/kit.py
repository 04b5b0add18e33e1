"""The two faces of the kit: a plain function, and a decorator for pytest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from finetricks.errors import suggest
from finetricks.testing import of_batch, of_class, of_model, of_pairs, of_plan, of_run  # noqa: F401  they fill CHECKS
from finetricks.testing.bench import Bench
from finetricks.testing.check import CHECKS, Check
from finetricks.testing.subject import CheckFailed, Subject
from finetricks.trick import Trick

ORDER = (
    "name",
    "docstring",
    "fields",
    "json_and_pickle",
    "signatures",
    "schedule",
    "freeze",
    "data",
    "build",
    "groups",
    "loss",
    "penalty",
    "loop",
    "acts",
    "leaves_the_rest_alone",
    "same_seed",
    "neutral",
    "interleaved",
    "resume",
    "finish",
    "trainer",
    "beside_each",
)
"""The names of the checks, each after those that it needs."""
Expected = Mapping[str, str]
Names = TypeVar("Names", bound=Collection[str])


def check_trick(
    trick: Trick | type[Trick],
    *,
    on: Bench | None = None,
    expected_failures: Expected | None = None,
    leave_out: Collection[str] = (),
) -> None:
    """Hold a trick to everything that every trick must.

    Args:
        trick: with values at which it acts; a class is tried at its defaults.
        on: the model and the task; by default a tiny BERT and single texts.
        expected_failures: names of checks that it does not hold, each with the reason.
        leave_out: names of checks that are not asked: `beside_each` takes longest by far.

    Raises:
        CheckFailed: with all that it does not hold, each with the trick, the hook, the check and the mend; also where a
            check holds that is expected to fail.
        TrickError: the class cannot be made without values.
    """
    found = Findings(Subject(trick, on))
    expected = _known(expected_failures or {})
    failures = []
    for check in found.checks:
        if check.name in _known(leave_out):
            continue
        failure = found.of(check)
        if failure is None and check.name in expected and not found.blocked(check):
            failures.append(f"{found.subject.who}: the check {check.name!r} holds; expect it to fail no longer")
        elif failure is not None and check.name not in expected:
            failures.append("\n".join([str(failure), *getattr(failure, "__notes__", ())]))
    if failures:
        raise CheckFailed("\n".join(failures))


def parametrize_with_checks(
    tricks: Iterable[Trick | type[Trick]],
    *,
    on: Bench | None = None,
    expected_failures: Expected | None = None,
    leave_out: Collection[str] = (),
) -> Callable[[Any], Any]:
    """Make a test of each check of each trick, for pytest.

    ```python
    @parametrize_with_checks([Cooldown(share=0.2)])
    def test_it_is_a_good_trick(check):
        check()
    ```

    Args:
        tricks, on, leave_out: as in `check_trick`.
        expected_failures: names of checks, each with the reason why it fails: pytest's strict `xfail`.
    """
    import pytest

    expected = _known(expected_failures or {})
    cases = [
        pytest.param(
            Case(found, check),
            id=f"{found.subject.name}-{check.name}",
            marks=[pytest.mark.xfail(strict=True, reason=expected[check.name], raises=CheckFailed)]
            if check.name in expected
            else [],
        )
        for found in (Findings(Subject(trick, on)) for trick in tricks)
        for check in found.checks
        if check.name not in _known(leave_out)
    ]
    return pytest.mark.parametrize("check", cases)


class Findings:
    """What is known so far of a trick: each check is asked once, and after those that it needs."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.checks = checks_of(subject)
        self._asked: dict[str, CheckFailed | None] = {}

    def of(self, check: Check) -> CheckFailed | None:
        """Why a check fails; `None` where it holds, or is not asked as another fails that must hold first."""
        if check.name not in self._asked:
            self._asked[check.name] = None if self.blocked(check) else _failure(check, self.subject)
        return self._asked[check.name]

    def blocked(self, check: Check) -> str:
        """The check that fails and must hold before `check` is asked; empty where there is none."""
        mine = {other.name: other for other in self.checks}
        for name in check.after:
            if name in mine and (self.of(mine[name]) is not None or self.blocked(mine[name])):
                return self.blocked(mine[name]) or name
        return ""


class Case:
    """One check of one trick; a call holds the trick to it."""

    def __init__(self, found: Findings, check: Check) -> None:
        self._found = found
        self._check = check

    def __call__(self) -> None:
        """Raises `CheckFailed`; skips the test where another check fails that must hold first."""
        import pytest

        if (failure := self._found.of(self._check)) is not None:
            raise failure
        if by := self._found.blocked(self._check):
            pytest.skip(f"not asked: the check {by!r} fails")

    def __repr__(self) -> str:
        return f"{self._check.name} of {self._found.subject.name}"


def checks_of(subject: Subject) -> tuple[Check, ...]:
    """The checks that a trick is held to, by the hooks that it implements."""
    return tuple(CHECKS[name] for name in ORDER if CHECKS[name].applies(subject))


def _failure(check: Check, subject: Subject) -> CheckFailed | None:
    try:
        check.hold(subject)
    except CheckFailed as failure:
        return failure
    return None


def _known(names: Names) -> Names:
    """`names`, if they are all those of checks."""
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"no check {name!r}{suggest(name, CHECKS)}; the checks are {', '.join(ORDER)}")
    return names
