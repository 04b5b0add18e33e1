"""Run the code and the console blocks of a page, in order, in a folder of their own: `python docs/blocks.py PAGE...`.

A fenced block with a title is a file. A `console` block holds commands, each after `$ `, and what they print: `...`
stands for anything or nothing, decimals, durations and verdicts are not compared. A command must succeed, unless
`$ echo $?` follows. A `sh` block is not run. With `--write` the output that is printed now is written into the page.
"""

from __future__ import annotations

import contextlib
import difflib
import doctest
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PROMPT, STATUS = "$ ", "echo $?"
WIDTH = "112"


@dataclass(frozen=True)
class Block:
    kind: str
    title: str | None
    text: str


@dataclass(frozen=True)
class Command:
    """A line after a prompt, and what stands below it."""

    line: str
    output: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page)]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block; one that ends in a backslash goes on."""
    for part in re.split(rf"^{re.escape(PROMPT)}", block.text, flags=re.MULTILINE)[1:]:
        found = re.match(r"((?:.*\\\n)*.*)\n", part)
        assert found, part
        yield Command(found[1], part[found.end() :])


def run(page: str, folder: Path, *, smaller: Mapping[str, str] | None = None) -> str:
    """Run a page in `folder` and give it with the output that it has now.

    Args:
        page: its text.
        folder: where its files are written and its commands run.
        smaller: what to put in the place of what in its files, so that it takes less time; the output is then not
            compared.

    Raises:
        AssertionError: for a command that fails or prints something else.
    """
    pieces, end = [], 0
    with _in(folder):
        for found in FENCE.finditer(page):
            kind, title, text = found.groups()
            pieces.append(page[end : found.start(3)])
            end = found.start(3)
            if title:
                for given, wanted in (smaller or {}).items():
                    text = text.replace(given, wanted)
                Path(title).parent.mkdir(parents=True, exist_ok=True)
                Path(title).write_text(text, encoding="utf-8")
            elif kind == "console":
                pieces.append("".join(_run(Block(kind, None, text), compare=smaller is None)))
                end = found.end(3)
    return "".join(pieces) + page[end:]


def _run(block: Block, *, compare: bool) -> Iterator[str]:
    told = list(commands(block))
    code = 0
    for command, following in zip(told, [*told[1:], None], strict=True):
        if command.line == STATUS:
            printed = f"{code}\n"
        else:
            code, printed = execute(command.line)
            expected = following is not None and following.line == STATUS
            assert expected or code == 0, f"$ {command.line}\nexit code {code}\n{printed}"
        printed = printed.replace(f"{Path.cwd()}{os.sep}", "")
        printed = "".join(f"{line.rstrip()}\n" for line in printed.splitlines()).strip("\n") + "\n"
        if compare:
            assert same(command.output, printed), f"$ {command.line}\n{difference(command.output, printed)}"
        yield f"{PROMPT}{command.line}\n{printed if printed.strip() else ''}"


def execute(line: str) -> tuple[int, str]:
    """The exit code of a command and what it printed. What costs an import of torch runs in this process."""
    words = shlex.split(line.replace("\\\n", " "))
    plain = not set("|><;&") & set(line)
    if plain and words[0] == "finetricks" and words[1] != "sweep":
        from finetricks.cli import main

        return _captured(lambda: main(words[1:]))
    if plain and words[0] == "python" and len(words) == 2:
        return _captured(lambda: runpy.run_path(words[1], run_name="__main__") and None)
    done = subprocess.run(
        ["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, check=False
    )
    return done.returncode, done.stdout


def same(told: str, printed: str) -> bool:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    told = re.sub(r"^\.\.\.\n", "...", told, flags=re.MULTILINE)  # a line of it may stand for no line at all
    return doctest.OutputChecker().check_output(stable(told), stable(printed), options)


def stable(text: str) -> str:
    """Text without what another machine, or Python's other docstrings, would change."""
    text = re.sub(r"[▲▼○=≈] ?(helps|hurts|undecided|no difference)", "VERDICT", text)
    text = re.sub(r"[-+−]?\d+\.\d+(e[-+]\d+)?", "0.0", text)
    text = re.sub(r"'\d+'", "'0.0'", text)  # a Trainer's figures, quoted: 400 samples a second, or 133.11
    text = re.sub(r"\b\d+ (s|min|h)\b", "0 s", text)
    return re.sub(r"[─━]+", "─", text)


def difference(told: str, printed: str) -> str:
    return "\n".join(difflib.unified_diff(stable(told).splitlines(), stable(printed).splitlines(), "told", "printed"))


def _captured(function: object) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = function()  # type: ignore[operator]
        except SystemExit as end:
            code = end.code
    return (code if isinstance(code, int) else int(code is not None)), out.getvalue()


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Work in `folder`, with the width of output and the commands that pages are written for."""
    before, path, modules = dict(os.environ), list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    os.environ |= {"COLUMNS": WIDTH, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:  # a page's own are not the next one's
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def main() -> int:
    """Pages that are given with `--together` go on in one folder, as the tutorial does."""
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    with contextlib.ExitStack() as cleaning:
        folder = ""
        for path in (Path(word) for word in sys.argv[1:] if word not in options):
            if not folder or "--together" not in options:
                folder = cleaning.enter_context(tempfile.TemporaryDirectory())
            page = path.read_text(encoding="utf-8")
            with_output = run(page, Path(folder), smaller={} if "--write" in options else None)
            if "--write" in options:
                path.write_text(with_output, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
