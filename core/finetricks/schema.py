"""The JSON Schema of a recipe, or of a file of steps, for editors: completion, hover texts, errors while it is written.

Built from the settings' models and from those of the tricks that are installed, so it knows anyone's tricks.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from finetricks.catalog import Catalog, UnknownTrick
from finetricks.pipeline import NEW_LSTM, STEPS, NewLSTM
from finetricks.settings import Data, Training
from finetricks.trick import Trick

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(catalog: Catalog) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe, or of several as `steps`, that names tricks of `catalog`.

    Broken tricks are left out.
    """
    definitions: dict[str, Any] = {}
    tricks = usable(catalog)
    recipe = {
        "model": {
            "type": "string",
            "description": "A Hub name, a local folder, or a packaged model (minilm).",
        },
        "data": _reference("data", Data, definitions),
        "training": _reference("training", Training, definitions),
        "tricks": {
            "type": "array",
            "description": "Tricks by name, or one name with its values. A trick stands once.",
            "items": _trick(tricks, definitions),
        },
        "layers": {
            "type": "object",
            "description": "Layer names to prefixes of module names, for a model whose order cannot be told.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    }
    definitions["step"] = _step(recipe, definitions)
    steps = {
        "type": "object",
        "description": "Instead of one recipe several, one after another, by name.",
        "additionalProperties": {"$ref": "#/$defs/step"},
        "minProperties": 1,
    }
    return {
        "$schema": DRAFT,
        "title": "finetricks recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": recipe | {STEPS: steps},
        "dependentSchemas": {STEPS: {"maxProperties": 1}},
        "$defs": definitions,
    }


def _step(recipe: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One of `steps`: a recipe that may begin with the model of a step before, or the making of an LSTM."""
    before = {
        "type": "object",
        "description": "The model of a step before: {step: NAME}.",
        "properties": {"step": {"type": "string"}},
        "required": ["step"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": recipe
        | {"model": {"anyOf": [recipe["model"], before]}, NEW_LSTM: _reference(NEW_LSTM, NewLSTM, definitions)},
        "additionalProperties": False,
        "dependentSchemas": {NEW_LSTM: {"maxProperties": 1}},
    }


def usable(catalog: Catalog) -> dict[str, type[Trick]]:
    """The classes of the tricks of `catalog` that load, by name."""
    found = {}
    for name in catalog.names():
        try:
            found[name] = catalog.get(name)
        except UnknownTrick:
            continue
    return found


def fields_schema(model: type[BaseModel], definitions_at: str = "#/$defs/") -> dict[str, Any]:
    """The JSON Schema of a model's fields; of one that has a type without one, a schema that takes any fields."""
    try:
        return model.model_json_schema(ref_template=f"{definitions_at}{{model}}")
    except PydanticInvalidForJsonSchema:
        return {"type": "object", "description": model.__doc__ or ""}


def _trick(tricks: dict[str, type[Trick]], definitions: dict[str, Any]) -> dict[str, Any]:
    """One entry of `tricks`: a bare name where no value is required, or a mapping of one name to its values."""
    bare = [name for name, trick in tricks.items() if not any(f.is_required() for f in trick.model_fields.values())]
    with_values = {
        name: {
            "description": summary(trick),
            "anyOf": [_reference(f"tricks.{name}", trick, definitions), *([{"type": "null"}] if name in bare else [])],
        }
        for name, trick in tricks.items()
    }
    return {
        "anyOf": [
            {"enum": bare},
            {
                "type": "object",
                "properties": with_values,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }


def _reference(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, str]:
    """Put a model's schema, and those that it refers to, among the definitions."""
    schema = fields_schema(model, f"#/$defs/{name}.")
    definitions |= {f"{name}.{inner}": value for inner, value in schema.pop("$defs", {}).items()}
    definitions[name] = schema
    return {"$ref": f"#/$defs/{name}"}


def summary(trick: type[Trick]) -> str:
    """The first line of a trick's docstring."""
    return (trick.__doc__ or "").strip().partition("\n")[0]
