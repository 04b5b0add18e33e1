"""Write the pages that say what the code says of itself: `python docs/generate.py`.

docs/tricks.md holds the card of every trick, docs/pairs.md the pairs that are refused, docs/machines.md how each trains
in other ways than fp32 in one process, README.md the table of tricks; docs/reference/ what the code says of hooks,
recipes, studies, commands and the Python API. Translated pages get the code and the output
of those that they translate.
With `--check` nothing is written; the exit code says whether the pages are as they would be written.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetricks import Catalog, installed
from finetricks.cli.card import card, hooks_in_words, type_in_words
from finetricks.stack import conflicts

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "tests")]
import reference  # noqa: E402
from blocks import FENCE  # noqa: E402

from modes import EXACT, MODES, REASONS  # noqa: E402

BEGIN, END = "<!-- tricks: docs/generate.py writes what follows -->", "<!-- end of tricks -->"
FOLDERS = {
    "data": "What the model sees",
    "build": "The model's structure",
    "init": "The weights before training",
    "param_groups": "The rate and decay of each layer",
    "freeze": "What is trained when",
    "schedule": "The learning rate over time",
    "loss": "The loss",
    "regularize": "Penalties on the weights",
    "evaluated": "Decisions while training",
}
"""The folders of the built-in tricks, one for each main hook."""


def main() -> int:
    pages = written(installed())
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(DOCS.parent)} is not what docs/generate.py writes", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path])
    return 0


def written(catalog: Catalog) -> dict[Path, str]:
    """The pages as they should be."""
    names = [name for group in grouped(catalog).values() for name in group]
    pages = {
        DOCS / "tricks.md": tricks_page(catalog),
        DOCS / "pairs.md": pairs_page(catalog),
        DOCS / "reference" / "hooks.md": reference.hooks_page(catalog, names),
        DOCS / "reference" / "recipe.md": reference.recipe_page(),
        DOCS / "reference" / "study.md": reference.study_page(),
        DOCS / "reference" / "commands.md": reference.commands_page(),
        DOCS / "reference" / "python.md": reference.python_page(),
        DOCS / "machines.md": _with_part(DOCS / "machines.md", machines_table(catalog)),
        DOCS.parent / "README.md": _with_part(DOCS.parent / "README.md", table(catalog)),
    }
    translated = {page: DOCS / page.relative_to(DOCS / "zh") for page in (DOCS / "zh").rglob("*.md")}
    translated[DOCS.parent / "README.zh.md"] = DOCS.parent / "README.md"
    return pages | {page: _with_blocks_of(page, pages.get(of) or of.read_text()) for page, of in translated.items()}


def _with_blocks_of(page: Path, english: str) -> str:
    """A translated page with the fenced blocks, and the table of tricks, of the one that it translates."""
    text = page.read_text()
    wanted = [block[0] for block in FENCE.finditer(english)]
    assert len(wanted) == len(FENCE.findall(text)), f"{page} has other blocks than the page that it translates"
    blocks = iter(wanted)
    text = FENCE.sub(lambda _: next(blocks), text)
    if BEGIN not in text:
        return text
    part = english.split(BEGIN)[1].split(END, maxsplit=1)[0]
    return f"{text.split(BEGIN)[0]}{BEGIN}{part}{END}{text.split(END)[1]}"


def _with_part(page: Path, part: str) -> str:
    before, rest = page.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{part}\n{END}{rest.split(END)[1]}"


def grouped(catalog: Catalog) -> dict[str, list[str]]:
    """The names of the built-in tricks by the folder that they live in."""
    ours = [name for name, entry in catalog.entries.items() if entry.distribution == "finetricks"]
    groups: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
    for name in sorted(ours):
        groups[catalog.get(name).__module__.split(".")[1]].append(name)
    return groups


def table(catalog: Catalog, linked: bool = False) -> str:
    lines = ["| trick | hooks | in a sentence |", "|---|---|---|"]
    for names in grouped(catalog).values():
        for name in names:
            found = card(name, catalog)
            escaped = found["summary"].replace("|", "\\|")
            shown = f"[`{name}`](#{name})" if linked else f"`{name}`"
            lines.append(f"| {shown} | {hooks_in_words(found)} | {escaped} |")
    return "\n".join(lines)


def machines_table(catalog: Catalog) -> str:
    """What tests/test_machines.py and tests/test_machines_ranks.py hold each trick to."""
    columns = [f"`{mode}`" for mode in MODES] + ["two processes"]
    lines = [f"| trick | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for names in grouped(catalog).values():
        for name in names:
            cells = ["works, equal bits" if mode in EXACT else "works" for mode in MODES]
            reason = REASONS.get(name)
            cells.append(f"works; other losses: {reason}" if reason else "works, as one process")
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def tricks_page(catalog: Catalog) -> str:
    parts = ["# The tricks", "The cards of the built-in tricks, as `finetricks show NAME` prints them too."]
    parts.append("Which of them cannot stand together, and why: [pairs.md](pairs.md).")
    parts.append(table(catalog, linked=True))
    for folder, names in grouped(catalog).items():
        parts.append(f"## {FOLDERS[folder]} (`{folder}`)")
        for name in names:
            parts.extend(_card(card(name, catalog)))
    return "\n\n".join(parts) + "\n"


def _card(found: dict[str, Any]) -> Iterator[str]:
    yield f"### `{found['name']}`"
    yield f"*{hooks_in_words(found)}*"
    yield _markdown(found["doc"])
    if found["fields"]:
        lines = ["| field | type | default | search | |", "|---|---|---|---|---|"]
        for name, field in found["fields"].items():
            kind = type_in_words(field["schema"]).replace("|", "\\|")
            default = "required" if field["required"] else f"`{json.dumps(field['default'])}`"
            search = ", ".join(f"`{json.dumps(value)}`" for value in field["search"] or ())
            lines.append(f"| `{name}` | {kind} | {default} | {search} | {field['description'] or ''} |")
        yield "\n".join(lines)
    if found["neutral"] is not None:
        yield f"Equals its absence at `{json.dumps(found['neutral'])}`."


def _markdown(doc: str) -> str:
    """A docstring's text, in which nothing but code in backticks is markup."""
    plain_and_code = doc.split("`")
    plain_and_code[::2] = [re.sub(r"([*_|])", r"\\\1", text).replace("<", "&lt;") for text in plain_and_code[::2]]
    return "`".join(plain_and_code)


def pairs_page(catalog: Catalog) -> str:
    names = [name for group in grouped(catalog).values() for name in group]
    refused = [(pair, problems) for pair in itertools.combinations(names, 2) if (problems := refusals(catalog, pair))]
    pairs = len(names) * (len(names) - 1) // 2
    lines = [
        "# Pairs of tricks",
        f"Of the {pairs} pairs of the {len(names)} built-in tricks {pairs - len(refused)} train together: "
        f"`tests/test_every_pair.py` trains each of them. {len(refused)} are refused, for the reason given.",
        "| | | why not |\n|---|---|---|\n"
        + "\n".join(f"| `{one}` | `{other}` | {'; '.join(problems)} |" for (one, other), problems in refused),
    ]
    return "\n\n".join(lines) + "\n"


def refusals(catalog: Catalog, pair: tuple[str, str]) -> list[str]:
    """Why the two tricks cannot stand in one recipe, whatever their values."""
    classes = [(name, catalog.get(name)) for name in pair]
    # The reasons stand on the classes; required values are not needed to read them.
    found = [str(problem) for problem in conflicts([(name, kind.model_construct()) for name, kind in classes])]
    return [text for text in dict.fromkeys(found) if " needs " not in text]


if __name__ == "__main__":
    sys.exit(main())
