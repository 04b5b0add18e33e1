"""The ways of training in which every trick is tried, and what is known of them: docs/machines.md is made of it."""

from __future__ import annotations

from typing import Any

MODES: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "compile": {"compile": "eager"},
}
"""The ways of training in one process, as settings of a recipe."""

EXACT = ("gradient_checkpointing", "compile")
"""Those that give what fp32 does, on a CPU bit for bit: `compile` with a backend that runs what was traced as it is."""

REASONS = {
    "auxiliary_lm": "each process draws the masked tokens of its own rows",
    "concat_pooling": "its batch norm sees the rows of one process",
    "cross_entropy": "with class weights each process divides by the weights of its own rows",
}
"""Why two processes do not have the losses that one has with the same batch, dropout apart."""
