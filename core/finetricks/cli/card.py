"""What there is to know of a trick: its docstring, its hooks, its fields. As data, and as text."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape

from finetricks import __version__
from finetricks.catalog import Catalog
from finetricks.cli.console import new_table
from finetricks.implementation import implementations
from finetricks.schema import fields_schema, summary
from finetricks.trick import Trick, search_space

BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def headline(name: str, catalog: Catalog) -> dict[str, Any]:
    """A trick's name, what it does in a line, its hooks (those that it wraps, too) and where it comes from."""
    trick = catalog.get(name)
    hooks = implementations(trick)
    return {
        "name": name,
        "summary": summary(trick),
        "hooks": [hook.hook for hook in hooks],
        "wraps": [hook.hook for hook in hooks if hook.wrapper],
        "from": catalog.origin_of(name),
        "written_for": None if (versions := catalog.written_for(name)) is None else str(versions),
    }


def card(name: str, catalog: Catalog) -> dict[str, Any]:
    """All that a trick's class says of itself, as JSON values."""
    trick = catalog.get(name)
    return {
        **headline(name, catalog),
        "doc": inspect.cleandoc(trick.__doc__ or ""),
        "neutral": trick.neutral,
        "conflicts": trick.conflicts,
        "requires": trick.requires,
        "fields": _fields(trick),
    }


def _fields(trick: type[Trick]) -> dict[str, dict[str, Any]]:
    schemas, space = fields_schema(trick).get("properties", {}), search_space(trick)
    fields = {}
    for name, field in trick.model_fields.items():
        schema = {key: value for key, value in schemas.get(name, {}).items() if key not in ("title", "description")}
        fields[name] = {
            "schema": schema,
            "required": field.is_required(),
            "default": schema.pop("default", None),
            "search": list(space[name]) if name in space else None,
            "description": field.description,
        }
    return fields


def not_for_this_version(tricks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Warnings of tricks that say that they were written for other versions of finetricks, one a distribution."""
    others = {
        trick["from"]: trick["written_for"]
        for trick in tricks
        if trick["written_for"] and not SpecifierSet(trick["written_for"]).contains(__version__, prereleases=True)
    }
    return [
        f"{origin} was written for finetricks {versions}, and this is {__version__}: look for another version of it"
        for origin, versions in others.items()
    ]


def origin_in_words(card: Mapping[str, Any]) -> str:
    return f"{card['from']}, for finetricks {card['written_for']}" if card["written_for"] else str(card["from"])


def hooks_in_words(card: Mapping[str, Any]) -> str:
    return ", ".join(f"wraps {hook}" if hook in card["wraps"] else hook for hook in card["hooks"])


def print_card(card: Mapping[str, Any], console: Console) -> None:
    about = escape(f"({hooks_in_words(card)}; from {origin_in_words(card)})")
    console.print(f"[bold]{escape(card['name'])}[/bold]  {about}\n", soft_wrap=True)
    console.print(card["doc"], markup=False, soft_wrap=True)
    if card["fields"]:
        table = new_table("field", "type", "default", "search", "")
        for name, field in card["fields"].items():
            search = ", ".join(map(str, field["search"])) if field["search"] else ""
            default = "required" if field["required"] else json.dumps(field["default"])
            table.add_row(
                *map(escape, (name, type_in_words(field["schema"]), default, search, field["description"] or ""))
            )
        console.print(table)
    if card["neutral"] is not None:
        console.print(f"neutral at: {json.dumps(card['neutral'])}", markup=False)
    for relation in ("conflicts", "requires"):
        for other, reason in card[relation].items():
            console.print(f"{relation}: {other} ({reason})", markup=False, soft_wrap=True)


def type_in_words(schema: Mapping[str, Any]) -> str:
    """A field's type and bounds: `number > 0, < 1`, `integer ≥ 0 or null`, `"sum" or "mean"`."""
    if "anyOf" in schema:
        return " or ".join(type_in_words(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    kind = str(schema.get("type", "any"))
    if kind == "array" and schema.get("items"):
        kind = f"array of {type_in_words(schema['items'])}"
    bounds = ", ".join(f"{sign} {schema[bound]:g}" for bound, sign in BOUNDS.items() if bound in schema)
    return f"{kind} {bounds}".rstrip()
