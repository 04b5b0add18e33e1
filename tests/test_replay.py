"""A replayed run is the run without replay, bit for bit."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

import tiny
from finetricks import Recipe, Session, Step, Trick, hookimpl
from finetricks.distributed import ALONE, Ranks

ROWS, LONGEST = 44, 36
TEXT: dict[str, Any] = {"vocab_size": 50, "num_labels": 3}
BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig(**TEXT, **BLOCKS))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "roberta": lambda: RobertaForSequenceClassification(
        RobertaConfig(**TEXT, **BLOCKS, **SPECIAL, max_position_embeddings=64)
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(**TEXT, dim=32, n_layers=3, n_heads=2, hidden_dim=64)
    ),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**TEXT, **BLOCKS, embedding_size=16)),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(**TEXT, **SPECIAL, n_embd=32, n_layer=3, n_head=2, n_positions=64)
    ),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**TEXT, **BLOCKS, **SPECIAL)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**BLOCKS, image_size=16, patch_size=4, num_labels=3)),
    "albert": lambda: AlbertForSequenceClassification(AlbertConfig(**TEXT, **BLOCKS, embedding_size=16)),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(
            **TEXT, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, eos_token_id=2, decoder_start_token_id=0
        )
    ),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], num_labels=3)
    ),
}
REPLAYED = ("bert", "roberta", "distilbert", "electra", "gpt2", "llama", "vit")


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def texts() -> list[dict[str, Any]]:
    """Rows of 4 to 36 tokens, so that batches are of many lengths."""
    draw = random.Random(1)
    lengths = [draw.randint(3, LONGEST - 1) for _ in range(ROWS)]
    return [
        {"input_ids": [*(draw.randint(5, 49) for _ in range(n)), 2], "labels": i % 3} for i, n in enumerate(lengths)
    ]


def images() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": i % 3} for i in range(ROWS)]


def collate(rows: list[dict[str, Any]], *, left: bool = False, times: int = 1) -> dict[str, torch.Tensor]:
    """A batch; of texts padded to its longest, rounded up to a multiple of `times`."""
    labels = torch.tensor([row["labels"] for row in rows])
    if "pixel_values" in rows[0]:
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}
    length = -(-max(len(row["input_ids"]) for row in rows) // times) * times
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for place, row in enumerate(rows):
        size = len(row["input_ids"])
        own = slice(length - size, length) if left else slice(0, size)
        ids[place, own], mask[place, own] = torch.tensor(row["input_ids"]), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def bound(
    replay: str, *tricks: Any, name: str = "bert", loader: Any = None, ranks: Ranks = ALONE, **training: Any
) -> Session:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "seed": 3, "replay": replay} | training
    rows = images() if name in ("vit", "resnet") else texts()
    loader = loader or DataLoader(rows, batch_size=settings["batch_size"], shuffle=True, collate_fn=collate)
    return Recipe(tricks=tricks, training=settings).bind(model(name), loader, ranks=ranks)


def both(*tricks: Any, mode: str = "auto", **options: Any) -> Session:
    """Assert that replay changes nothing; the session of the replayed run."""
    plain, replayed = bound("off", *tricks, **options), bound(mode, *tricks, **options)
    losses = []
    for session in (plain, replayed):
        torch.manual_seed(1)  # for `streams: none`
        losses.append(tiny.train(session))
    assert losses[0] == losses[1]
    assert tiny.equal(plain.finish(), replayed.finish())
    return replayed


RECIPES: dict[str, tuple[Any, ...]] = {
    "gradual_unfreezing": ("gradual_unfreezing",),
    "two_stage": ({"two_stage": {"epochs": 2}},),
    "sequential_unfreezing": ({"sequential_unfreezing": {"n": 3, "k": 4}},),
    "last_layer": ("last_layer",),
    "feature_based": ("feature_based",),
    "layer_pooling": ({"layer_pooling": {"layers": "all"}}, "last_layer"),
    "layer_pooling, gradual": ({"layer_pooling": {"layers": "all", "tokens": "mean"}}, "gradual_unfreezing"),
    "chain_thaw": ({"chain_thaw": {"epochs": 2}},),
}


SLOW = {"chain_thaw", "layer_pooling, gradual"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name in SLOW else []) for name in RECIPES]
)
def test_a_replayed_run_is_the_run_without_replay(name: str) -> None:
    session = both(*RECIPES[name], epochs=10 if name == "chain_thaw" else 4)
    assert session.replay["hits"] > 0
    assert session.replay["exact"]
    assert not session.replay["off"]


@pytest.mark.parametrize("name", REPLAYED)
def test_each_architecture(name: str) -> None:
    session = both("gradual_unfreezing", name=name)
    assert session.replay["hits"] > 0
    assert not session.replay["off"]


@pytest.mark.parametrize(
    ("name", "reason"), [("albert", "not called once each"), ("t5", "more than states"), ("resnet", "4 dimensions")]
)
def test_off_where_blocks_are_of_another_kind(name: str, reason: str) -> None:
    session = both("last_layer", name=name, epochs=2)
    assert reason in session.replay["off"]
    assert any("replay: off, because" in warning and reason in warning for warning in session.plan.warnings())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoders_padded_on_the_left(name: str) -> None:
    loader = DataLoader(texts(), batch_size=8, shuffle=True, collate_fn=partial(collate, left=True, times=8))
    session = both("gradual_unfreezing", name=name, loader=loader)
    assert session.replay["hits"] > 0
    assert not session.replay["off"]


def test_rows_have_one_key_where_batches_are_padded_to_whole_blocks() -> None:
    loader = DataLoader(texts(), batch_size=8, shuffle=True, collate_fn=partial(collate, times=16))
    session = both("last_layer", loader=loader)
    assert session.replay["misses"] <= ROWS + 8  # one row each, and the epoch's last, which may be too short to replay


def test_what_batches_of_other_lengths_need_is_computed_once_and_in_whole_batches() -> None:
    loader = DataLoader(texts(), batch_size=8, shuffle=True, collate_fn=partial(collate, times=8), drop_last=True)
    session = bound("auto", "last_layer", loader=loader, epochs=6)
    steps = session.plan.steps_per_epoch
    misses = []
    for epoch in range(1, 7):
        tiny.train(session, steps=epoch * steps)
        misses.append(session.replay["misses"])
    assert misses[0] < misses[1] < 2 * ROWS  # what the first epoch's rows are in longer and in shorter batches
    assert misses[5] - misses[1] <= ROWS // 8  # those that the first epoch left out, and lengths that it did not have
    both("last_layer", loader=loader, epochs=6)


@pytest.mark.parametrize("training", [{"accumulation": 2}, {"streams": "none"}, {"gradient_checkpointing": True}])
def test_other_ways_to_train(training: dict[str, Any]) -> None:
    assert both("gradual_unfreezing", **training).replay["hits"] > 0


@pytest.mark.nightly
def test_half_precision() -> None:
    """Exact, or noticed."""
    for precision in ("bf16", "fp16"):
        session = both("gradual_unfreezing", precision=precision)
        assert session.replay["hits"] > 0


def test_states_that_are_not_exact_are_not_used() -> None:
    """The classifier takes the first place of each row: padding here, the state of which depends on other rows."""
    loader = DataLoader(texts(), batch_size=8, shuffle=True, collate_fn=partial(collate, left=True, times=4))
    session = both("last_layer", loader=loader)
    assert "not exact" in session.replay["off"]


def test_states_that_are_not_exact_are_used_if_that_is_asked_for() -> None:
    losses = tiny.train(bound("off", "last_layer"))
    session = bound("memory", "last_layer", replay_dtype="bf16")
    assert tiny.train(session) == pytest.approx(losses, abs=1e-2)
    assert session.replay["hits"] > 0
    assert 0 < session.replay["apart"] < 0.1
    assert not session.replay["off"]


@pytest.mark.parametrize("steps", [4, 9, 17])
def test_resumed(steps: int) -> None:
    plain = bound("off", "gradual_unfreezing")
    losses = tiny.train(plain)
    first = bound("auto", "gradual_unfreezing")
    before = tiny.train(first, steps)
    second = bound("auto", "gradual_unfreezing")
    second.load_state_dict(first.state_dict())
    assert before + tiny.train(second) == losses
    assert tiny.equal(plain.finish(), second.finish())


class Noisy(Trick):
    """Adds noise where the embeddings end; nothing says so."""

    @hookimpl
    def build(self, model: nn.Module) -> None:
        def noise(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            return output + 0.1 * torch.rand_like(output)

        model.bert.embeddings.register_forward_hook(noise)  # type: ignore[union-attr, operator]


class NoisyInside(Trick):
    """Draws where no hook shows it."""

    @hookimpl
    def build(self, model: nn.Module) -> None:
        embeddings: Any = model.bert.embeddings  # type: ignore[union-attr]
        own = embeddings.forward
        embeddings.forward = lambda **given: own(**given) + 0.1 * torch.rand(())


class Declared(NoisyInside):
    """Says that it does."""

    changes_frozen = True


@pytest.mark.parametrize(
    ("trick", "reason"),
    [(Noisy, "hook"), (NoisyInside, "not exact"), (Declared, "declared")],
)
def test_off_where_a_trick_changes_what_frozen_layers_give(trick: type[Trick], reason: str) -> None:
    assert reason in both("last_layer", trick()).replay["off"]


def test_states_of_weights_that_are_written_to_are_forgotten() -> None:
    losses = []
    for replay in ("off", "auto"):
        session = bound(replay, "last_layer")
        session.model.train()
        losses.append([])
        for batch in session.batches():
            if session.global_step in (7, 14):
                with torch.no_grad():
                    session.model.bert.embeddings.word_embeddings.weight.mul_(1.1)  # type: ignore[union-attr, operator]
            loss = session.loss(batch)
            losses[-1].append(loss.item())
            session.backward(loss)
            session.step()
    assert losses[0] == losses[1]
    assert session.replay["hits"] > 0
    assert not session.replay["off"]


class Attack(Trick):
    """A second pass on embeddings moved along their gradient, where nothing but the head trains."""

    @hookimpl(wrapper=True)
    def loss(self, batch: Any, step: Step) -> Any:
        first = yield
        embedded: Any = step.model.get_input_embeddings()(batch["input_ids"])  # type: ignore[operator]
        embedded = embedded.detach().requires_grad_()
        moved = {**{name: value for name, value in batch.items() if name != "input_ids"}, "inputs_embeds": embedded}
        (gradient,) = torch.autograd.grad(step.criterion(step.forward(moved), moved), embedded)
        moved["inputs_embeds"] = (embedded + gradient.sign() * 0.01).detach()
        return first + step.criterion(step.forward(moved), moved)


def test_inputs_that_never_come_again_are_computed() -> None:
    session = both("last_layer", Attack(), epochs=3)
    assert session.replay["hits"] > 0
    assert not session.replay["off"]


def test_the_model_is_what_it_was() -> None:
    session = bound("auto", "last_layer")
    names = [name for name, _ in session.model.named_modules()]
    tiny.train(session, steps=10)
    assert session.replay["hits"] > 0
    assert [name for name, _ in session.model.named_modules()] == names
    assert not any("forward" in vars(module) for module in session.model.modules())
    copied = copy.deepcopy(session.model)
    torch.save(copied, io.BytesIO())
    batch = collate(texts()[:8])
    session.model.eval()
    copied.eval()
    assert torch.equal(session.model(**batch).logits, copied(**batch).logits)


def test_what_does_not_fit_is_computed() -> None:
    roomy = both("gradual_unfreezing")
    tight = both("gradual_unfreezing", replay_bytes=roomy.replay["bytes"] // 3)
    assert 0 < tight.replay["bytes"] <= roomy.replay["bytes"] // 3
    assert 0 < tight.replay["hits"] < roomy.replay["hits"]


def test_evaluation_is_replayed() -> None:
    session = bound("auto", "last_layer")
    batches = [collate(texts()[i : i + 8]) for i in range(0, ROWS, 8)]

    def logits() -> list[torch.Tensor]:
        session.model.eval()
        with torch.inference_mode():
            found = [session.replayed(lambda b=b: session.model(**b).logits, training=False) for b in batches]
        session.model.train()
        return found

    session.enter(0)
    first, second, third = logits(), logits(), logits()
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, first, third))
    assert session.replay["hits"] > 0
    tiny.train(session)  # what an evaluation kept is of use in training


def test_another_run_begins_with_what_lies_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path))
    first = both("last_layer", mode="disk", epochs=2)
    second = both("last_layer", mode="disk", epochs=2, dropout_seed=5)
    assert first.replay["exact"]
    assert second.replay["exact"]
    assert second.replay["misses"] < first.replay["misses"] / 2
    other = bound("disk", "last_layer", epochs=1)
    with torch.no_grad():
        other.model.bert.embeddings.word_embeddings.weight.mul_(1.1)  # type: ignore[union-attr, operator]
    tiny.train(other)
    assert not other.replay["hits"]
