"""YAML with line numbers: read safely (a recipe can never execute code), so that each error names its line.

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: `2e-4` is a number and `off` is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetricks.errors import Problem, RecipeError, suggest

Loc = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _first_characters = [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_characters)
# The constructor of 1.1 reads 010 as octal and 1_000 as a thousand; 1.2 does neither.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


@dataclass(frozen=True)
class Document:
    """A YAML file's content, where it came from, and on which line each of its values stands."""

    data: Any
    path: Path | None = None
    lines: Mapping[Loc, int] = field(default_factory=dict)
    overrides: frozenset[Loc] = frozenset()

    @property
    def folder(self) -> Path:
        """What relative paths in the document are relative to."""
        return self.path.parent if self.path else Path.cwd()

    def place(self, loc: Loc) -> str:
        """`recipe.yaml:7 training.epochs`; a value that the file does not hold is placed where it would stand."""
        dotted = ".".join(str(part) for part in loc)
        for given in self.overrides:
            if loc[: len(given)] == given:
                return f"--set {dotted}"
            if given[: len(loc)] == loc and loc not in self.lines:
                return f"--set {'.'.join(str(part) for part in given)}"
        if self.path is None:
            return dotted
        line = next((self.lines[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.lines), 1)
        return f"{self.path.name}:{line} {dotted}".rstrip()

    def at(self, key: str) -> Document:
        """The part of the document under `key`, with its lines."""
        return Document(
            data=self.data[key],
            path=self.path,
            lines={loc[1:]: line for loc, line in self.lines.items() if loc[:1] == (key,)},
            overrides=frozenset(loc[1:] for loc in self.overrides if loc[:1] == (key,)),
        )


def load_yaml(path: str | Path) -> Document:
    """Read a YAML file. Raises `RecipeError` for a file that is missing, not UTF-8, or not YAML."""
    path = Path(path).absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(Problem(path.name, f"not UTF-8 at byte {error.start}; save it as UTF-8")) from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder; name the YAML file in it") from None
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path | None = None) -> Document:
    """Parse YAML text; `path` is what errors and relative paths refer to."""
    name = path.name if path else "YAML"
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[Loc, int] = {}
        if node is not None:
            _index(node, (), lines, name, set())
        return Document(yaml.load(text, Loader=_Loader), path, lines)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise RecipeError(Problem(f"{name}:{line}", f"not YAML: {error.problem or error.context}")) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(Problem(name, f"not YAML: {error}")) from None


def _index(node: yaml.Node, loc: Loc, lines: dict[Loc, int], name: str, above: set[int]) -> None:
    lines.setdefault(loc, node.start_mark.line + 1)
    if id(node) in above:
        raise RecipeError(Problem(f"{name}:{node.start_mark.line + 1}", "an alias that contains itself"))
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RecipeError(Problem(f"{name}:{key.start_mark.line + 1}", f"the key {key.value!r} stands twice"))
            seen.add(key.value)
            lines[(*loc, key.value)] = key.start_mark.line + 1
            _index(value, (*loc, key.value), lines, name, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _index(value, (*loc, index), lines, name, above)


def override(document: Document, settings: Iterable[str]) -> Document:
    """Apply `a.b=c` settings (the value is YAML) on top of a document.

    Within a list of one-key mappings, such as `tricks`, a name selects the entry: `tricks.stlr.ratio=10`.
    """
    for setting in settings:
        dotted, separator, text = setting.partition("=")
        if not separator or not dotted.strip():
            raise RecipeError(f"--set {setting}: write it as name=value, for example training.epochs=2")
        loc: Loc = tuple(dotted.strip().split("."))
        value = parse_yaml(text).data
        data = _replaced(document.data, loc, value, f"--set {dotted}")
        document = Document(data, document.path, document.lines, document.overrides | {_resolved(data, loc)})
    return document


def _resolved(data: Any, loc: Loc) -> Loc:
    """Where `loc` lies in `data`: the name of a list's entry is preceded by the entry's index."""
    if not loc:
        return ()
    if isinstance(data, list):
        index = next(i for i, entry in enumerate(data) if isinstance(entry, dict) and loc[0] in entry)
        return (index, *_resolved(data[index], loc))
    return (loc[0], *_resolved(data[loc[0]], loc[1:]))


def _replaced(data: Any, loc: Loc, value: Any, place: str) -> Any:
    if not loc:
        return value
    key, rest = loc[0], loc[1:]
    if data is None:
        data = {}
    if isinstance(data, list):
        names = [entry if isinstance(entry, str) else next(iter(entry), "") for entry in data if entry]
        if key not in names:
            raise RecipeError(f"{place}: no entry {key!r} to set{suggest(str(key), names)}")
        return [
            {key: _replaced({} if entry == key else entry[key], rest, value, place)} if name == key else entry
            for entry, name in zip(data, names, strict=True)
        ]
    if not isinstance(data, dict):
        raise RecipeError(f"{place}: {key!r} lies within {data!r}, which holds no further settings")
    return {**data, key: _replaced(data.get(key), rest, value, place)}


def dump_yaml(data: Any) -> str:
    """YAML text that `parse_yaml` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    # Without this the dumper leaves unquoted what only 1.1 or only 1.2 takes for a number.
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    looks_special = any(
        pattern.match(text) for entries in _Loader.yaml_implicit_resolvers.values() for _, pattern in entries
    )
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if looks_special else None)


_Dumper.add_representer(str, _text)
