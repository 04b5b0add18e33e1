"""Training a language model on text: resumable, and the same bits however often it is interrupted."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from finetricks import Diverged
from finetricks.order import EpochSampler
from finetricks.streams import child, seeded
from finetricks_plugins.language_model.cache import Entry
from finetricks_plugins.language_model.model import LanguageModel
from finetricks_plugins.language_model.texts import Texts

logger = logging.getLogger(__name__)

CLIP = 1.0
"""Norm to which gradients are clipped, as in BERT's own pretraining."""


@dataclass(frozen=True)
class Settings:
    """How a language model is trained. All that it draws is a function of (seed, step).

    Attributes:
        factors: by the name of a parameter of the body what its learning rate is multiplied by, where it is not 1.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    pad_id: int
    seed: int
    factors: Mapping[str, float] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: up over the warm-up's share of the steps, then down, linearly."""
        rising = round(self.warmup * self.steps)
        share = (step + 1) / rising if step < rising else (self.steps - step) / (self.steps - rising)
        return self.learning_rate * share


def train(model: LanguageModel, texts: Texts, settings: Settings, entry: Entry, save_every: int) -> None:
    """Train `model` in place, from what `entry` has saved on the way, if anything.

    Raises:
        Diverged: the loss is no longer finite.
    """
    optimizer = _optimizer(model, settings)
    done = 0
    if (saved := entry.progress()) is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]
        logger.info("language model: resumed after step %d of %d", done, settings.steps)
    batches = _Batches(texts, settings)
    model.train()
    for step in range(done, settings.steps):
        loss = _step(model, optimizer, batches, settings, step)
        if (step + 1) % save_every == 0 and step + 1 < settings.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            entry.save_progress(step + 1, state)
        if (step + 1) % max(settings.steps // 20, 1) == 0:
            logger.info("language model: step %d of %d, loss %.4f", step + 1, settings.steps, loss)


def _step(
    model: LanguageModel, optimizer: torch.optim.Optimizer, batches: _Batches, settings: Settings, step: int
) -> float:
    """One optimizer step; gives the loss. A batch with nothing to predict changes nothing."""
    device = next(model.parameters()).device
    ids, mask = (tensor.to(device) for tensor in batches.at(step))
    generator = torch.Generator().manual_seed(child(settings.seed, "mask", step))
    with seeded(child(settings.seed, "dropout", step)), torch.enable_grad():
        loss = model.loss(ids, mask, generator)
        if loss is None:
            return math.nan
        if not math.isfinite(value := loss.item()):
            raise Diverged(step, "loss of the language model")
        loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    for group in optimizer.param_groups:
        group["lr"] = settings.rate(step) * group["factor"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


class _Batches:
    """The batches: the texts in an order drawn anew for each epoch."""

    def __init__(self, texts: Texts, settings: Settings) -> None:
        self._texts = texts
        self._settings = settings
        self._sampler = EpochSampler(len(texts), settings.seed)
        self._per_epoch = -(-len(texts) // settings.batch_size)
        self._epoch = -1
        self._order: list[int] = []

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, place = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._sampler.set_epoch(epoch)
            self._epoch, self._order = epoch, list(self._sampler)
        start = place * self._settings.batch_size
        return self._texts.batch(self._order[start : start + self._settings.batch_size], self._settings.pad_id)


def _optimizer(model: LanguageModel, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; no decay on biases and norms, and each parameter at its factor of the rate."""
    factors = {id(p): settings.factors.get(name, 1.0) for name, p in model.body.named_parameters()}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, factors.get(id(parameter), 1.0)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": settings.weight_decay if decays else 0.0, "factor": factor}
            for (decays, factor), group in groups.items()
        ],
        lr=settings.learning_rate,
    )
