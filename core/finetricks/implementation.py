"""What a trick's class implements, checked before it is used.

pluggy would pass over in silence a misspelled hook, and calls arguments with defaults differently from version to
version; both are refused here, with the mend.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetricks.errors import TrickError, suggest
from finetricks.hooks import HOOKS, PROJECT, WRAPPABLE, Hooks
from finetricks.trick import Trick


@dataclass(frozen=True)
class Implementation:
    """One hook that a trick implements, and whether as a wrapper."""

    hook: str
    wrapper: bool


@lru_cache(maxsize=1024)  # a study asks for each of thousands of configurations
def implementations(trick: type[Trick]) -> tuple[Implementation, ...]:
    """The hooks that `trick` implements, in the order of `finetricks.hooks`."""
    found = _marked(trick)
    return tuple(
        Implementation(name, bool(getattr(found[name], f"{PROJECT}_impl")["wrapper"]))
        for name in HOOKS
        if name in found
    )


def owns(trick: type[Trick], hook: str) -> bool:
    """Whether `trick` is an owner of `hook` (`schedule` or `loss`), not a wrapper."""
    return Implementation(hook, wrapper=False) in implementations(trick)


def check_hooks(trick: type[Trick]) -> None:
    """Raise `TrickError`, with the mend, when the class cannot work as a plugin."""
    name = trick.__name__
    _check_class(name, trick)
    marked = _marked(trick)
    for method, function in marked.items():
        if method not in HOOKS:
            raise TrickError(f"{name}.{method} is not a hook{suggest(method, HOOKS)}; the hooks are {', '.join(HOOKS)}")
        _check_signature(name, method, function)
    for hook in HOOKS:
        method = inspect.getattr_static(trick, hook, None)
        if inspect.isfunction(method) and hook not in marked:
            raise TrickError(f"{name}.{hook} has the name of a hook but no @hookimpl; mark it, or rename it")
    if not marked:
        raise TrickError(f"{name} implements no hook: mark at least one method with @hookimpl")


@lru_cache(maxsize=1024)  # once a class: each run makes a stack of its own
def announce_changes(trick: type[Trick]) -> None:
    """Warn of what `trick` implements and the next minor version changes; the warnings point at the plugin's line."""
    for hook, function in _marked(trick).items():
        if (specification := getattr(getattr(Hooks, hook, None), f"{PROJECT}_spec", None)) is None:
            continue
        code, changing = function.__code__, dict(specification["warn_on_impl_args"] or {})
        taken = inspect.signature(function).parameters
        announced = [specification["warn_on_impl"], *(change for name, change in changing.items() if name in taken)]
        for change in filter(None, announced):
            message = type(change)(f"{trick.__name__}.{hook}: {change}")
            warnings.warn_explicit(message, type(change), code.co_filename, code.co_firstlineno)


def _check_class(name: str, trick: type[Trick]) -> None:
    if not trick.__pydantic_complete__:
        try:
            trick.model_rebuild()
        except Exception as error:
            told = str(error).splitlines()[0]
            raise TrickError(f"{name}: the annotation of a field names what cannot be found ({told})") from error
    if not trick.model_config.get("frozen"):
        raise TrickError(f"{name}: a trick is immutable; leave model_config frozen")
    for attribute in ("conflicts", "requires"):
        reasons = getattr(trick, attribute)
        if not (
            isinstance(reasons, Mapping) and all(isinstance(text, str) for item in reasons.items() for text in item)
        ):
            raise TrickError(f"{name}.{attribute} is {reasons!r}; give the names of tricks, each with the reason")
    if not (
        trick.neutral is None or (isinstance(trick.neutral, Mapping) and {*trick.neutral} <= {*trick.model_fields})
    ):
        raise TrickError(f"{name}.neutral is {trick.neutral!r}; give values of its fields by name, or None")


def _marked(trick: type[Trick]) -> dict[str, Callable[..., Any]]:
    methods: dict[str, Callable[..., Any]] = {}
    for cls in reversed(trick.__mro__):
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", value)
            if inspect.isfunction(function) and hasattr(function, f"{PROJECT}_impl"):
                methods[name] = function
            else:
                methods.pop(name, None)
    return methods


def _check_signature(trick: str, hook: str, function: Callable[..., Any]) -> None:
    place = f"{trick}.{hook}"
    allowed = [p for p in inspect.signature(getattr(Hooks, hook)).parameters if p != "self"]
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TrickError(
                f"{place}: make {parameter} a plain argument; hooks take no *args, **kwargs or keyword-only"
            )
        if parameter.default is not parameter.empty:
            raise TrickError(
                f"{place}: the argument {parameter.name!r} may not have a default; hooks are always given it"
            )
        if parameter.name not in allowed:
            near = suggest(parameter.name, allowed)
            raise TrickError(
                f"{place}: no argument {parameter.name!r}{near}; {hook} is called with {', '.join(allowed)}"
            )
    options = getattr(function, f"{PROJECT}_impl")
    if options["hookwrapper"]:
        raise TrickError(f"{place}: old-style wrappers are not supported; use @hookimpl(wrapper=True)")
    if options["wrapper"] and hook not in WRAPPABLE:
        raise TrickError(f"{place}: only {' and '.join(sorted(WRAPPABLE))} can be wrapped")
    if options["wrapper"] and not inspect.isgeneratorfunction(function):
        raise TrickError(f"{place}: a wrapper yields once: `value = yield`, then `return` the changed value")
    if options["tryfirst"] or options["trylast"] or options["specname"]:
        raise TrickError(f"{place}: tricks act in the recipe's order; leave tryfirst, trylast and specname out")
