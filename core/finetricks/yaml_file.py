"""YAML with line numbers: read safely (a recipe can never execute code), so that each error names its line.

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: `2e-4` is a number and `off` is a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetricks.errors import Problem, RecipeError, quoted, shortened, suggest
from finetricks.text_file import content_of, decoded

Loc = tuple[str | int, ...]


MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
MOST_DEPTH = 50
"""What a file may hold, its aliases written out: more is a slip, or meant to take the reader's memory."""


class _Loader(yaml.SafeLoader):
    """Of the tags only those of JSON's types are known: any other is an error, with its line."""


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    None: yaml.SafeLoader.construct_undefined,
    **{
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag in {f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map")}
    },
}


def _scalar(name: str, pattern: str, first: Sequence[str], make: Callable[[str], Any]) -> None:
    """Tell the loader of a type: how its values are written, with which characters they begin, and what they are."""
    tag, written = f"tag:yaml.org,2002:{name}", re.compile(f"(?:{pattern})$")
    _Loader.add_implicit_resolver(tag, written, list(first))

    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        text = str(loader.construct_scalar(node))
        what = f"{quoted(text)} is no {name}"
        try:
            if written.match(text):
                return make(text)
        except ValueError:
            what = f"a number of {len(text):,} digits"
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)

    _Loader.add_constructor(tag, construct)


_scalar("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true")
_scalar("int", r"[-+]?[0-9]+", "-+0123456789", int)
_scalar(
    "float",
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "-+0123456789.",
    lambda text: float(re.sub(r"\.(?=[A-Za-z])", "", text)),
)
_scalar("null", r"~|null|Null|NULL|", ["~", "n", "N", ""], lambda _: None)


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
        dotted = shortened(".".join(str(part) for part in loc))
        for given in self.overrides:
            if loc[: len(given)] == given:
                return f"--set {dotted}"
            if given[: len(loc)] == loc and loc not in self.lines:
                return f"--set {shortened('.'.join(str(part) for part in given))}"
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
    """Read a YAML file. Raises `RecipeError` for one that is missing, no file, not UTF-8, or not YAML."""
    path = Path(path).absolute()
    return parse_yaml(decoded(path.name, content_of(path, RecipeError, MOST_BYTES), RecipeError), path)


def parse_yaml(text: str, path: Path | None = None) -> Document:
    """Parse YAML text; `path` is what errors and relative paths refer to."""
    name = path.name if path else "YAML"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[Loc, int] = {}
        if node is None:
            return Document(None, path, lines)
        _Index(loader, name, lines).visit(node)
        return Document(loader.construct_document(node), path, lines)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise RecipeError(Problem(f"{name}:{line}", f"not YAML: {_in_words(error)}")) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        told = f"not YAML: the character {chr(int(error.character))!a} may not stand in it"
        raise RecipeError(Problem(f"{name}:{line}", told)) from None
    except RecursionError:
        raise RecipeError(Problem(name, f"nested more than {MOST_DEPTH} deep")) from None
    except (yaml.YAMLError, ValueError) as error:  # an escape of no character: "\U00110000"
        raise RecipeError(Problem(name, f"not YAML: {error}")) from None


def _in_words(error: yaml.MarkedYAMLError) -> str:
    told = (error.problem or error.context or "").replace("tag:yaml.org,2002:", "!!")
    if tag := re.search("constructor for the tag (.*)", told):
        return f"the tag {tag[1]} is not known here; write the value without one"
    return f"{error.context}, {told}" if told.startswith("but found") else told


class _Index:
    """Finds on which line each value of a document stands, and refuses what no document may hold.

    Args:
        name: of the file, for errors.
        lines: by the place of a value, its line; filled.
    """

    def __init__(self, loader: yaml.SafeLoader, name: str, lines: dict[Loc, int]) -> None:
        self.loader = loader
        self.name = name
        self.lines = lines

    def visit(self, node: yaml.Node, loc: Loc = (), above: frozenset[int] = frozenset()) -> None:
        self.lines.setdefault(loc, node.start_mark.line + 1)
        if id(node) in above:
            raise self._refusal(node, "an alias that contains itself")
        if len(above) >= MOST_DEPTH:
            raise self._refusal(node, f"nested more than {MOST_DEPTH} deep")
        if len(self.lines) > MOST_VALUES:
            raise self._refusal(node, f"more than {MOST_VALUES:,} values, with what its aliases stand for")
        above = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            seen: set[Any] = set()
            for key, value in node.value:
                known = self._key(key)
                if known in seen:
                    raise self._refusal(key, f"the key {quoted(known)} stands twice")
                seen.add(known)
                self.lines[(*loc, known)] = key.start_mark.line + 1
                self.visit(value, (*loc, known), above)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.visit(value, (*loc, index), above)
        else:
            self._check_text(node)

    def _key(self, key: yaml.Node) -> Any:
        if not isinstance(key, yaml.ScalarNode):
            raise self._refusal(key, "a key that is a list or a mapping; keys are words")
        self._check_text(key)
        return self.loader.construct_object(key)

    def _check_text(self, node: yaml.Node) -> None:
        # By escapes, "\0" and "\ud800", a text can hold what no file name, no terminal and no UTF-8 can.
        if bad := next((c for c in node.value if c == "\0" or "\ud800" <= c <= "\udfff"), None):
            raise self._refusal(node, f"{quoted(node.value)} holds {bad!a}, which is no character of a text")

    def _refusal(self, node: yaml.Node, what: str) -> RecipeError:
        return RecipeError(Problem(f"{self.name}:{node.start_mark.line + 1}", what))


def override(document: Document, settings: Iterable[str]) -> Document:
    """Apply `a.b=c` settings (the value is YAML) on top of a document.

    Within a list of one-key mappings, such as `tricks`, a name selects the entry: `tricks.stlr.ratio=10`.
    """
    for setting in settings:
        dotted, separator, text = setting.partition("=")
        if not separator or not dotted.strip():
            raise RecipeError(f"--set {shortened(setting)}: write it as name=value, for example training.epochs=2")
        loc: Loc = tuple(dotted.strip().split("."))
        if len(loc) > MOST_DEPTH:
            raise RecipeError(f"--set {shortened(dotted)}: more than {MOST_DEPTH} names, one within the other")
        place = f"--set {shortened(dotted)}"
        try:
            value = parse_yaml(text).data
        except RecipeError as error:
            raise RecipeError([Problem(place, problem.message) for problem in error.problems]) from None
        data = _replaced(document.data, loc, value, place)
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
        names = [_name(entry) for entry in data]
        if key not in names:
            known = [name for name in names if name is not None]
            raise RecipeError(f"{place}: no entry {quoted(key)} to set{suggest(str(key), known)}")
        index = names.index(str(key))
        entry = data[index]
        changed = {key: _replaced({} if entry == key else entry[key], rest, value, place)}
        return [*data[:index], changed, *data[index + 1 :]]
    if not isinstance(data, dict):
        raise RecipeError(f"{place}: {quoted(key)} lies within {quoted(data)}, which holds no further settings")
    return {**data, key: _replaced(data.get(key), rest, value, place)}


def _name(entry: Any) -> str | None:
    """What an entry of a list is called: a word itself, or the only key of a mapping."""
    if isinstance(entry, dict) and len(entry) == 1:
        entry = next(iter(entry))
    return entry if isinstance(entry, str) else None


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
