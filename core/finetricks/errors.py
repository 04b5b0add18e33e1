"""The errors that a user meets, and how they are worded.

An `InputError` is the user's to mend (the command line answers with exit code 2 and no traceback);
any other `FinetricksError` means that the work itself failed (exit code 1).
"""

from __future__ import annotations

import difflib
import signal
import traceback
from collections.abc import Iterable
from dataclasses import dataclass


class FinetricksError(Exception):
    """Base of all errors that finetricks raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input, and where.

    `place` is what the user can look up: `recipe.yaml:7 training.epochs`, or `test.csv:12`.
    """

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class InputError(FinetricksError):
    """What the user gave is wrong. Carries every problem found, not only the first."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class RecipeError(InputError):
    """A recipe or a study that cannot be used as it is written."""


class TrickConflict(InputError):
    """Tricks that exclude one another by what they compute."""


class TrickError(FinetricksError):
    """A trick did something that its hook does not allow. Names the trick and the hook."""


class LayersError(InputError):
    """The order of a model's layers cannot be told from its structure."""


class DataError(InputError):
    """A data file or a data set that cannot be used."""


class ModelError(InputError):
    """A model that does not exist, or cannot be reached."""


class CheckpointError(InputError):
    """A checkpoint that is incomplete, altered, or belongs to another run."""


class NotFinite(FinetricksError):
    """A model's scores are not finite."""


class Diverged(FinetricksError):
    """The loss, a gradient or a score is no longer finite. Carries the optimizer step at which that began.

    Args:
        steps: for how many steps in a row it was so when the run was ended.
    """

    def __init__(self, step: int, what: str = "loss", steps: int = 1) -> None:
        self.step = step
        self.what = what
        self.steps = steps
        lasted = f", for {steps} steps in a row" if steps > 1 else ""
        super().__init__(f"diverged at step {step}: the {what} is not finite{lasted}")

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str, int]]:
        return type(self), (self.step, self.what, self.steps)


def in_words(error: BaseException) -> str:
    """The kind of an error and its message, also where a third party's class has none that can be read."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:
        return f"{kind} (its message cannot be read)"
    return f"{kind}: {text}" if text else kind


SHOWN = 80
"""How many characters of a value an error shows."""


def quoted(value: object, most: int = SHOWN) -> str:
    """A value as it is written in Python, on one line and not longer than `most`: files hold cells of any length."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a value within itself
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= most else f"{text[:most]}..."


def shortened(name: str, most: int = SHOWN) -> str:
    """A name or a path of settings, on one line and not longer than `most`."""
    text = printable(name).replace("\n", "\\n")
    return text if len(text) <= most else f"{text[:most]}..."


# C0 and DEL as their pictures; C1 (0x9b begins a command, too), what turns the direction of writing, and halves of
# pairs (which cannot be written at all) as a mark.
_SHOWN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_SHOWN |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
_SHOWN |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def printable(text: str) -> str:
    """`text` with a visible sign for each character that a terminal would obey, but for line breaks and tabs."""
    return text.translate(_SHOWN)


def ends_program(error: BaseException) -> bool:
    """Whether an error is the user's, or that of whoever ends the process: no trick has raised it."""
    if isinstance(error, KeyboardInterrupt):
        return True
    if isinstance(error, Exception):
        return False
    handler = getattr(signal.getsignal(signal.SIGTERM), "__code__", None)
    return handler is not None and any(frame.f_code is handler for frame, _ in traceback.walk_tb(error.__traceback__))


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'stlr'?)` for the nearest known name; the empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
