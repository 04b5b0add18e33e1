"""A class that cannot work as a plugin is refused before it is used, with the mend."""

from __future__ import annotations

import pytest

from finetricks import Trick, TrickError, hookimpl
from finetricks.implementation import Implementation, check_hooks, implementations


def test_implementations_are_listed_in_the_order_of_the_hooks() -> None:
    class Two(Trick):
        """Two hooks."""

        @hookimpl(wrapper=True)
        def schedule(self):
            return (yield)

        @hookimpl
        def freeze(self) -> list[str]:
            return []

    assert implementations(Two) == (Implementation("freeze", False), Implementation("schedule", True))


class Misspelled(Trick):
    @hookimpl
    def shedule(self):
        return 1.0


class Unmarked(Trick):
    def schedule(self):
        return 1.0


class Nothing(Trick):
    pass


class WithDefault(Trick):
    @hookimpl
    def schedule(self, progress=None):
        return 1.0


class KeywordOnly(Trick):
    @hookimpl
    def schedule(self, *, progress):
        return 1.0


class Variadic(Trick):
    @hookimpl
    def schedule(self, **arguments):
        return 1.0


class WrongArgument(Trick):
    @hookimpl
    def schedule(self, progres):
        return 1.0


class WrapsFreeze(Trick):
    @hookimpl(wrapper=True)
    def freeze(self):
        return (yield)


class NoYield(Trick):
    @hookimpl(wrapper=True)
    def schedule(self):
        return 1.0


class First(Trick):
    @hookimpl(tryfirst=True)
    def schedule(self):
        return 1.0


@pytest.mark.parametrize(
    ("trick", "message"),
    [
        (Misspelled, "Misspelled.shedule is not a hook (did you mean 'schedule'?)"),
        (Unmarked, "Unmarked.schedule has the name of a hook but no @hookimpl"),
        (Nothing, "Nothing implements no hook"),
        (WithDefault, "the argument 'progress' may not have a default"),
        (KeywordOnly, "make progress a plain argument"),
        (Variadic, "make **arguments a plain argument"),
        (WrongArgument, "no argument 'progres' (did you mean 'progress'?); schedule is called with progress"),
        (WrapsFreeze, "only loss and schedule can be wrapped"),
        (NoYield, "a wrapper yields once"),
        (First, "leave tryfirst, trylast and specname out"),
    ],
)
def test_a_class_that_cannot_work_is_refused(trick: type[Trick], message: str) -> None:
    with pytest.raises(TrickError) as error:
        check_hooks(trick)
    assert message in str(error.value)
