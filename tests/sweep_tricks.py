"""A plugin file for the tests of studies: tricks that work, fail, diverge and kill."""

from __future__ import annotations

import os
import time

import torch

from finetricks import Progress, Step, Trick, hookimpl


class Falling(Trick):
    """Linear to zero."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 1 - progress.fraction


class Failing(Trick):
    """Raises at the third step."""

    @hookimpl
    def regularize(self, step: Step) -> None:
        if step.progress.step == 2:
            raise ValueError("a bad <b>value</b>")


class Diverging(Trick):
    """Makes the loss infinite at the second step."""

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Step) -> torch.Tensor | None:
        return model.classifier.bias.sum() + float("inf") if step.progress.step == 1 else None


class Killing(Trick):
    """Ends its process."""

    @hookimpl
    def regularize(self) -> None:
        os._exit(1)


class Untidy(Trick):
    """Leaves the process's global state turned upside down."""

    @hookimpl
    def finish(self) -> None:
        torch.manual_seed(123)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)


class Slow(Trick):
    """Takes its time, so that there is something to interrupt."""

    @hookimpl
    def regularize(self) -> None:
        time.sleep(0.02)
