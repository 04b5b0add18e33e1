"""A new LSTM with a vocabulary of its own, in a folder that a recipe can name as its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetricks.errors import InputError
from finetricks.lstm.config import DROPOUTS, LSTMConfig
from finetricks.lstm.language_model import LSTMForCausalLM
from finetricks.lstm.tokenizer import SPECIAL, word_tokenizer
from finetricks.streams import seeded


def create_lstm(
    folder: str | Path,
    texts: Sequence[str],
    *,
    bidirectional: bool = False,
    embedding_size: int = 400,
    hidden_size: int = 1150,
    layers: int = 3,
    drop_mult: float = 1.0,
    vocabulary: int = 30_000,
    min_frequency: int = 1,
    lower_case: bool = True,
    seed: int = 0,
) -> Path:
    """Write an untrained LSTM language model and its tokenizer; `further_pretraining` makes it one that has learnt.

    Args:
        texts: the vocabulary comes from them.
        drop_mult: factor on all dropouts of `LSTMConfig`; they are those of a wide model, and a narrow one needs less.
        vocabulary: tokens, special ones included, at the most.
        min_frequency: how often a word stands in `texts` at the least.
        seed: the weights are drawn from it; the global random state is left alone.

    Raises:
        InputError: the folder is not empty, the texts hold no word, a size is too small, or a dropout is beyond 1.
    """
    from finetricks.tasks.models import quiet  # which imports this package, to load its models

    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; name a new or an empty folder")
    if vocabulary <= len(SPECIAL):
        raise InputError(f"vocabulary is {vocabulary}, and {len(SPECIAL)} are special tokens; ask for more")
    tokenizer = word_tokenizer(texts, vocabulary=vocabulary, min_frequency=min_frequency, lower_case=lower_case)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError("the texts hold no word to make a vocabulary of")
    wide = LSTMConfig()
    try:
        config = LSTMConfig(
            vocab_size=len(tokenizer),
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            bidirectional=bidirectional,
            pad_token_id=tokenizer.pad_token_id,
            **{name: drop_mult * getattr(wide, name) for name in DROPOUTS},
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    with seeded(seed), quiet():
        model = LSTMForCausalLM(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
