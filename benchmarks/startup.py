"""How long commands take that train nothing, from a shell to their end.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 20 --markdown

Each round runs every command once, in turn, in a process of its own; the figures are medians, with the quickest and the
slowest. The first line is Python itself, which every command pays for.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

STUDY = str(Path(__file__).parents[1] / "examples" / "quickstart.yaml")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "finetricks --help": ["-m", "finetricks", "--help"],
    "finetricks train --help": ["-m", "finetricks", "train", "--help"],
    "finetricks show stlr": ["-m", "finetricks", "show", "stlr"],
    "finetricks list": ["-m", "finetricks", "list"],
    "finetricks check quickstart.yaml": ["-m", "finetricks", "check", STUDY],
}
AIM = 0.4  # seconds, of --help


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.rounds + 1):
        for name, arguments in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first fills the caches
                seconds[name].append(time.perf_counter() - begun)
    if options.markdown:
        print("| command | median, s | quickest | slowest |\n|---|---:|---:|---:|")
    for name, taken in seconds.items():
        middle, least, most = statistics.median(taken), min(taken), max(taken)
        if options.markdown:
            print(f"| `{name}` | {middle:.2f} | {least:.2f} | {most:.2f} |")
        else:
            print(f"{name:36} {middle:6.2f} s   {least:.2f} to {most:.2f}")
    print(f"\nmedians of {options.rounds} rounds; --help is to take less than {AIM} s")


if __name__ == "__main__":
    main()
