"""A tokenizer of words, made from a corpus."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Lowercase, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def word_tokenizer(
    texts: Iterable[str], *, vocabulary: int, min_frequency: int = 1, lower_case: bool = True, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Words and punctuation marks as tokens, the most frequent ones of `texts`; the rest is [UNK].

    A text is `[CLS] a text [SEP]`, a pair `[CLS] one [SEP] another [SEP]`.

    Args:
        vocabulary: how many tokens, the five special ones included.
        min_frequency: how often a word stands in the texts at the least.
        max_length: what `model_max_length` says, special tokens included.
    """
    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = Sequence([NFC(), Lowercase()]) if lower_case else NFC()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=min_frequency, special_tokens=[*SPECIAL.values()], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    marks = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    )
