"""R-Drop, a trick for finetricks."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from finetricks import Choice, InputError, Step, Trick, hookimpl


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of (KL(p, q) + KL(q, p)) / 2, in nats, of what logits [rows, classes] stand for: a scalar."""
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    both = F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(
        q, p, reduction="batchmean", log_target=True
    )
    return both / 2


class RDrop(Trick):
    """Run each batch twice through dropout, and hold the two distributions together.

    L = (L1 + L2) / 2 + alpha * (KL(p1, p2) + KL(p2, p1)) / 2, averaged over the batch. Wraps the loss, whichever it is:
    L1 is what stands below it, L2 the criterion of the second pass. A step takes about twice as long. Without dropout
    both passes are the same, and so is the result.

    Traps: the authors' code for GLUE adds up the divergence over the batch, and the two losses, so that its alpha means
    more in a larger batch. Only for classes: one score has no distribution.

    Source: Liang et al. 2021, R-Drop: Regularized Dropout for Neural Networks (arXiv 2106.14448), section 2, halved, as
    in the authors' example; alpha 0.5 is theirs for BERT on GLUE.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"alpha": 0.0}

    alpha: Annotated[float, Field(ge=0), Choice(0.1, 0.5, 1.0)] = Field(
        default=0.5, description="Factor on the divergence of the two passes."
    )

    @hookimpl(wrapper=True)
    def loss(self, outputs: Mapping[str, Tensor], batch: Any, step: Step) -> Generator[None, Tensor, Tensor]:
        first = yield
        if self.alpha == 0:
            return first
        logits = outputs["logits"]
        if logits.shape[-1] == 1:
            raise InputError("r_drop compares distributions over classes, and this model gives one score; leave it out")
        again = step.forward(batch)
        second = step.criterion(again, batch)
        return (first + second) / 2 + self.alpha * divergence(logits, again["logits"])
