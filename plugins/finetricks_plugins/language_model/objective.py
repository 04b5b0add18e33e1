"""Which language model a model can be: one of the next token, or one of masked tokens."""

from __future__ import annotations

from typing import Any, Literal

from finetricks import InputError

Objective = Literal["causal", "masked"]


def is_causal(config: Any) -> bool:
    """Whether the states of a transformers model have seen only what came before.

    So it is with models that transformers offers as causal but not as masked language models; one that is offered as
    both (BERT) says so in its configuration. XLNet generates by other means and attends both ways, and so do Gemma's
    encoders and an LSTM that reads in both directions.
    """
    if getattr(config, "is_encoder_decoder", False):
        return False
    text = config.get_text_config()
    if getattr(text, "attn_type", None) == "bi" or getattr(text, "use_bidirectional_attention", False) is True:
        return False
    if reads_both_directions(config):
        return False
    causal, masked = _offered(text)
    return (causal and not masked) or bool(getattr(config, "is_decoder", False))


def reads_both_directions(config: Any) -> bool:
    """Whether the model is two causal ones side by side, of which one reads from the end (ELMo).

    Half of each state has seen what came before its token and half what comes after: each half is causal.
    """
    text = config.get_text_config()
    causal, masked = _offered(text)
    return getattr(text, "bidirectional", False) is True and causal and not masked


def objective_of(config: Any, asked: Literal["auto", "causal", "masked"], trick: str) -> Objective:
    """The objective that `asked` comes to for a model. Raises `InputError` for one that would teach nothing."""
    causal = is_causal(config) or reads_both_directions(config)
    if asked == "auto":
        return "causal" if causal else "masked"
    if asked == "causal" and not causal and (any(_offered(config.get_text_config())) or config.is_encoder_decoder):
        raise InputError(
            f"{trick}: the states of this {config.model_type} have seen the next token already, so predicting it is no "
            "task; `objective: masked` is the one for encoders"
        )
    return asked


def _offered(config: Any) -> tuple[bool, bool]:
    """Whether transformers has (or was told of) a causal and a masked language model for a configuration."""
    from transformers.models.auto import modeling_auto as auto

    kind = type(config)
    return (
        config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in auto.MODEL_FOR_MASKED_LM_MAPPING,
    )
