"""What a model is beside the values of its weights: a checkpoint of another one is refused."""

from __future__ import annotations

import inspect
import json
from typing import Any

from torch import nn

UNRELATED = frozenset(
    {
        *("transformers_version", "dtype", "torch_dtype", "architectures", "auto_map"),  # how it was saved
        *("problem_type", "use_cache"),  # transformers sets them while it trains
        *("id2label", "label2id"),  # names; how many there are, the weights say
    }
)
"""Keys of a configuration that do not change what is computed in training."""

OF_THE_RUN = frozenset({"training", "gradient_checkpointing", "name_or_path", "device"})
"""A module's attributes that say where and how it is run, or where it was read from."""


def structure(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The `weights` (type and shape of each tensor), the `modules` (kind and settings), the `config`. JSON values."""
    return {
        "weights": {
            name: f"{tensor.dtype} {list(tensor.shape)}"
            for name, tensor in model.state_dict().items()
            if hasattr(tensor, "shape")
        },
        "modules": {name: _shown(module) for name, module in model.named_modules()},
        "config": config_of(model),
    }


def settings_of(module: nn.Module) -> dict[str, bool | int | float | str]:
    """A module's plain attributes: probabilities, sizes, the names of the functions that it calls."""
    return {
        name: value.__qualname__ if inspect.isfunction(value) else value
        for name, value in vars(module).items()
        if name not in OF_THE_RUN
        and not name.startswith("_")
        and (isinstance(value, (bool, int, float, str)) or inspect.isfunction(value))
    }


def _shown(module: nn.Module) -> str:
    return f"{type(module).__qualname__}({', '.join(f'{k}={v!r}' for k, v in settings_of(module).items())})"


def config_of(model: nn.Module) -> dict[str, Any]:
    """What a transformers model's configuration says of what is computed; empty where it has none. JSON values."""
    from transformers import PreTrainedConfig

    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        return {}
    # A value of a class of its own may print an address.
    text = json.dumps(config.to_dict(), default=lambda value: type(value).__qualname__, skipkeys=True)
    found: dict[str, Any] = _related(json.loads(text))
    return found


def _related(value: Any) -> Any:
    """Without what is unrelated, also in the configurations of a model's parts."""
    if not isinstance(value, dict):
        return value
    return {key: _related(v) for key, v in value.items() if key not in UNRELATED and not key.startswith("_")}
