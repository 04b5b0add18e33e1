"""What a trick's class must be, before anything is trained."""

from __future__ import annotations

import inspect
import json
import keyword
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from finetricks.catalog import installed
from finetricks.implementation import check_hooks
from finetricks.schema import fields_schema
from finetricks.testing.check import Wrong, check
from finetricks.testing.subject import Subject
from finetricks.trick import search_space

LONGEST_SUMMARY = 110
BOUNDS = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}


@check()
def check_name(subject: Subject) -> None:
    """Its name is words in lower case, joined by underscores, and no other trick's."""
    name, known = subject.name, installed()
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise Wrong(f"its name is {name!r}; name it in lower case, words joined by underscores: label_smoothing")
    if name in known.entries and known.get(name) is not subject.kind:
        raise Wrong(f"its name is that of a trick of {known.origin_of(name)}; rename the class, or the entry point")


@check()
def check_docstring(subject: Subject) -> None:
    """Its docstring begins with what it does, in a line, and says where it comes from."""
    text = inspect.cleandoc(subject.kind.__dict__.get("__doc__") or "")
    if not text:
        raise Wrong("it has no docstring; say what it does in a line, its formula, when it applies, and its source")
    if len(first := text.splitlines()[0]) > LONGEST_SUMMARY:
        raise Wrong(f"its docstring's first line has {len(first)} characters; keep it to {LONGEST_SUMMARY}")
    if "Source:" not in text:
        raise Wrong("its docstring has no source; end it with `Source: authors, year, title, section, link`")


@check()
def check_fields(subject: Subject) -> None:
    """Its fields are described, typed and bounded, and take their defaults and the values that a study tries."""
    properties = fields_schema(subject.kind).get("properties", {})
    for name, field in subject.kind.model_fields.items():
        if not field.description:
            raise Wrong(f"the field {name!r} has no description; give Field(description=...)")
        if field.annotation in (Any, object):
            raise Wrong(f"the field {name!r} takes anything; annotate what it takes")
        if (loose := next(_unbounded(properties.get(name, {})), None)) is not None:
            raise Wrong(f"the field {name!r} takes any {loose}; bound it: Annotated[..., Field(ge=0)]")
        values = list(search_space(subject.kind).get(name, ()))
        if not field.is_required():
            values.append(field.get_default(call_default_factory=True, validated_data={}))
        for value in values:
            if told := _refusal(subject, name, value):
                raise Wrong(f"the field {name!r} refuses {value!r}, its default or a Choice: {told}")


def _refusal(subject: Subject, name: str, value: Any) -> str:
    """Why a field does not take a value, whatever the others are; or nothing."""
    try:
        subject.with_values(**{name: value})
    except ValidationError as error:
        return next((problem["msg"] for problem in error.errors() if problem["loc"][:1] == (name,)), "")
    return ""


def _unbounded(schema: Mapping[str, Any]) -> Iterator[str]:
    """The kinds of numbers that a schema takes without any bound."""
    if schema.get("type") in ("number", "integer") and not BOUNDS & {*schema}:
        yield str(schema["type"])
    for branch in schema.get("anyOf", ()):
        yield from _unbounded(branch)


@check()
def check_json_and_pickle(subject: Subject) -> None:
    """Written as JSON, and pickled, it comes back as it was: recipes are written, studies ship tricks to workers."""
    trick = subject.trick
    back = subject.kind.model_validate(json.loads(trick.model_dump_json()))
    if back != trick:
        raise Wrong(f"written as JSON it comes back as {back!r} instead of {trick!r}")
    try:
        back = pickle.loads(pickle.dumps(trick))
    except Exception as error:
        raise Wrong(f"it cannot be pickled ({error}); define the class in a module, and keep no open things") from error
    if back != trick:
        raise Wrong(f"pickled it comes back as {back!r} instead of {trick!r}")


@check()
def check_signatures(subject: Subject) -> None:
    """Its hooks exist, and take plain arguments that they are called with."""
    check_hooks(subject.kind)
