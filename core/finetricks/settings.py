"""The settings of a run besides its tricks: the data, and how to train. The schema of a recipe's two blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from finetricks.validation import no_flag_for_a_number

MOST = 2**31 - 1
"""The largest count: what the libraries below take."""

MOST_SEED = 2**63 - 1
"""The largest seed: what files and tables keep as a number."""


class Settings(BaseModel):
    """Base of the blocks of a recipe: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    _no_flag_for_a_number = field_validator("*", mode="wrap")(no_flag_for_a_number)


class Data(Settings):
    """Where the examples come from, and which column is what."""

    train: str = Field(
        min_length=1,
        description="A file (.csv, .tsv, .jsonl, .parquet), a Hugging Face data set's name, or stdlib_docstrings.",
    )
    valid: str | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1,
        description="A file, a split's name, or a share of train: stratified, drawn by split_seed.",
    )
    test: str | None = Field(default=None, description="A file or a split's name. Scored once, at the end.")
    subset: str | None = Field(default=None, description="The configuration of a Hugging Face data set.")
    text: str | Annotated[list[str], Field(min_length=1, max_length=2)] = Field(
        default="text", description="One text column, or two for sentence pairs."
    )
    label: str | Annotated[list[str], Field(min_length=1)] = Field(
        default="label", description="The label column; several 0/1 columns make a multi-label task."
    )
    kind: Literal["auto", "classification", "regression", "multi_label"] = Field(
        default="auto",
        description="auto: regression for labels with decimals, multi_label for several columns.",
    )
    rows: Annotated[int, Field(gt=0, le=MOST)] | None = Field(
        default=None, description="Use only this many rows of train: a stratified part, drawn by split_seed."
    )
    split_seed: int = Field(
        default=0, ge=0, le=MOST_SEED, description="Draws the split and the rows; the same in every cell of a study."
    )

    @field_validator("text")
    @classmethod
    def _one_text_is_a_string(cls, value: str | list[str]) -> str | list[str]:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)

    @property
    def label_columns(self) -> tuple[str, ...]:
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)


class Training(Settings):
    """How to train: without a trick that says otherwise AdamW, no weight decay, clipping at 1, constant rate."""

    epochs: float = Field(default=3, gt=0, description="Passes over train; a fraction ends within an epoch.")
    batch_size: int = Field(default=32, gt=0, le=MOST, description="Examples of a micro-batch on each device.")
    eval_batch_size: int = Field(default=64, gt=0, le=MOST)
    accumulation: int = Field(default=1, gt=0, le=MOST, description="Micro-batches of one optimizer step.")
    learning_rate: float = Field(default=2e-5, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Of SGD.")
    clip: float = Field(default=1.0, ge=0, description="Norm to which the gradient is clipped; 0 leaves it.")
    nonfinite_patience: int = Field(
        default=0,
        ge=0,
        description="Steps in a row whose loss or gradient may be no number before the run has diverged; each is "
        "skipped. 0: the first ends it.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the forward pass, by autocast; weights stay fp32. fp16 scales the loss."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations anew in the backward pass: less memory, more time, equal bits."
    )
    compile: bool | Literal["aot_eager", "eager"] = Field(
        default=False, description="Compile the forward pass by torch.compile; or the name of a backend for debugging."
    )
    max_length: int | None = Field(
        default=None, gt=2, le=MOST, description="Tokens of an example; the model's own limit by default."
    )
    pad_to_multiple_of: int = Field(
        default=8,
        gt=0,
        le=MOST,
        description="A batch is as long as its longest example, rounded up to this, and never beyond max_length: equal "
        "shapes are met again. 1 rounds nothing.",
    )
    evaluate: Literal["epoch"] | Annotated[int, Field(gt=0, le=MOST)] = Field(
        default="epoch", description="Evaluate on valid after each epoch, or every so many optimizer steps."
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of train that tricks decide on which decide from evaluations (early_stopping, say).",
    )
    checkpoint: Literal["epoch", "off"] | Annotated[int, Field(gt=0, le=MOST)] = Field(
        default="epoch", description="Save what resume needs after each epoch, every so many steps, or never."
    )
    seed: int = Field(default=0, ge=0, le=MOST_SEED, description="The seed that the three streams derive from.")
    init_seed: int | None = Field(default=None, ge=0, le=MOST_SEED, description="Initialisation: a seed of its own.")
    data_seed: int | None = Field(default=None, ge=0, le=MOST_SEED, description="Data order: a seed of its own.")
    dropout_seed: int | None = Field(default=None, ge=0, le=MOST_SEED, description="Dropout: a seed of its own.")
    streams: Literal["derived", "none"] = Field(
        default="derived",
        description="none: the Trainer's own use of the global random state, to match an old run.",
    )
    group_by_length: bool = Field(
        default=False,
        description="Examples of like length share a batch: less padding. The order is drawn by the data stream.",
    )
    replay: Literal["auto", "off", "memory", "disk"] = Field(
        default="auto",
        description="Keep what frozen layers give for an example, and begin above them. auto: in memory, where it is "
        "exact; memory, disk: also where it is not.",
    )
    replay_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="Type in which it is kept; but for fp32 it is not exact."
    )
    replay_bytes: int = Field(default=2 * 2**30, gt=0, le=2**60, description="Most bytes that are kept.")
    threads: int | None = Field(
        default=None, gt=0, le=4096, description="CPU threads of torch; its own choice by default."
    )

    @field_validator("group_by_length")
    @classmethod
    def _an_order_of_its_own(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("streams") == "none":
            raise ValueError("not with streams: none, which is the Trainer's own order; use streams: derived")
        return value
