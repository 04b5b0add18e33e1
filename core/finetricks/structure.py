"""What a model is beside the values of its weights: a checkpoint of another one is refused."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

UNRELATED = ("transformers_version", "dtype", "torch_dtype", "architectures")
"""What a configuration says of how it was saved."""


def structure(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The `weights` (type and shape of each tensor), the `modules` (kind and settings), the `config`. JSON values."""
    to_json: Any = getattr(getattr(model, "config", None), "to_json_string", None)
    found = json.loads(to_json(use_diff=False)) if to_json else {}
    return {
        "weights": {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in model.state_dict().items()},
        "modules": {name: f"{type(m).__qualname__}({m.extra_repr()})" for name, m in model.named_modules()},
        "config": {key: value for key, value in found.items() if key not in UNRELATED and not key.startswith("_")},
    }
