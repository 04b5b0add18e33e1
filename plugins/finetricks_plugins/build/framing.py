"""The special tokens that a tokenizer puts around a text, and between two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetricks import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Frame:
    """What stands before the text, between two texts (of one: nothing), and after: token ids."""

    opening: tuple[int, ...]
    between: tuple[int, ...]
    closing: tuple[int, ...]


def frame_of(tokenizer: PreTrainedTokenizerBase, texts: int, trick: str) -> Frame:
    """The frame of one text, or of a pair, read off an encoding of a letter.

    Raises:
        InputError: the tokenizer makes no token of the letter.
    """
    encoded = tokenizer(*["a"] * texts, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    own = [place for place, marked in enumerate(special) if not marked]
    if len(own) < texts:
        raise InputError(
            f"{trick}: the tokenizer {type(tokenizer).__name__} makes {ids} of {' and '.join(['a'] * texts)}; what it "
            "puts around a text cannot be told"
        )
    first, last = own[0], own[-1]
    between = tuple(ids[place] for place in range(first, last) if special[place])
    return Frame(tuple(ids[:first]), between, tuple(ids[last + 1 :]))
