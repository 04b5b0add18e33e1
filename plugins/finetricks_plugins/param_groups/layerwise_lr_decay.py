"""Layer-wise decay of the learning rate, from the top block down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetricks import Choice, ParamOptions, Trick, hookimpl

if TYPE_CHECKING:
    from finetricks import Layers


def layerwise_factors(layers: Layers, xi: float, head: str, embeddings: str) -> dict[str, float]:
    """Factor of each layer: xi to the power of how far below the base rate it stands.

    Args:
        head: `beside` the top block, both at the base rate, or one step `above` it.
        embeddings: one step `below` the lowest block, or at the `base` rate.
    """
    top = 0 if head == "beside" else 1
    depths = {block: top + depth for depth, block in enumerate(reversed(layers.blocks))}
    depths["embeddings"] = top + len(layers.blocks) if embeddings == "below" else 0
    return {name: xi ** depths.get(name, 0) for name in layers.names}


class LayerwiseLRDecay(Trick):
    """The rate falls by xi from each block to the one below: eta(k-1) = xi * eta(k), the top block at the base rate.

    The head stands beside the top block, at the base rate, and the embeddings one step below the lowest block: with xi
    0.95 and 12 blocks the lowest block is at 0.57, the embeddings at 0.54. Applies throughout training. Beside
    `discriminative_lr` the factors multiply; both are geometric, so that together they are one ladder with the steps
    xi/decay, which either of them can give alone.

    Traps: papers and code differ in where the ends stand. The paper's formula is for the blocks. The authors' code
    leaves the embeddings at the base rate (`embeddings: base`), beside the top block and above all others; its own base
    rate for them and the head is 5e-5 by default, and xi is ignored in silence unless exactly one layer rate is given.
    Zhang et al. put the head at the base rate and the top block already one step below, the embeddings last:
    `head: above` (24 blocks: embeddings at 0.95^25 = 0.28). In the paper xi 0.95 is the best of table 4 by 0.02 points
    of one seed, less than seeds differ.

    Source: Sun et al. 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), table 4; Zhang et al.
    2021, Revisiting Few-sample BERT Fine-tuning (arXiv 2006.05987).
    """

    neutral: ClassVar[dict[str, Any] | None] = {"xi": 1.0}

    xi: Annotated[float, Field(gt=0, le=1), Choice(0.85, 0.9, 0.95)] = Field(
        default=0.95, description="Rate of a layer over that of the layer above."
    )
    head: Literal["beside", "above"] = Field(
        default="beside",
        description="The head at the base rate: beside the top block (Sun), or a step above it (Zhang).",
    )
    embeddings: Literal["below", "base"] = Field(
        default="below", description="The embeddings a step below the lowest block, or at the base rate (Sun's code)."
    )

    @hookimpl
    def param_groups(self, layers: Layers) -> dict[str, ParamOptions]:
        if self.xi == 1:
            return {}
        factors = layerwise_factors(layers, self.xi, self.head, self.embeddings)
        return {name: ParamOptions(lr_factor=factor) for name, factor in factors.items()}
