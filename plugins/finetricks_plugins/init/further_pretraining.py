"""Further pretraining: the body learns from plain text before it learns the task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from finetricks import Choice, Context, InputError, InputFiles, Trick, hookimpl
from finetricks.order import EpochSampler
from finetricks.streams import child
from finetricks_plugins.build.adapters import thawed
from finetricks_plugins.language_model.cache import Entry, key_of
from finetricks_plugins.language_model.head import input_embeddings
from finetricks_plugins.language_model.model import LanguageModel, language_model
from finetricks_plugins.language_model.objective import objective_of
from finetricks_plugins.language_model.targets import Masking, masking_of
from finetricks_plugins.language_model.texts import Texts, pieces, texts_of_batches, texts_of_files
from finetricks_plugins.language_model.training import Settings, train
from finetricks_plugins.param_groups.discriminative_lr import DiscriminativeLR

if TYPE_CHECKING:
    from finetricks import Layers

logger = logging.getLogger(__name__)

NAME = "further_pretraining"


class FurtherPretraining(Trick):
    """Go on with the pretraining (masked or causal LM) on fitting text, then fine-tune from there.

    L = mean of -log p(token) over the masked tokens (encoders; 15 %: 80/10/10) or over the next tokens (decoders, and
    LSTMs, whose language model this makes from scratch), by AdamW with a linear warm-up and a linear decay, on `text`:
    the task's own training text (`within_task`; never valid or test), or a `corpus` of the task's domain (`in_domain`)
    or of others (`cross_domain`): the two differ in what a report calls them. A corpus is text files, each line a text,
    or .csv, .tsv, .jsonl or .parquet with the text in `column`; long texts are cut into pieces of `max_length` tokens.
    The checkpoint's own language-model head is used, or a new one tied to the embeddings; it is dropped afterwards.
    `discriminative_lr` lets lower layers learn more slowly, as ULMFiT does when it fine-tunes its language model; the
    language model's head is at the base rate. The course of the rate is ULMFiT's slanted triangle but for its floor.
    Only the body changes, without what is new or was frozen; a pooler, which no such loss reaches, stays as it is.

    Pays with little labelled data (IMDb with 100 examples: 17.26 to 9.23 % error) and text of a domain of its own. The
    paper trains 100,000 steps of 32 x 128 tokens; the default is 1,000, minutes for a small model without an
    accelerator. Texts are not packed together, and the paper's next-sentence loss is left out.

    The result is kept in the cache (FINETRICKS_CACHE, else $XDG_CACHE_HOME/finetricks, else ~/.cache/finetricks; it can
    be deleted at any time) under a hash of all that it depends on. Its seed is its own, so that all seeds of a study
    share one result. Killed in the middle, it goes on from its last checkpoint, to the same bits.

    Tricks that draw weights do so before it, wherever they stand in the recipe: what one of them starts anew in the
    body (`modules: all`) is what this one teaches.

    Traps: on TREC, 5,452 short questions, within-task pretraining hurts (2.80 to 3.20 % error). A checkpoint without
    a language-model head (a sentence encoder, such as `minilm`) has to teach a new one first, which takes steps and
    moves the body too. An encoder-decoder learns by rewriting text, which is neither objective, and is refused.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), section 5.4;
    weight decay 0.01, clipping at 1 and the linear decay are the common default of BERT's pretraining. On the LSTM:
    Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv 1801.06146), section 3.2.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"steps": 0}
    learns: ClassVar[bool] = True

    text: Literal["within_task", "in_domain", "cross_domain"] = Field(
        default="within_task", description="Whose text: the task's own, or that of a corpus."
    )
    corpus: InputFiles | None = Field(default=None, description="A file or several, for in_domain and cross_domain.")
    column: str = Field(default="text", description="The text column of a corpus that is a table.")
    objective: Literal["auto", "causal", "masked"] = Field(
        default="auto", description="auto: causal where attention (or an LSTM) sees only what came before."
    )
    steps: Annotated[int, Field(ge=0), Choice(1000, 10_000)] = Field(
        default=1000, description="Optimizer steps; 100,000 in the paper, 0 for none."
    )
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(2e-5, 5e-5, 1e-4)] = Field(
        default=5e-5, description="The highest, at the end of the warm-up."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the steps over which the learning rate rises."
    )
    discriminative_lr: DiscriminativeLR | None = Field(
        default=None, description="Values of that trick, for the language model: {decay: 2.6}, or {factors: ...}."
    )
    batch_size: Annotated[int, Field(gt=0)] = Field(default=32, description="Texts, or pieces of texts, of a step.")
    max_length: Annotated[int, Field(gt=1)] = Field(
        default=128, description="Tokens of a piece, special tokens included; never more than the model takes."
    )
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.15, description="Share of tokens that masked language modelling predicts."
    )
    mask_token_id: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The mask token; the tokenizer's by default. Needed in a loop without a tokenizer."
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="Decoupled; none on biases and norms."
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Of all that is drawn here, apart from the run's seeds."
    )
    checkpoint: Annotated[int, Field(gt=0)] = Field(
        default=500, description="Steps after which what resume needs is saved; does not change the result."
    )

    @model_validator(mode="after")
    def _the_corpus_fits_the_text(self) -> FurtherPretraining:
        if self.text == "within_task" and self.corpus is not None:
            raise ValueError("within_task is the task's own text; with a corpus say `text: in_domain` or cross_domain")
        if self.text != "within_task" and self.corpus is None:
            raise ValueError(f"{self.text} needs a corpus: `corpus: FILE`")
        return self

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        if self.steps == 0:
            return
        body = _body(model)
        masking = self._masking(model, context)
        texts = self._texts(model, masking, context)
        with thawed(model):
            settings = self._settings(model, body, layers, context)
            trained = _trained(model, body, context)
        lm = language_model(
            body,
            trained,
            masking,
            name=getattr(model, "name_or_path", ""),
            seed=child(self.seed, "head"),
            trick=NAME,
        )
        facts = {
            "texts": texts.fingerprint,
            "settings": asdict(settings),
            "masking": None if masking is None else asdict(masking),
        }
        entry = Entry(NAME, key_of(lm, facts, (FurtherPretraining, EpochSampler, child)))
        learnt = entry.result()
        if learnt is None:
            with entry.locked():
                learnt = entry.result() or self._learn(lm, trained, texts, settings, entry)
        else:
            logger.info("%s: taken from %s", NAME, entry.folder)
        own = body.state_dict()
        with torch.no_grad():
            for name, tensor in learnt.items():
                own[name].copy_(tensor)

    def _learn(
        self, lm: LanguageModel, trained: Sequence[str], texts: Texts, settings: Settings, entry: Entry
    ) -> dict[str, Tensor]:
        logger.info(
            "%s: %d steps on %d texts of %d tokens (%s), kept in %s",
            NAME,
            settings.steps,
            len(texts),
            texts.tokens,
            self.text,
            entry.folder,
        )
        train(lm, texts, settings, entry, self.checkpoint)
        kept = {*trained, *(name for name, _ in lm.body.named_buffers())}
        learnt = {name: tensor for name, tensor in lm.body.state_dict().items() if name in kept}
        about = {"trick": self.model_dump(mode="json"), "texts": len(texts), "tokens": texts.tokens}
        entry.save(settings.steps, learnt, about)
        return learnt

    def _masking(self, model: nn.Module, context: Context) -> Masking | None:
        embeddings = input_embeddings(model, NAME)
        if objective_of(model.config, self.objective, NAME) == "causal":
            return None
        return masking_of(
            model,
            embeddings,
            context,
            probability=self.mask_probability,
            mask_token_id=self.mask_token_id,
            trick=NAME,
        )

    def _texts(self, model: Any, masking: Masking | None, context: Context) -> Texts:
        """The pieces from which something can be learnt. Raises `InputError` where there are none."""
        from finetricks.tasks.models import max_positions

        longest = min(self.max_length, max_positions(model) or self.max_length)
        special = frozenset() if masking is None else frozenset(masking.special_ids)

        def teaches(piece: Sequence[int]) -> bool:
            return len(piece) > 1 if masking is None else not special.issuperset(piece)

        found = (piece for text in self._read(context) for piece in pieces(text, longest))
        texts = Texts(piece for piece in found if teaches(piece))
        if not len(texts):
            where = "the training batches" if self.corpus is None else ", ".join(self.corpus)
            raise InputError(f"{NAME}: no text to learn from in {where}: nothing but special tokens, or a token alone")
        return texts

    def _read(self, context: Context) -> Iterator[list[int]]:
        if self.corpus is not None:
            return texts_of_files(self.corpus, self.column, context.tokenizer, NAME)
        if context.batches is None:
            raise InputError(
                f"{NAME}: within_task reads the task's own text from the training batches, and these can be read only "
                "once; give a loader instead of an iterator, or a corpus"
            )
        return texts_of_batches(context.batches(), NAME)

    def _settings(self, model: Any, body: nn.Module, layers: Layers, context: Context) -> Settings:
        pad = context.tokenizer.pad_token_id if context.tokenizer is not None else None
        if pad is None:
            pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        return Settings(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            pad_id=pad or 0,
            seed=self.seed,
            factors={} if self.discriminative_lr is None else _factors(self.discriminative_lr, model, body, layers),
        )


def _factors(rates: DiscriminativeLR, model: nn.Module, body: nn.Module, layers: Layers) -> dict[str, float]:
    """What each of the body's parameters multiplies the learning rate by, but for those that do not change it."""
    asked = rates.param_groups(layers)
    of_layer = {name: options.lr_factor for name, options in asked.items() if options.lr_factor is not None}
    layer_of = {id(parameter): layers.layer_of(name) for name, parameter in model.named_parameters()}
    return {
        name: of_layer[layer]
        for name, parameter in body.named_parameters()
        if (layer := layer_of[id(parameter)]) in of_layer
    }


def _body(model: nn.Module) -> Any:
    """The model without its head. Raises `InputError` for one that has no language model of either kind."""
    input_embeddings(model, NAME)
    body: Any = getattr(model, "base_model", model)
    if body.config.is_encoder_decoder and hasattr(body, "decoder"):
        raise InputError(
            f"{NAME}: {type(model).__name__} is an encoder-decoder, which learns by rewriting text; this trick trains "
            "encoders (masked tokens) and decoders (next tokens)"
        )
    return body


def _trained(model: nn.Module, body: nn.Module, context: Context) -> tuple[str, ...]:
    """Names, within the body, of the parameters that are neither new nor frozen. Raises `InputError` for none."""
    fresh = {id(parameter) for name, parameter in model.named_parameters() if name in context.fresh}
    names = tuple(
        name for name, parameter in body.named_parameters() if parameter.requires_grad and id(parameter) not in fresh
    )
    if not names:
        raise InputError(f"{NAME}: nothing to train: all of {type(model).__name__}'s body is frozen, or new")
    return names
