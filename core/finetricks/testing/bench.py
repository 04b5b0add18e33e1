"""What tricks are tried on: a tiny model, and a task of 22 texts that trains in a tenth of a second."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import datasets
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from finetricks.distributed import ALONE, Ranks
from finetricks.layer_pass import without
from finetricks.recipe import Recipe
from finetricks.runner import about, splits_of
from finetricks.tasks import Task
from finetricks.tasks.encode import loader, tokenize
from finetricks.tasks.metrics import LOWER_IS_BETTER, METRICS
from finetricks.testing.models import CLASSES, MODELS, OTHER_DEPTHS, VOCABULARY

if TYPE_CHECKING:
    from finetricks.session import Session

MAX_LENGTH = 12
ROWS = 22
TRAINING: Mapping[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 3}
Make = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Bench:
    """A model and a task to try a trick on.

    Args:
        model: `bert`, `lstm` or `bert_and_lstm`, all tiny; or a function that makes one of your own from a seed. It
            reads `input_ids` below 50, `attention_mask` and `labels` (three classes), and gives `logits` and `loss`.
        pairs: the texts come in pairs.
        long: some texts are longer than the 12 tokens that the model is given.
    """

    model: str | Make = "bert"
    pairs: bool = False
    long: bool = False

    def make_model(self, seed: int = 0) -> nn.Module:
        return MODELS[self.model](seed=seed) if isinstance(self.model, str) else self.model(seed)

    def other_depths(self) -> tuple[Make, ...]:
        """The same model with other numbers of blocks, where we know how."""
        return OTHER_DEPTHS.get(self.model, ()) if isinstance(self.model, str) else ()

    def task(self) -> Task:
        return Task(
            kind="classification",
            labels=("a", "b", "c"),
            splits={"train": examples(self.pairs, self.long)},
            tokenizer=tokenizer(),
            model_name="tiny",
            max_length=MAX_LENGTH,
            text_columns=("first", "second") if self.pairs else ("text",),
            fingerprint="",
            notes=(),
        )

    def bound(
        self,
        recipe: Recipe,
        *,
        model: nn.Module | None = None,
        seed: int = 0,
        init: bool = True,
        ranks: Ranks = ALONE,
        device: str = "cpu",
    ) -> Session:
        """`recipe` bound to the model and the task.

        Args:
            model: another model than the bench's.
            seed: of the model's weights.
            init: let tricks change weights.
        """
        task, stack = self.task(), recipe.stack()
        splits, added = splits_of(recipe, task, stack)
        batches = loader(splits["train"], task.tokenizer, recipe.training.batch_size, shuffle=True, added=added)
        model = self.make_model(seed) if model is None else model
        context = about(recipe, task)
        model = stack.build(model, recipe.streams.init, **context).to(device)
        forward = partial(without, added)
        return recipe.bind(model, batches, build=False, init=init, context=context, forward=forward, ranks=ranks)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    built = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    built.pre_tokenizer = Whitespace()
    built.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
        padding_side="right",
    )


@cache
def examples(pairs: bool, long: bool) -> datasets.Dataset:
    """Tokenised texts of 2 to 6 words, or pairs of them; with `long` some have up to 25."""
    draw = random.Random(0)
    words = VOCABULARY - 5

    def text() -> str:
        most = 25 if long and draw.random() < 0.4 else 6 if not pairs else 4
        return " ".join(f"w{draw.randrange(words)}" for _ in range(draw.randint(2, most)))

    columns = {name: [text() for _ in range(ROWS)] for name in (("first", "second") if pairs else ("text",))}
    return tokenize(columns, tokenizer(), range(ROWS), [draw.randrange(CLASSES) for _ in range(ROWS)])


def train(session: Session, steps: int | None = None) -> list[float]:
    """The loop of the docs, to its end or up to `steps` steps done; each micro-batch's loss.

    Where a trick decides while training, each epoch's evaluation is worse than the one before.
    """
    losses = []
    session.model.train()
    for batch in session.batches():
        losses.append(one_step(session, batch))
        if session.global_step == steps:
            break
    return losses


def one_step(session: Session, batch: Any) -> float:
    """One micro-batch of the loop; its loss."""
    loss = session.loss(batch)
    value = loss.item()
    session.backward(loss)
    if session.step() and session.plan.deciders and session.global_step % session.plan.steps_per_epoch == 0:
        worse = dict.fromkeys(METRICS["classification"], -session.global_step)
        session.evaluated(worse | dict.fromkeys(LOWER_IS_BETTER, session.global_step))
    return value


def weights(session: Session) -> dict[str, Tensor]:
    """The weights that are saved when training ends here."""
    return {name: value.clone() for name, value in session.finish().state_dict().items()}


def final(session: Session) -> dict[str, Tensor]:
    """Train to the end; the weights that are saved."""
    train(session)
    return weights(session)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two models' weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
