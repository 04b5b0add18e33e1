"""What a trick is: typed hyper-parameters and one or more hooks, immutable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PydanticUserError,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from finetricks.errors import TrickError, shortened
from finetricks.validation import no_flag_for_a_number

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _KindOfModels
else:
    _KindOfModels = type(BaseModel)


class _Kind(_KindOfModels):
    """Makes the classes of tricks; what pydantic does not take is said in our words."""

    def __new__(cls, name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return super().__new__(cls, name, *arguments, **options)
        except PydanticUserError as error:
            told = error.message.splitlines()[0]
            raise TrickError(
                f"the class {name} cannot be a trick: {told} Annotate each hyper-parameter, `name: type = default`, "
                "and what is none of them with ClassVar"
            ) from error


class Trick(BaseModel, metaclass=_Kind):
    """Base class of all tricks.

    Fields are the hyper-parameters: annotate each with its type, its bounds and, where it can be searched, a
    `Choice`. Methods marked with `@hookimpl` are the hooks (see `finetricks.hooks`). The docstring's first line
    is what `finetricks list` shows; it ends with the source.

    Class attributes:
        neutral: values at which the trick equals its absence, bit for bit (rule 7); `None` when it has none.
        conflicts: names of tricks that this one cannot stand beside, each with the reason.
        requires: names of tricks that must stand in the same recipe, each with the reason.
        bounds_length: its `data` hook keeps examples to what the model that it builds can take; the core cuts nothing.
        learns: its `init` hook trains the weights; it comes after those that draw them.
        trains_nothing: it may freeze every layer; the run then only evaluates.
        changes_frozen: it changes what frozen layers are given or what they do, from step to step, in a way that the
            model's arguments do not show (noise, say): their work is then computed each time.
        plans_only: beside `param_groups`, `freeze`, `schedule` and `finish` its hooks only check: runs that differ in
            its values do the same work for as long as their plans agree. Nothing to say for a trick without others.
        looks_ahead: its `loss` or `regularize` may depend on where the run, or its present stage, ends
            (`progress.total_steps`, `fraction`, `epochs`, `stage.end`). Say false where it does not: trials that differ
            in what comes later then share the work before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    _no_flag_for_a_number = field_validator("*", mode="wrap", check_fields=False)(no_flag_for_a_number)

    neutral: ClassVar[dict[str, Any] | None] = None
    conflicts: ClassVar[dict[str, str]] = {}
    requires: ClassVar[dict[str, str]] = {}
    bounds_length: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    trains_nothing: ClassVar[bool] = False
    changes_frozen: ClassVar[bool] = False
    plans_only: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = True

    def __hash__(self) -> int:
        # By its values as text: a field may hold a list or a mapping, and pluggy keeps plugins in sets.
        return hash((type(self), self.model_dump_json()))

    @field_serializer("*", mode="wrap", when_used="json", check_fields=False)
    def _sets_in_order(self, value: Any, serialize: SerializerFunctionWrapHandler) -> Any:
        # The order of a set differs from process to process; a recipe's fingerprint must not.
        written = serialize(value)
        return sorted(written, key=repr) if isinstance(value, set | frozenset) else written

    @property
    def decides(self) -> bool:
        """Whether a trick that implements `evaluated` or `after_backward` decides while training, at its values.

        For `evaluated` a slice of train is then held out.
        """
        return True


@dataclass(frozen=True, init=False)
class Choice:
    """The values that a study tries for a field by default: `Annotated[float, Choice(0.05, 0.1)]`."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


class InputFile(str):
    """The type of a field that names a file: a path, made absolute.

    One in a recipe's file is relative to it, one that is given on the command line to where the command is run.

    That it exists is checked where a recipe that is to be run is read; not where one is read to load a finished run.
    What stands in the file is part of what a study's cell depends on.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(
            cls._located,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str.__str__),
        )

    @classmethod
    def _located(cls, value: str, info: ValidationInfo) -> InputFile:
        context = info.context or {}
        folder = Path.cwd() if value in context.get("here", ()) else context.get("folder", Path.cwd())
        path = Path(folder) / os.path.expanduser(value)
        if context.get("must_exist") and not os.path.exists(path):  # of a name that is too long, too
            raise ValueError(f"no such file: {shortened(str(path), 500)}")
        return cls(os.path.realpath(path))


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


InputFiles = Annotated[
    tuple[InputFile, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]),
]
"""The type of a field that names a file, by its bare name, or several."""


def input_files(value: Any) -> list[str]:
    """The files that a trick names, wherever in its values they stand."""
    if isinstance(value, InputFile):
        return [str(value)]
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return [file for item in value for file in input_files(item)] if isinstance(value, list | tuple) else []


def texts(value: Any) -> list[str]:
    """The texts in nested lists and mappings."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [text for item in value for text in texts(item)] if isinstance(value, list | tuple) else []


def search_space(trick: type[Trick]) -> dict[str, tuple[Any, ...]]:
    """The default values to try for each field of `trick` that carries a `Choice`."""
    return {
        name: item.values
        for name, field in trick.model_fields.items()
        for item in field.metadata
        if isinstance(item, Choice)
    }
