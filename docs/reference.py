"""The pages of docs/reference/ that come from the code: hooks, recipe, study, commands, Python. See generate.py."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from pydantic import BaseModel

import finetricks
from finetricks.catalog import Catalog
from finetricks.cli import application
from finetricks.cli.card import card, type_in_words
from finetricks.hooks import HOOKS, Hooks
from finetricks.schema import fields_schema
from finetricks.settings import Data, Training
from finetricks_tuning.budget import Budget
from finetricks_tuning.study import StudySettings, TuneLearningRate

SECTIONS = ("Called", "Arguments", "Gives", "Several")
"""What the docstring of every hook says, in this order."""
BEYOND = re.compile(r",? ≤ [\d.]+e\+\d+")
"""The largest number that tables and libraries hold: a bound that nobody needs to be told of."""
PARTS = {
    "recipe": "Recipes",
    "session": "Sessions",
    "trainer": "In a Hugging Face Trainer",
    "runner": "Runs",
    "saved": "Saved models",
    "tasks": "Tasks",
    "trick": "Tricks",
    "hooks": "What hooks are given",
    "progress": "Progress",
    "step": "The step",
    "layers": "Layers",
    "plan": "Plans",
    "stack": "Stacks",
    "streams": "Random streams",
    "catalog": "Catalogs",
    "errors": "Errors",
}
"""The modules whose names `finetricks` exports, in the order in which they are told of."""


def hooks_page(catalog: Catalog, names: list[str]) -> str:
    """Every hook: when it is called, with what, what it gives, how several combine, and the tricks that have it."""
    cards = [card(name, catalog) for name in names]
    parts = [
        "# Hooks",
        "A trick is a class with at least one of these methods, marked `@hookimpl`. An implementation may leave "
        'arguments out; it may not give them defaults. "In the recipe\'s order" is the order in which the recipe lists '
        "the tricks; of wrappers the first listed is the outermost. How to write one: "
        "[Write a trick](../writing-a-trick.md).",
        _table(
            ("hook", "tricks that have it"),
            [
                (
                    f"[`{hook}`](#{hook})",
                    ", ".join(
                        _trick(c["name"]) + " (wraps)" * (hook in c["wraps"]) for c in cards if hook in c["hooks"]
                    ),
                )
                for hook in HOOKS
            ],
        ),
    ]
    for hook in HOOKS:
        parts.extend(_hook(hook))
    return "\n\n".join(parts) + "\n"


def _hook(name: str) -> Iterator[str]:
    function = getattr(Hooks, name)
    summary, *rest = re.split(rf"^({'|'.join(SECTIONS)}):\s*", inspect.getdoc(function) or "", flags=re.MULTILINE)
    signature = inspect.signature(function)
    given = [f"{one.name}: {one.annotation}" for one in signature.parameters.values() if one.name != "self"]
    yield f"## `{name}`"
    yield summary.strip()
    yield f"```python\ndef {name}(self, {', '.join(given)}) -> {signature.return_annotation}\n```"
    told = dict(zip(rest[::2], rest[1::2], strict=True))
    yield _table(("", ""), [(section.lower(), " ".join(told[section].split())) for section in SECTIONS])


def recipe_page() -> str:
    """The fields of a recipe."""
    return "\n\n".join(
        [
            "# Recipe",
            "A YAML file, or `finetricks.Recipe` in Python. Relative paths are relative to the file that names them. "
            "`finetricks schema` prints all of this, with the fields of every installed trick, as a JSON Schema for "
            "editors.",
            _table(
                ("key", "what"),
                [
                    ("`model`", "A Hub name, a local folder, or a packaged model (`minilm`)."),
                    ("`data`", "[Where the examples come from](#data)."),
                    ("`training`", "[How to train](#training)."),
                    ("`tricks`", "A list: a name, or a name with its values. Fields: the [cards](../tricks.md)."),
                    ("`layers`", "Names of layers, from input to output, to prefixes of module names: for "
                     "[a model whose order cannot be told](../how-to/layers.md)."),
                ],
            ),
            "## data",
            _summary(Data),
            _fields(Data),
            "## training",
            _summary(Training),
            _fields(Training),
        ]
    ) + "\n"  # fmt: skip


def study_page() -> str:
    """The fields of a study."""
    return (
        "\n\n".join(
            [
                "# Study",
                "A YAML file for `finetricks sweep`. What its designs and strategies do, and how it is judged: "
                "[Designs and strategies](../studies.md).",
                _fields(StudySettings),
                "## tune_learning_rate",
                _summary(TuneLearningRate),
                _fields(TuneLearningRate),
                "## budget",
                _summary(Budget),
                _fields(Budget),
            ]
        )
        + "\n"
    )


def commands_page() -> str:
    """Every command with its arguments and options."""
    app: Any = typer.main.get_command(application())
    parts = [
        "# Commands",
        "Exit codes: 0 good, 1 the work failed, 2 the input is wrong, 130 interrupted. `FINETRICKS_DEBUG=1` shows "
        "where an error arose. `--version` prints the version, `finetricks COMMAND --help` what stands here.",
    ]
    for name, command in app.commands.items():
        parts += [f"## finetricks {name}", command.help or ""]
        parts.append(_table(("", "", "default"), [_parameter(one) for one in command.params if one.name != "help"]))
    return "\n\n".join(parts) + "\n"


def python_page() -> str:
    """Where the docstrings of what `finetricks` exports go; the site fills them in."""
    homes = finetricks._HOME
    parts = [
        "# Python",
        "What `import finetricks as ft` offers. Importing it loads neither torch nor transformers: names are loaded "
        "when they are first used.",
    ]
    for module in (*PARTS, *(set(homes) - set(PARTS))):
        parts.append(f"## {PARTS[module]}")
        parts += [f"::: finetricks.{module}.{name}" for name in homes[module]]
    parts += ["## Lightning", "::: finetricks.lightning.TrickModule"]  # imported by itself: it needs the extra
    return "\n\n".join(parts) + "\n"


def _summary(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").split("\n\n")[0]


def _fields(model: type[BaseModel]) -> str:
    schemas = fields_schema(model).get("properties", {})
    rows = []
    for name, field in model.model_fields.items():
        schema = schemas[name]
        default = "required" if field.is_required() else f"`{json.dumps(schema.get('default'))}`"
        rows.append((f"`{name}`", _type(schema), default, field.description or ""))
    return _table(("field", "type", "default", ""), rows)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return "mapping"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(branch) for branch in schema["anyOf"]))
    if "prefixItems" in schema:
        return f"array of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
    return BEYOND.sub("", type_in_words(schema))


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        return (
            f"`{parameter.metavar or parameter.name.upper()}`",
            parameter.help or "",
            "required" if parameter.required else "",
        )
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    if not parameter.is_flag and parameter.metavar:
        flags += f" `{parameter.metavar}`"
    default = "required" if parameter.required else parameter.default
    shown = "" if default in (None, False) else default if default == "required" else f"`{default}`"
    return flags, parameter.help or "", shown


def _having(hook: str, cards: list[dict[str, Any]]) -> Iterator[str]:
    for one in cards:
        if hook in one["hooks"]:
            yield _trick(one["name"]) + " (wraps)" * (hook in one["wraps"])


def _trick(name: str) -> str:
    return f"[`{name}`](../tricks.md#{name})"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
