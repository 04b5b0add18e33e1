"""How a trick's implementation of a hook is called: errors name the trick, and what it must leave alone is looked at.

pluggy's tracebacks do not name a plugin, and what one gives is another's input before anyone looks at it. So every
implementation, wrappers too, is called through a guard of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.catalog import origin
from finetricks.errors import TrickError, ends_program, in_words
from finetricks.untouched import Untouched

if TYPE_CHECKING:
    import pluggy

    from finetricks.trick import Trick

RAISED = "raised by trick "
Check = Callable[[Any], str]
"""Says what is wrong with a value that a hook gave; the empty string where nothing is."""


class Guard:
    """One trick's implementation of one hook.

    Args:
        name: the trick's.
        check: of what it gives, where that needs to know nothing else.

    Attributes:
        given: what it gave when it was last called, for the hooks that are checked here.
        inner: what it was given then to change, if it is a wrapper.
    """

    def __init__(
        self, name: str, trick: Trick, hook: str, implementation: pluggy.HookImpl, check: Check | None
    ) -> None:
        self.name = name
        self.hook = hook
        self.given: Any = None
        self.inner: Any = None
        self._kind = type(trick)
        self._function: Callable[..., Any] = implementation.function
        self._arguments = implementation.argnames
        self._check = check
        self._before: Callable[[Mapping[str, Any]], Untouched] | None = None

    @property
    def who(self) -> str:
        """The trick and the distribution, or the file, that it is from."""
        return f"trick {self.name!r} of {origin(self._kind)}"

    @cached_property
    def _crumb(self) -> bytes:
        return f"{self.who}, hook {self.hook!r}".encode()[:LENGTH]

    def error(self, message: str) -> TrickError:
        """An error that names distribution, trick and hook."""
        return TrickError(f"{self.who}, hook {self.hook!r}: {message}")

    def watch(self, before: Callable[[Mapping[str, Any]], Untouched]) -> None:
        """Look at the next call: what `before` notes of the world, given the arguments, must be so after it."""
        self._before = before

    def __call__(self, **arguments: Any) -> Any:
        """Call it with those of the hook's arguments that it takes."""
        return self.plain(*(arguments[name] for name in self._arguments))

    def plain(self, *arguments: Any) -> Any:
        """Call it; the function that pluggy calls."""
        before, self._before = self._before, None
        untouched = before(dict(zip(self._arguments, arguments, strict=True))) if before else None
        value = self._run(self._function, *arguments)
        if untouched is not None:
            self._look(untouched)
        return self._checked(value)

    def wrapping(self, *arguments: Any) -> Generator[None, Any, Any]:
        """The same for a wrapper."""
        before, self._before = self._before, None
        noted = dict(zip(self._arguments, arguments, strict=True))
        wrapper = self._function(*arguments)
        untouched = before(noted) if before else None
        self._until_yield(wrapper)
        if untouched is not None:
            self._look(untouched)
        try:
            inner = yield
        except GeneratorExit:
            wrapper.close()
            raise
        except BaseException as error:
            if ends_program(error):
                self._unwind(wrapper, error)
                raise
            return self._recovered(wrapper, error)
        if self._check is not None:
            self.inner = inner
        untouched = before(noted) if before else None
        value = self._until_return(wrapper, inner)
        if untouched is not None:
            self._look(untouched)
        return self._checked(value)

    def _until_yield(self, wrapper: Generator[None, Any, Any]) -> None:
        ended, value = self._run(_sent, wrapper, None)
        if ended:
            raise self.error("a wrapper yields once, and this one did not: `value = yield`")
        if value is not None:
            wrapper.close()
            raise self.error(
                f"a wrapper yields nothing, got {_shown(value)}: `value = yield`, then `return` the changed"
            )

    def _until_return(self, wrapper: Generator[None, Any, Any], inner: Any) -> Any:
        ended, value = self._run(_sent, wrapper, inner)
        if not ended:
            wrapper.close()
            raise self.error("a wrapper yields once, and this one did so twice")
        return value

    @staticmethod
    def _unwind(wrapper: Generator[None, Any, Any], error: BaseException) -> None:
        """Let a wrapper clean up; whatever it makes of the error, that is not the trick's to keep."""
        with suppress(BaseException):
            wrapper.throw(error)
        with suppress(BaseException):
            wrapper.close()

    def _recovered(self, wrapper: Generator[None, Any, Any], error: BaseException) -> Any:
        """Tell a wrapper that what it wraps has failed. What is named already goes on as it is."""
        try:
            wrapper.throw(error)
        except StopIteration as end:
            return self._checked(end.value)
        except BaseException as raised:
            if raised is error or ends_program(raised):
                raise
            self._blame(raised)
            raise
        wrapper.close()
        raise self.error("a wrapper yields once, and this one did so twice") from error

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        outer = _enter(self._crumb if _trail is not None else b"")
        try:
            value = function(*arguments)
        except BaseException as error:
            if ends_program(error):
                raise  # and whoever finds the process dead still reads where it was
            _enter(outer)
            self._blame(error)
            raise
        _enter(outer)
        return value

    def _blame(self, error: BaseException) -> None:
        """Note on an error where it came from; one that would end the program, or cannot be read, becomes another."""
        if is_named(error):
            return
        told = in_words(error)
        if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
            try:
                str(error)
                error.add_note(f"{RAISED}{self.name!r} of {origin(self._kind)} in its hook {self.hook!r}")
            except Exception:  # no message, or no place for a note: its class is a third party's too
                raise self.error(f"raised {told}") from None
            return
        raise self.error(f"raised {told}") from error

    def _checked(self, value: Any) -> Any:
        if self._check is not None:
            if complaint := self._check(value):
                raise self.error(complaint)
            self.given = value
        return value

    def _look(self, untouched: Untouched) -> None:
        if complaint := untouched.disturbed():
            raise self.error(complaint)


def is_named(error: BaseException) -> bool:
    """Whether an error says already which trick it is from."""
    if any(isinstance(note, str) and note.startswith(RAISED) for note in getattr(error, "__notes__", ())):
        return True
    return isinstance(error, TrickError) and str(error).startswith("trick ")


def _sent(wrapper: Generator[None, Any, Any], value: Any) -> tuple[bool, Any]:
    """Send a value: whether the wrapper has ended, and what it returned or yielded."""
    try:
        return False, wrapper.send(value)
    except StopIteration as end:
        return True, end.value


def _shown(value: Any) -> str:
    return type(value).__name__


# -- where a process is, for those who find it dead --------------------------------------------------------

LENGTH = 256
_trail: mmap.mmap | None = None
_here = b""


def _enter(crumb: bytes) -> bytes:
    global _here
    before, _here = _here, crumb
    if _trail is not None:
        _trail[:] = crumb.ljust(LENGTH, b"\0")
    return before


@contextmanager
def trail(path: Path) -> Iterator[None]:
    """Keep in a file which hook of which trick the process is in: the file outlives the process."""
    global _trail  # noqa: PLW0603
    path.write_bytes(bytes(LENGTH))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), LENGTH) as written:
        _trail = written
        try:
            yield
        finally:
            _trail = None
    path.unlink(missing_ok=True)


def last_on(path: Path) -> str:
    """Where the process was that a trail was left by: `trick 'x', hook 'loss'`; empty if in none, or not known."""
    try:
        return path.read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""
