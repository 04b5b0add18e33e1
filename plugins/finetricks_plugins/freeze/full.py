"""Everything trains."""

from __future__ import annotations

from typing import Any, ClassVar

from finetricks import Trick, hookimpl


class Full(Trick):
    """Everything trains: plain fine-tuning, by a name, so that it can be one of a study's choices.

    Freezes nothing, and so equals its absence; `one_of: [predict_only, last_layer, full]` makes the three states of
    fine-tuning a factor. It says which layers train, not when: beside a trick that thaws them in turn, that trick's
    order holds. What you have frozen yourself stays frozen.

    Traps: a factor that has an "off" beside `full` measures one state twice.

    Source: "Full" in Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv
    1801.06146), table 7.
    """

    neutral: ClassVar[dict[str, Any] | None] = {}
    conflicts: ClassVar[dict[str, str]] = {
        "feature_based": "full trains every layer, and feature_based never trains the encoder",
    }

    @hookimpl
    def freeze(self) -> tuple[str, ...]:
        return ()
