"""The libraries that a result depends on, and their versions here."""

from __future__ import annotations

import importlib.metadata
from functools import cache

LIBRARIES = ("finetricks", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")

MODELS = ("torch", "transformers")
"""Those that say what a model is made of."""


@cache
def version_of(library: str) -> str:
    """The version that is installed; `unknown` for one that only lies on the path."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions_of_libraries() -> dict[str, str]:
    """By name."""
    return {name: version_of(name) for name in LIBRARIES}
