"""Nothing trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from finetricks import Trick, hookimpl

if TYPE_CHECKING:
    from finetricks import Layers


class PredictOnly(Trick):
    """No training: every layer is frozen at every step, and the model is evaluated as it is.

    The state before fine-tuning, against which `last_layer` and `full` are measured. Tricks that change the model
    before training (its structure, its initialisation, further pretraining) act as ever; those that only matter while
    it trains (schedules, losses, penalties) find nothing to do.

    Traps: a new classification head is random, so a model without a fitted head predicts by chance; a study's seeds
    draw that chance.

    Source: a baseline, no paper's method: zero updates, the other end of the scale from "Full" in Howard & Ruder 2018
    (arXiv 1801.06146), table 7.
    """

    trains_nothing: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {
        "full": "full trains every layer, predict_only none",
        "last_layer": "last_layer trains the head, predict_only no layer",
        **{
            name: f"predict_only keeps frozen, to the end, every layer that {name} thaws: "
            "their union is predict_only alone"
            for name in ("chain_thaw", "gradual_unfreezing", "sequential_unfreezing", "two_stage")
        },
    }

    @hookimpl
    def freeze(self, layers: Layers) -> tuple[str, ...]:
        return layers.names
