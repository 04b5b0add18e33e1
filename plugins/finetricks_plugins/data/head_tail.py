"""Truncation of long texts: their head, their tail, or both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetricks import Choice, Context, InputError, Trick, hookimpl

if TYPE_CHECKING:
    import datasets

Keep = Literal["head", "tail", "head_tail"]
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def kept_of_run(length: int, room: int, keep: Keep, head_fraction: float) -> list[int]:
    """Which of `length` tokens are kept where there is room for `room`: positions, in order."""
    if length <= room:
        return list(range(length))
    head = {"head": room, "tail": 0, "head_tail": round(room * head_fraction)}[keep]
    return [*range(head), *range(length - (room - head), length)]


def kept_positions(special: Sequence[bool], max_length: int, keep: Keep, head_fraction: float) -> list[int]:
    """Positions to keep of an example: all special tokens, and of each text between them what `keep` says.

    Two texts share the room evenly; what the shorter does not need goes to the longer. A text that is full of special
    tokens itself leaves no room: all of it is kept, and cut as if there were no trick.
    """
    room = max_length - sum(special)
    if room <= 0:
        return list(range(len(special)))
    runs = [list(run) for is_special, run in groupby(range(len(special)), special.__getitem__) if not is_special]
    kept = [position for position, is_special in enumerate(special) if is_special]
    for left, run in zip(range(len(runs), 0, -1), sorted(runs, key=len), strict=True):
        share = min(len(run), room // left)
        kept += [run[position] for position in kept_of_run(len(run), share, keep, head_fraction)]
        room -= share
    return sorted(kept)


class HeadTail(Trick):
    """Of a text longer than the model's length keep the first and the last tokens: 128 + 382 of 510.

    The key of an article stands in its beginning and its end. Special tokens stay; other lengths keep the paper's
    proportion. Texts that fit are left alone. In a pair each text is cut for itself.

    Traps: truncation "from the tail" in tokenizers' terms (`truncation_side`) names the side that is cut, not kept.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), section 5.3.1
    (head-only first 510, tail-only last 510, head+tail first 128 and last 382).
    """

    neutral: ClassVar[dict[str, Any] | None] = {"keep": "head"}

    keep: Annotated[Keep, Choice("head", "tail", "head_tail")] = Field(
        default="head_tail", description="The part of a long text that is kept."
    )
    head_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=128 / 510, description="Share of the room that goes to the head, for head_tail."
    )

    @hookimpl
    def data(self, dataset: datasets.Dataset, context: Context) -> datasets.Dataset:
        if self.keep == "head":
            return dataset  # as the core cuts
        tokenizer, max_length = context.tokenizer, context.max_length
        if tokenizer is None or max_length is None:
            raise InputError("head_tail needs the task's tokenizer and length; without them it cannot tell what to cut")
        ids = dataset["input_ids"][:]
        long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
        if not long:
            return dataset
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
        columns = dataset.with_format(None)[:]
        for row in long:
            marks = [token in special for token in ids[row]]
            positions = kept_positions(marks, max_length, self.keep, self.head_fraction)
            for name in TOKENS:
                if name in columns:
                    columns[name][row] = [columns[name][row][position] for position in positions]
        return dataset.from_dict(columns, features=dataset.features)
