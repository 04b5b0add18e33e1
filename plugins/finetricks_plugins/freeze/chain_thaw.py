"""Chain-thaw: one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.freeze.stages import stage_of_run

if TYPE_CHECKING:
    from finetricks import Layers


def chain(names: Sequence[str]) -> list[frozenset[str]]:
    """What trains in each stage: the topmost of `names`, then each other alone from the lowest up, then all."""
    *body, head = names
    return [frozenset({name}) for name in (head, *body)] + [frozenset(names)]


class ChainThaw(Trick):
    """One layer at a time: the head alone, each other layer alone from the lowest up, then all together.

    A model of L layers has L + 1 stages, of `epochs` epochs each; the rest of a run after them trains everything. A run
    with fewer epochs never comes to the upper layers (you are told); `over: run` spreads the stages evenly over the run
    instead. The method that ULMFiT compares `gradual_unfreezing` with.

    Composes badly with schedules that fall over the run, for the last stage is the one that trains everything;
    `stlr: {restart: per_stage}` begins anew with each stage.

    Traps: in the authors' code a stage ends when the validation loss has not improved for five epochs, and the next
    goes on from the best weights; here it ends by length. Their code makes a new Adam for each stage and trains the
    first at 1e-3, the others at 1e-4: `two_stage: {epochs: 1, lr_factor: 0.1}` beside this trick sets those rates.

    Source: Felbo et al. 2017, Using millions of emoji occurrences to learn any-domain representations for detecting
    sentiment, emotion and sarcasm (arXiv 1708.00524), section 3.3; compared in Howard & Ruder 2018 (arXiv 1801.06146),
    table 7.
    """

    conflicts: ClassVar[dict[str, str]] = {
        name: f"chain_thaw trains the lowest layer alone; while {name} freezes that, nothing would train, "
        "and once it does not, it freezes nothing that chain_thaw would train"
        for name in ("gradual_unfreezing", "sequential_unfreezing")
    }

    epochs: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(default=1, description="Length of a stage, in epochs.")
    over: Literal["epochs", "run"] = Field(
        default="epochs", description="A stage lasts `epochs` epochs, or an even part of the run."
    )

    @model_validator(mode="after")
    def _epochs_or_run(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.over == "run" and self.epochs != 1:
            raise ValueError("epochs and over: run both set the length of a stage; give one of them")
        return self

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> frozenset[str]:
        stages = chain(layers.names)
        if self.over == "run":
            stage = stage_of_run(progress, len(stages))
        else:
            stage = min(progress.epoch // self.epochs, len(stages) - 1)
        return frozenset(layers.names) - stages[stage]
