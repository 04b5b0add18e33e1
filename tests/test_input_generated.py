"""Inputs that nobody wrote: mutations of good ones, and whatever the schema of recipes allows, or nearly.

Of each the same is asked: it is read, and then comes back from what it is written as; or it is refused with its place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetricks.catalog import installed
from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks.schema import recipe_schema
from inputs import ODD, SECONDS, SEEDS, TARGETS, at_most, little_memory, mutated_text, refused_well

FOUND = Path(__file__).parent / "corpus" / "found"
MUTATIONS = {"recipe": 60, "study": 60, "csv": 60, "tsv": 20, "jsonl": 60, "ledger": 20, "plan": 40, "setting": 0}
"""How many mutations of each reader's good inputs CI tries; `make fuzz` tries more than anyone waits for."""

BYTES = {
    "csv": 40,
    "jsonl": 40,
    "parquet": 60,
    "recipe": 40,
    "setting": 40,
    "result": 30,
    "predictions": 10,
    "metrics": 30,
}
"""How many inputs with a few bytes changed."""


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with little_memory():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("model: minilm\ndata: {train: stdlib_docstrings}\n")
    return tmp_path


@pytest.mark.parametrize("target", [target for target, count in MUTATIONS.items() if count])
def test_mutations_by_structure(target: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    tried, draw = 0, random.Random(0)
    while tried < MUTATIONS[target]:
        content = mutated_text(target, draw.choice(SEEDS[target]), draw)
        if content is not None:
            _try(target, content, folder)
            tried += 1
    record_property("inputs tried", tried)


@pytest.mark.parametrize("target", BYTES)
def test_mutations_by_bytes(target: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    draw = random.Random(1)
    for _ in range(BYTES[target]):
        content = bytearray(draw.choice(SEEDS[target]))
        for _ in range(draw.choice([1, 1, 2, 5, 20])):
            place = draw.randrange(len(content))
            match draw.randrange(3):
                case 0:
                    content[place] = draw.choice(b"\0\n\r\t\x1b \"',:{}[]0-\xc3\xff")
                case 1:
                    content.insert(place, draw.randrange(256))
                case 2 if len(content) > 1:
                    del content[place : place + draw.choice([1, 2, len(content)])]
                    content += b"" if content else b"x"
        _try(target, bytes(content), folder)
    record_property("inputs tried", BYTES[target])


def _try(target: str, content: bytes, folder: Path) -> None:
    try:
        with at_most(SECONDS):
            TARGETS[target](content, folder)
    except BaseException as error:
        error.add_note(f"{target}: {content[:2000]!r}")
        raise


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found(path: Path, folder: Path, record_property: Callable[[str, object], None]) -> None:
    _try(path.parent.name, path.read_bytes(), folder)
    record_property("inputs tried", 1)


# -- from the schema -------------------------------------------------------------------------------------


def of_schema(schema: dict[str, Any], known: dict[str, Any], near: bool) -> st.SearchStrategy[Any]:
    """Values that a schema allows; `near` also values that it does not: beyond a bound, of another type, or missing."""
    allowed = _allowed(schema, known, near)
    return st.one_of(allowed, allowed, allowed, st.sampled_from(ODD)) if near else allowed


def _allowed(  # noqa: PLR0911  a branch for each kind of node
    schema: dict[str, Any], known: dict[str, Any], near: bool
) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return of_schema(known[schema["$ref"].removeprefix("#/$defs/")], known, near)
    if "anyOf" in schema:
        return st.one_of(*(of_schema(branch, known, near) for branch in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "integer":
            return st.integers(*_ends(schema, 1)) if not near else st.integers(-3, 5)
        case "number":
            return _numbers(schema)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string":
            return st.text(min_size=max(schema.get("minLength", 0), 1), max_size=8).filter(_names_nothing)
        case "array":
            inner = [of_schema(part, known, near) for part in schema.get("prefixItems", ())]
            if inner:
                return st.tuples(*inner).map(list)
            least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
            return st.lists(of_schema(schema.get("items", {}), known, near), min_size=least, max_size=max(most, least))
        case "object":
            return _objects(schema, known, near)
    return st.sampled_from(ODD)


def _objects(schema: dict[str, Any], known: dict[str, Any], near: bool) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: of_schema(part, known, near) for name, part in schema.get("properties", {}).items()}
    if schema.get("maxProperties") == 1:  # a trick with its values
        return st.sampled_from(sorted(fields)).flatmap(lambda name: st.fixed_dictionaries({name: fields[name]}))
    if not fields and isinstance(more := schema.get("additionalProperties"), dict):
        return st.dictionaries(st.text("abc.", min_size=1, max_size=5), of_schema(more, known, near), max_size=2)
    required = {name: fields[name] for name in schema.get("required", ()) if not near}
    return st.fixed_dictionaries(required, optional={name: of for name, of in fields.items() if name not in required})


def _ends(schema: dict[str, Any], step: int) -> tuple[int | None, int | None]:
    low = (
        schema["minimum"]
        if "minimum" in schema
        else schema["exclusiveMinimum"] + step
        if "exclusiveMinimum" in schema
        else None
    )
    high = (
        schema["maximum"]
        if "maximum" in schema
        else schema["exclusiveMaximum"] - step
        if "exclusiveMaximum" in schema
        else None
    )
    return low, high


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    return st.floats(
        low,
        high,
        allow_nan=False,
        allow_infinity=False,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
    )


def _names_nothing(text: str) -> bool:
    return bool(text.strip()) and not text.startswith((".", "/", "~")) and "\0" not in text


SCHEMA = recipe_schema(installed())
WHOLE = of_schema(SCHEMA, SCHEMA["$defs"], near=False)
NEAR = of_schema(SCHEMA, SCHEMA["$defs"], near=True)
LIMITS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
TRIED = 150


def _comes_back_or_is_refused(recipe: Any, folder: Path) -> bool:
    import yaml

    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        found = Recipe.load(folder / "recipe.yaml")
    except InputError as error:
        refused_well(error, "recipe.yaml")
        return False
    again = Recipe(**found.to_dict())
    assert again == found
    assert again.fingerprint == found.fingerprint
    return True


def test_what_the_schema_allows_is_read_or_refused_with_the_reason(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    taken: list[bool] = []

    @settings(LIMITS, max_examples=TRIED)
    @given(recipe=WHOLE)
    def tries(recipe: Any) -> None:
        taken.append(_comes_back_or_is_refused(recipe, tmp_path))

    tries()
    assert sum(taken) > 10  # of some the tricks exclude one another, or files are missing
    record_property("inputs tried", len(taken))


def test_what_the_schema_nearly_allows_is_read_or_refused_with_the_reason(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    taken: list[bool] = []

    @settings(LIMITS, max_examples=TRIED)
    @given(recipe=NEAR)
    def tries(recipe: Any) -> None:
        taken.append(_comes_back_or_is_refused(recipe, tmp_path))

    tries()
    assert sum(taken) < len(taken) / 2
    assert len(taken) - sum(taken) > 10
    record_property("inputs tried", len(taken))
