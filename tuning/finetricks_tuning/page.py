"""The environment that the templates of every report are rendered in."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetricks_tuning import text


def environment(*, autoescape: bool) -> Environment:
    """The templates, with the filters that all of them use; a value that is not there is an error."""
    made = Environment(
        loader=PackageLoader("finetricks_tuning"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "signed": text.signed,
        "number": text.number,
        "duration": text.duration,
        "p": text.p_value,
        "interval": text.interval,
    }
    return made
