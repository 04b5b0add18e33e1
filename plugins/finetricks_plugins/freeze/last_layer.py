"""Only the head trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from finetricks import Trick, hookimpl

if TYPE_CHECKING:
    from finetricks import Layers


class LastLayer(Trick):
    """Only the final classification layer trains, on a frozen body: the linear probe.

    The frozen body is in evaluation mode, without dropout: its features of an example stay the same throughout. One of
    the three states of fine-tuning, beside `predict_only` and `full`.

    Traps: what trains is the layer `head`, everything above the last block: BERT's pooler and a final norm are part of
    it. Scripts that freeze `model.base_model` keep the pooler frozen too; for that, clear its `requires_grad` before
    the recipe is bound: what you have frozen stays frozen.

    Source: "Last" in Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv
    1801.06146), table 7 (TREC-6: 16.09 % error, against 6.86 % when everything trains).
    """

    conflicts: ClassVar[dict[str, str]] = {
        "full": "full trains every layer, last_layer only the head",
        "chain_thaw": "chain_thaw trains each lower layer alone, last_layer keeps those frozen: nothing would train",
        **{
            name: f"last_layer keeps frozen what {name} thaws, and {name} never freezes the head: "
            "their union is last_layer alone"
            for name in ("gradual_unfreezing", "sequential_unfreezing", "two_stage")
        },
    }

    @hookimpl
    def freeze(self, layers: Layers) -> tuple[str, ...]:
        return layers.names[:-1]
