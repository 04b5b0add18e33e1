"""Sequential unfreezing, as in SiATL: head, body, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from finetricks import Choice, InputError, Progress, Trick, hookimpl
from finetricks.errors import Problem

if TYPE_CHECKING:
    from finetricks import Layers

EMBEDDINGS = "embeddings"


class SequentialUnfreezing(Trick):
    """Thaw in three steps: the head alone before epoch n, the body too from epoch n, the embeddings from epoch k.

    Epochs count from 1 and are absolute, as in the paper and its code; thawed layers stay thawed. With n 1 the body
    trains from the first. The paper picks n and k for each data set. The head is what is new, the body all blocks.

    Composes badly with schedules that fall over the run: the embeddings thaw when the rate is nearly gone.

    Traps: in the authors' code "frozen" parameters keep their gradients (only their optimizer stands still, so nothing
    is saved), and the embeddings, tied to the output of its language model, are stepped with the body from epoch n on;
    here they wait for epoch k. Its three parts have an optimizer each; for rates of their own give
    `discriminative_lr: {factors: ...}`.

    Source: Chronopoulou et al. 2019, An Embarrassingly Simple Approach for Transfer Learning from Pretrained Language
    Models (arXiv 1902.10547), section 3. The code ships with n 2 and k 5; k is 3 here, so that 3 epochs come to it.
    """

    n: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(
        default=2, description="Epoch, from 1, in which the pretrained body thaws."
    )
    k: Annotated[int, Field(ge=2), Choice(3, 5)] = Field(
        default=3, description="Epoch, from 1, in which the embeddings thaw; later than n, within the run."
    )

    @model_validator(mode="after")
    def _body_before_embeddings(self) -> Self:
        if self.n >= self.k:
            raise ValueError(f"the body thaws before the embeddings: n must be less than k; got n={self.n}, k={self.k}")
        return self

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        if EMBEDDINGS not in layers.names:
            raise InputError(
                f"sequential_unfreezing thaws embeddings, and this model has none (its layers: "
                f"{', '.join(layers.names)}); use gradual_unfreezing"
            )
        if self.k > progress.epochs:
            message = f"the embeddings would thaw in epoch {self.k}, but the run ends with epoch {progress.epochs}"
            raise InputError(
                Problem("sequential_unfreezing.k", f"{message}; give a k of at most {progress.epochs}, or train longer")
            )
        epoch = progress.epoch + 1
        if epoch < self.n:
            return layers.names[:-1]
        return (EMBEDDINGS,) if epoch < self.k else ()
