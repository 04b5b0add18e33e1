"""The numbers that a run computes with: fp32, or the forward pass in bf16 or fp16 by torch's autocast.

Weights, gradients, losses and penalties are fp32 in any case. In fp16 small gradients would become zero: the loss is
scaled up and the gradients down again, and a step whose gradients overflowed is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import nn

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How a model's forward pass is computed, and with fp16 the scale of its loss.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        model: on the device on which it trains.
    """

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name = name
        self._device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self._scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")
        # oneDNN has no LSTM in fp16 on most CPUs; torch has.
        lstm = any(isinstance(module, nn.LSTM) for module in model.modules())
        self._without_onednn = lstm and name == "fp16" and self._device == "cpu"

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled."""
        return self.name == "fp16"

    @property
    def scale(self) -> float:
        """The factor on the loss; 1 but for fp16."""
        return float(self._scaler.get_scale())

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The block in which the model computes its outputs."""
        if self.name == "fp32":
            yield
            return
        with self.kernels(), torch.autocast(self._device, dtype=HALF[self.name]):
            yield

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """The block for what has kernels of the precision; a backward pass may compute parts of a forward pass anew."""
        if not self._without_onednn:
            yield
            return
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before

    def outputs(self, outputs: Any) -> Any:
        """A model's outputs in fp32."""
        return outputs if self.name == "fp32" else convert_to_fp32(outputs)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to differentiate."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimizer's gradients their own size, before they are clipped."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, finite: bool = True) -> bool:
        """Let the optimizer do its step, if the gradient is finite; gives whether it did."""
        if not self.scales:
            if finite:
                optimizer.step()
            return finite
        # The scaler has seen itself what is not finite: it leaves out the step, and lowers its scale.
        before = self.scale
        self._scaler.step(optimizer)
        self._scaler.update()
        return finite and self.scale >= before

    def state_dict(self) -> dict[str, Any]:
        """The scale and when it was last lowered; empty but for fp16. Numbers alone."""
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self._scaler.load_state_dict(dict(state))
