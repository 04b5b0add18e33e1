"""Fuzz the readers of `inputs.py` by coverage (atheris, which is libFuzzer): `make fuzz SECONDS=3600`.

Each reader gets its share of the time, in a process of its own. What breaks one (an exception that is no refusal, a
refusal without a place, an assertion, a hang, too much memory, the death of the process) is kept as a file in
`tests/corpus/found/READER/`, once for each place in the code, and `test_input_found.py` replays it for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

FOUND = Path(__file__).parent / "corpus" / "found"
LONGEST = 4096  # bytes of an input
HANGS = 60  # seconds
MEMORY = 3000  # MiB
INSTRUMENTED = ("finetricks", "finetricks_tuning", "yaml", "json")


def fuzz_all(names: list[str], seconds: float, work: Path) -> int:
    """Fuzz one reader after the other, and tell of each how many inputs it was given. The exit code."""
    total, finds = 0, 0
    for name in names:
        share, ends = seconds / len(names), time.monotonic() + seconds / len(names)
        executed, kept = 0, len(_kept(name))
        while (left := ends - time.monotonic()) > 5:
            executed += _fuzz_in_child(name, round(left), work)
        found = len(_kept(name)) - kept
        total, finds = total + executed, finds + found
        print(f"{name:12} {share:6.0f} s {executed:10,} executions {found:3} finds", flush=True)
    print(f"{'all':12} {seconds:6.0f} s {total:10,} executions {finds:3} finds")
    return 1 if finds else 0


def _kept(name: str) -> list[Path]:
    return sorted((FOUND / name).glob("*")) if (FOUND / name).is_dir() else []


def _fuzz_in_child(name: str, seconds: int, work: Path) -> int:
    """Fuzz in a child until the time is over or the child dies; how many inputs it was given."""
    artifacts = work / name / "died-"
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds), "--work", str(work)]
    child = subprocess.run(
        command, check=False, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    )
    (work / name / "log").write_text(child.stderr)
    for died in artifacts.parent.glob("died-*"):
        kept = _keep(name, died.read_bytes())
        print(f"{name}: the process ended ({died.name[5:12]}...) on {kept}\n{child.stderr[-1500:]}", flush=True)
        died.unlink()
    counts = re.findall(r"stat::number_of_executed_units: (\d+)", child.stderr)
    if not counts:
        raise SystemExit(f"{name} cannot be fuzzed:\n{child.stderr[-3000:]}")
    return int(counts[-1])


def _keep(name: str, content: bytes) -> Path:
    path = FOUND / name / hashlib.sha256(content).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def child(name: str, seconds: int, work: Path) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        import inputs

    folder = Path(tempfile.mkdtemp(prefix="finetricks-fuzz-"))
    (folder / "base.yaml").write_text("model: minilm\ndata: {train: stdlib_docstrings}\n")
    corpus, seeds = work / name / "corpus", work / name / "seeds"
    for made in (corpus, seeds):
        made.mkdir(parents=True, exist_ok=True)
    for content in (*inputs.SEEDS[name], *(path.read_bytes() for path in _kept(name))):
        (seeds / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
    words = work / name / "words"
    words.write_text("".join(f'"{word}"\n' for word in _words()))
    known: set[str] = set()

    def once(content: bytes) -> None:
        try:
            inputs.TARGETS[name](content, folder)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            place = _place(error)
            if place not in known:
                known.add(place)
                print(f"FOUND {name}: {place}: {_keep(name, content)}", file=sys.stderr, flush=True)
                traceback.print_exception(error, limit=-4)

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        changed = inputs.mutated_text(name, content, random.Random(seed)) if seed % 2 else None
        return changed if changed is not None and len(changed) <= longest else atheris.Mutate(content, longest)

    options = {
        "max_total_time": seconds,
        "max_len": LONGEST if name != "parquet" else 2 * LONGEST,
        "timeout": HANGS,
        "rss_limit_mb": MEMORY,
        "print_final_stats": 1,
        "artifact_prefix": work / name / "died-",
        "dict": words,
        "verbosity": 0,
    }
    flags = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus), str(seeds)], once, custom_mutator=mutate)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(error: BaseException) -> str:
    """What is taken for the same find: the kind of exception, and the last line of the project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "finetricks" in frame.filename or "inputs.py" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def _words() -> list[str]:
    """Words that a mutation would take long to hit on: fields, tricks, YAML's and JSON's own."""
    from finetricks.catalog import installed
    from finetricks.schema import usable
    from finetricks.settings import Data, Training
    from finetricks_tuning.designs import DESIGNS
    from finetricks_tuning.study import StudySettings

    tricks = usable(installed())
    fields = [name for model in (Data, Training, StudySettings, *tricks.values()) for name in model.model_fields]
    own = [
        "one_of",
        "values",
        "low",
        "high",
        "log",
        "training.",
        "model",
        "tricks",
        "layers",
        "!!int ",
        "<<: ",
        "&a ",
        "*a",
    ]
    own += [
        ".inf",
        ".nan",
        "1e999",
        "null",
        "true",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        '\\"',
        "\\\\u",
        "\\\\ud800",
        "NaN",
        "Infinity",
    ]
    return list(dict.fromkeys([*own, *tricks, *fields, *DESIGNS]))


if __name__ == "__main__":
    from_command_line = argparse.ArgumentParser(description=__doc__)
    from_command_line.add_argument("--seconds", type=float, default=60, help="for all readers together")
    from_command_line.add_argument("--target", action="append", help="only this reader")
    from_command_line.add_argument("--work", type=Path, help="where the inputs that reach new code are kept")
    from_command_line.add_argument("--child", help=argparse.SUPPRESS)
    given = from_command_line.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    folder = given.work or Path(tempfile.mkdtemp(prefix="finetricks-fuzz-"))
    if given.child:
        child(given.child, round(given.seconds), folder)
    else:
        import inputs

        sys.exit(fuzz_all(given.target or list(inputs.TARGETS), given.seconds, folder))
