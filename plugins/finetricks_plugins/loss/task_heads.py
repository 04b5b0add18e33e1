"""A head for each of several tasks on what the output layer of a classifier reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finetricks.streams import seeded
from finetricks_plugins.loss.targets import Problem

SEVERAL: Problem = "multi_label_classification"


class TaskHeads(nn.Module):
    """Linear heads that read what an output layer was last given in a pass with gradients.

    Attributes:
        problems: what each head solves.
        label_columns: how many numbers an example's labels are, in the task that has most.
        carried: a model that is built in the place of the one that has these heads takes them over.
    """

    carried = True

    def __init__(
        self, output: nn.Linear, problems: Sequence[Problem], outputs: Sequence[int], *, std: float, seed: int
    ) -> None:
        super().__init__()
        self.problems = tuple(problems)
        several = [number for problem, number in zip(problems, outputs, strict=True) if problem == SEVERAL]
        self.label_columns = max([1, *several])
        self._outputs = tuple(outputs)
        self._std = std
        self._seed = seed
        self.heads = self._new(output.in_features, output.weight)
        self._given: Tensor | None = None
        self._handle: RemovableHandle = output.register_forward_pre_hook(self._keep)

    def resize(self, width: int) -> None:
        """Read vectors of another width."""
        if width != self.heads[0].in_features:
            self.heads = self._new(width, next(self.parameters()))

    def _new(self, width: int, like: Tensor) -> nn.ModuleList:
        with seeded(self._seed):
            heads = [nn.Linear(width, number) for number in self._outputs]
            for head in heads:
                nn.init.normal_(head.weight, std=self._std)
                nn.init.zeros_(head.bias)
        return nn.ModuleList(heads).to(like)

    def detach_from_output(self) -> None:
        self._handle.remove()

    def _keep(self, output: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._given = given[0]

    def take(self) -> Tensor:
        """What the output layer was given: [rows, width], or [rows, tokens, width]."""
        assert self._given is not None
        given, self._given = self._given, None
        return given

    def forward(self, states: Tensor) -> list[Tensor]:
        """Scores of each task: [rows, outputs] of [rows, width]."""
        states = states.to(next(self.parameters()).dtype)
        return [head(states) for head in self.heads]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_given": None}  # a copy starts without another pass's graph


def at_last_token(states: Tensor, input_ids: Tensor, model: nn.Module) -> Tensor:
    """The states [rows, width] from which a classifier takes its scores.

    A decoder scores every token, and transformers then takes the last that is not padding, by its number; other models
    have pooled their states before.
    """
    if states.dim() == 2:
        return states
    config: Any = model.config
    pad = config.get_text_config().pad_token_id
    if pad is None:
        return states[:, -1]
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (places * (input_ids != pad)).argmax(dim=1).to(states.device)
    return states[torch.arange(len(states), device=states.device), last]
