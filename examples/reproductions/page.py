"""Write the page of a reproduction, or their index, from what was measured and what the paper says.

python examples/reproductions/page.py NAME FOLDER... --out PAGE.md     # the folders of NAME's studies, in its order
python examples/reproductions/page.py index --out PAGE.md

What is ours to say stands in `paper/NAME.yaml`: the question, the commands, the paper's numbers, what was found. The
figures come from the folders' ledgers. Without folders the page says that the study was not run.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from finetricks_tuning.expected_maximum import expected_maximum
from finetricks_tuning.formats import cells_csv
from finetricks_tuning.statistics import BlockModel
from finetricks_tuning.summary import summarise
from finetricks_tuning.text import duration, p_value

PAPER = Path(__file__).parent / "paper"
ORDER = ("ulmfit_table7", "ulmfit_table7_lstm", "siatl_ablation", "sun_layers", "further_pretraining", "lp_ft", "dodge")
INTERVAL = "95 % interval"
Cell = Mapping[str, str]


def cells_of(folders: Sequence[Path]) -> list[Cell]:
    """The cells of the comparisons, those too that were not run, each with the number of its folder under `folder`."""
    rows = []
    for number, folder in enumerate(folders):
        table = csv.DictReader(io.StringIO(cells_csv(summarise(folder), folder)))
        rows += [row | {"folder": str(number)} for row in table]
    return [row for row in rows if row["phase"] == "compare"]


def values_of(cells: Sequence[Cell], row: Mapping[str, Any], column: str, error: bool) -> dict[int, float]:
    """By seed, what the configuration of a row came to, in percent."""
    ours = [c for c in cells if int(c["folder"]) == row.get("folder", 0)]
    ours = [c for c in ours if fnmatchcase(c["configuration"], row["configuration"])]
    if len(names := {c["configuration"] for c in ours}) > 1:
        raise SystemExit(f"{row['configuration']} names several configurations: {', '.join(sorted(names))}")
    return {int(c["seed"]): 100 * ((1 - float(c[column])) if error else float(c[column])) for c in ours}


def table(spec: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    """A row for each of the paper's: ours over seeds, the difference to the row it is compared with, the paper's."""
    column, error = f"{spec.get('split', 'valid')}:{spec['metric']}", spec.get("error", False)
    rows, against = spec["rows"], spec["against"]
    ours = {row["row"]: values_of(cells, row, column, error) for row in rows}
    model = BlockModel({(name, seed): value for name, values in ours.items() for seed, value in values.items()})
    printed = {row["row"]: row["paper"] for row in rows if "paper" in row}
    lines = [
        f"**{spec['title']}**",
        "",
        _row("", spec["measure"], INTERVAL, "seeds", f"against {against}", INTERVAL, spec["paper"], "there"),
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["row"]
        own = [*_mean(list(ours[name].values())), str(len(ours[name]))]
        difference = ["", ""] if name == against else _difference(model, name, against)
        theirs = f"{printed[name]:.2f}" if name in printed else "–"
        there = row.get("there", printed[name] - printed[against] if name in printed else math.nan)
        there = "" if name == against or math.isnan(there) else f"{there:+.2f}"
        lines.append(_row(name, *own, *difference, theirs, there))
    return [*lines, "", *([spec["note"], ""] if "note" in spec else [])]


def _mean(values: Sequence[float]) -> list[str]:
    """The mean, and its interval by t over the seeds."""
    if not values:
        return ["not run", "–"]
    mean = float(np.mean(values))
    if len(values) < 2:
        return [f"{mean:.2f}", "–"]
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return [f"{mean:.2f}", f"{mean - reach:.2f} to {mean + reach:.2f}"]


def _difference(model: BlockModel, name: str, against: str) -> list[str]:
    """The difference over paired seeds, by the linear model of a study's report, of all rows of the table."""
    found = model.contrast({name: 1.0, against: -1.0})
    if found is None:
        return ["–", "–"]
    interval = "–" if found.interval is None else f"{found.interval[0]:+.2f} to {found.interval[1]:+.2f}"
    return [f"{found.value:+.2f}", interval]


def components(values: np.ndarray) -> dict[str, tuple[float, float, float, float, float]]:
    """The variance components of a full table of two crossed random factors, one cell each.

    By analysis of variance: a factor's component is (its mean square - the residual's) / the other's levels, 0 where
    that is negative; the residual holds the interaction. The interval is exact for the ratio, under normality.
    Source: Searle, Casella & McCulloch 1992, Variance Components, chapter 4.

    Args:
        values: a row for each level of the one factor, a column for each of the other.

    Returns:
        For `rows`, `columns` and `residual`: the component, its share of their sum, the p-value of its F test, and the
        95 % interval of its ratio to the residual's (NaN for the residual itself, and where nothing is left).
    """
    levels = values.shape
    freedom = (levels[0] - 1) * (levels[1] - 1)
    means = [values.mean(axis=1), values.mean(axis=0)]
    residual = values - means[0][:, None] - means[1][None, :] + values.mean()
    noise = float((residual**2).sum()) / freedom
    found = {}
    for name, own, count, other in (("rows", means[0], *levels), ("columns", means[1], *levels[::-1])):
        square = other * float(np.var(own, ddof=1))
        ratio = square / noise if noise > 0 else math.nan
        ends = [(ratio / stats.f.ppf(q, count - 1, freedom) - 1) / other for q in (0.975, 0.025)]
        part = max((square - noise) / other, 0.0)
        found[name] = (part, float(stats.f.sf(ratio, count - 1, freedom)), *np.maximum(ends, 0.0).tolist())
    found["residual"] = (noise, math.nan, math.nan, math.nan)
    total = sum(part for part, *_ in found.values())
    return {name: (part, part / total if total > 0 else math.nan, *rest) for name, (part, *rest) in found.items()}


def seeds_table(spec: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    """Every run of two kinds of seeds, their variance components, and the expected best of n runs."""
    error = spec.get("error", False)
    by_place = {(c[spec["rows"]], int(c["seed"])): 100 * float(c[f"valid:{spec['metric']}"]) for c in cells}
    rows, columns = (list(dict.fromkeys(place[side] for place in by_place)) for side in (0, 1))
    values = np.array([[by_place.get((row, column), math.nan) for column in columns] for row in rows])
    whole = ~np.isnan(values).any(axis=0)
    values, columns = values[:, whole], [column for column, kept in zip(columns, whole, strict=True) if kept]
    if min(values.shape) < 2:
        return ["Too few cells have a result yet.", ""]
    shown = 100 - values if error else values
    lines = [_row(f"{spec['measure']}: {spec['names'][0]}", *(f"{spec['names'][1]} {c}" for c in columns), "mean")]
    lines.append("|---" * (len(columns) + 2) + "|")
    for row, line in zip(rows, shown, strict=True):
        lines.append(_row(row.rpartition("=")[2], *(f"{value:.2f}" for value in line), f"{line.mean():.2f}"))
    lines.append(_row("mean", *(f"{value:.2f}" for value in shown.mean(axis=0)), f"{shown.mean():.2f}"))
    lines += ["", "| | standard deviation | of the variance | variance over the rest's, 95 % interval | p (F) |"]
    lines.append("|---|---|---|---|---|")
    names = dict(
        zip(("rows", "columns", "residual"), (*spec["names"], "the rest, with their interaction"), strict=True)
    )
    for name, (part, share, p, low, high) in components(values).items():
        ends = "" if math.isnan(p) else f"{low:.2f} to {high:.2f}"
        lines.append(
            _row(
                names[name], f"{math.sqrt(part):.2f}", f"{100 * share:.0f} %", ends, "" if math.isnan(p) else p_value(p)
            )
        )
    best = expected_maximum(values.ravel().tolist(), greater_is_better=True)
    counts = [n for n in (1, 2, 5, 10, 25) if n <= len(best)]
    lines += ["", _row("expected best of n runs", *map(str, counts)), "|---" * (len(counts) + 1) + "|"]
    lines.append(_row("accuracy, %", *(f"{best[n - 1]:.2f}" for n in counts)))
    for name, ends in spec.get("paper", {}).items():
        lines.append(_row(name, *(f"{ends[n]:.1f}" if n in ends else "" for n in counts)))
    return [*lines, ""]


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def page(name: str, folders: Sequence[Path]) -> str:
    """The page of a reproduction."""
    spec = yaml.safe_load((PAPER / f"{name}.yaml").read_text(encoding="utf-8"))
    planned = cells_of(folders)
    cells = [cell for cell in planned if cell["status"] == "finished"]
    lines = [f"# {spec['title']}", "", spec["question"].strip(), "", spec["source"].strip(), ""]
    lines += [spec["differs"].strip(), "", f"In full, {spec['budget']}:", "", *_console(spec["full"])]
    smaller = "As run for this page" if folders else "Smaller"
    lines += [f"{smaller}: {spec['reduced'].strip()}", "", *_console(spec["run"])]
    if folders:
        seconds = sum(float(cell["seconds"]) for cell in cells)
        lines += [f"{len(cells)} of {len(planned)} cells, {duration(seconds)} of training and evaluation, summed.", ""]
    else:
        lines += ["**Neither was run for this page:** there are no figures of ours.", ""]
    for one in spec.get("tables", ()):
        lines += table(one, cells)
    if "seeds" in spec and cells:
        lines += seeds_table(spec["seeds"], cells)
    if folders:
        lines += [INTERVALS, ""] if "tables" in spec else []
        lines += ["## What held, what did not", "", spec["findings"].strip(), ""]
        command = f"python examples/reproductions/page.py {name} {' '.join(spec['folders'])}"
    else:
        command = f"python examples/reproductions/page.py {name}"
    lines += ["This page was written by:", "", *_console(f"{command} --out docs/reproductions/{name}.md")]
    return "\n".join(lines).rstrip() + "\n"


INTERVALS = (
    "Intervals of means are by t over the seeds. Those of differences are over paired seeds, by the linear model of a "
    "study's report, each on its own: of twenty, one is expected to miss. Both are for these validation examples."
)


def _console(commands: str) -> list[str]:
    return ["```sh", *commands.strip().splitlines(), "```", ""]


def index() -> str:
    """The page that lists them."""
    lines = [*BEFORE.splitlines(), "| study | question | answer, as far as it was run | in full |", "|---|---|---|---|"]
    for name in ORDER:
        spec = yaml.safe_load((PAPER / f"{name}.yaml").read_text(encoding="utf-8"))
        question, answer = (" ".join(spec[key].split()) for key in ("question", "answer"))
        lines.append(_row(f"[{spec['title']}]({name}.md)", question, answer, spec["budget"]))
    lines += ["", AFTER, *_console("python examples/reproductions/page.py index --out docs/reproductions/index.md")]
    return "\n".join(lines).rstrip() + "\n"


BEFORE = """\
# Reproductions

What papers claim, measured again with their tricks in one house, on TREC-6 and on SCv2. None is a replication: the
model is MiniLM (6 blocks, 22 million weights) or a small LSTM, and the text is less; what can hold is a direction. Each
page has the command in full and a smaller one, and says what was run; with it come intervals, and the paper's numbers
beside. Table 7 on an LSTM has been run in full but for the length of its pretraining; the others have been run smaller.

"""

AFTER = """\
The studies are in `examples/reproductions/`, beside `prepare.py`, which makes the files that are no plain copy of the
data, and `page.py`, which writes these pages. The data is not part of this repository: TREC-6 (Li & Roth 2002) and SCv2
(Oraby et al. 2016, in the split of DeepMoji), as CSV files with the columns `text` and `label`. `OUT` is a folder of
yours. Each `sweep` goes on after a kill with `--resume`, so a long study may be run in parts.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*ORDER, "index"])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    written = index() if given.name == "index" else page(given.name, given.folders)
    given.out.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
