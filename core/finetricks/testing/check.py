"""One thing that every trick must hold: what, for which tricks, and after which others it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetricks.errors import in_words
from finetricks.testing.subject import CheckFailed, Subject


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: by which failures are expected.
        about: what it holds.
        hooks: it is asked of a trick that implements one of them; of every trick where there are none.
        after: checks that must hold first: what fails of them would only fail here again.
        chosen: whether it is asked of a trick, besides.
    """

    name: str
    about: str
    run: Callable[[Subject], None]
    hooks: frozenset[str]
    after: tuple[str, ...]
    chosen: Callable[[Subject], bool]

    def applies(self, subject: Subject) -> bool:
        return (not self.hooks or bool(self.hooks & subject.hooks)) and self.chosen(subject)

    def hold(self, subject: Subject) -> None:
        """Raise `CheckFailed` where it does not hold."""
        hooks = sorted(self.hooks & subject.hooks) or sorted(subject.hooks)
        named = f"hook{'s' * (len(hooks) > 1)} {', '.join(map(repr, hooks))}" if hooks else "no hook"
        try:
            self.run(subject)
        except Exception as error:
            told = str(error) if isinstance(error, Wrong) else in_words(error)
            failed = CheckFailed(f"{subject.who}, {named}, check {self.name!r}: {told}")
            for note in getattr(error, "__notes__", ()):
                failed.add_note(note)
            raise failed from (None if isinstance(error, Wrong) else error)


class Wrong(Exception):
    """What a check found, with the mend; the check adds whose it is."""


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they are asked."""


def check(
    *hooks: str, after: tuple[str, ...] = (), chosen: Callable[[Subject], bool] = lambda subject: True
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function `check_NAME` the check `NAME`; its docstring says what must hold."""

    def made(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__.removeprefix("check_")
        about = " ".join((function.__doc__ or "").split())
        CHECKS[name] = Check(name, about, function, frozenset(hooks), after, chosen)
        return function

    return made
