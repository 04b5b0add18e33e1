from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BartConfig, BartForSequenceClassification, GPT2Config, GPT2LMHeadModel

import tiny
from finetricks import Context, InputError, Layers
from finetricks_plugins.init.embedding_uniform import EmbeddingUniform

NO_LAYERS = Layers(names=(), parameters={}, modules={})


def drawn(model: nn.Module, seed: int = 1, **values: object) -> nn.Module:
    EmbeddingUniform(**{"modules": "all"} | values).init(model, NO_LAYERS, Context(seed=seed))
    return model


def test_the_values_are_uniform_within_the_range() -> None:
    weight = drawn(nn.Embedding(1000, 50), range=0.25).weight.detach()
    assert weight.abs().max().item() <= 0.25
    assert weight.max().item() == pytest.approx(0.25, abs=1e-3)
    assert weight.min().item() == pytest.approx(-0.25, abs=1e-3)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)
    assert weight.std().item() == pytest.approx(0.5 / 12**0.5, rel=0.01)  # of a uniform distribution: width / sqrt(12)


def test_the_padding_row_stays_zero() -> None:
    model = drawn(nn.ModuleList([nn.Embedding(10, 4, padding_idx=3), nn.EmbeddingBag(10, 4, padding_idx=0)]))
    for table, row in zip(model, (3, 0), strict=True):
        assert table.weight[row].tolist() == [0.0] * 4
        assert (table.weight.abs().sum(dim=1) > 0).sum() == 9


def test_a_table_that_stands_in_several_places_is_drawn_once() -> None:
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = drawn(BartForSequenceClassification(BartConfig(vocab_size=20, **sizes, **heads)))
    first = torch.empty(20, 8).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
    first[1] = 0  # BART pads with 1
    assert bart.model.encoder.embed_tokens.weight is bart.model.shared.weight
    assert torch.equal(bart.model.shared.weight, first)


def test_an_output_layer_that_is_tied_to_a_table_follows_and_others_are_left() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    before = {name: value.clone() for name, value in gpt2.state_dict().items()}
    drawn(gpt2)
    changed = {name for name, value in gpt2.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"}
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight


def test_by_default_only_tables_that_no_checkpoint_supplied() -> None:
    model = nn.ModuleDict({"old": nn.Embedding(5, 4), "new": nn.Embedding(5, 4)})
    old = model["old"].weight.detach().clone()
    EmbeddingUniform().init(model, NO_LAYERS, Context(seed=1, fresh=frozenset({"new.weight"})))
    assert torch.equal(model["old"].weight, old)
    assert model["new"].weight.abs().max() <= 0.1


def test_a_pretrained_table_is_left_unless_asked_for() -> None:
    with pytest.raises(InputError, match="no embedding table of BertForSequenceClassification is new: .*modules: all"):
        tiny.recipe(EmbeddingUniform()).bind(tiny.bert(), tiny.loader())
    session = tiny.recipe(EmbeddingUniform(modules="all", range=0.05)).bind(tiny.bert(), tiny.loader())
    words = session.model.bert.embeddings.word_embeddings.weight
    assert words.abs().max() <= 0.05
    assert words[0].tolist() == [0.0] * 16  # [PAD]


def test_a_model_without_tables_is_refused() -> None:
    with pytest.raises(InputError, match="embedding_uniform: Linear has no embedding table"):
        drawn(nn.Linear(2, 2))


def test_it_draws_from_its_own_stream() -> None:
    tables = [nn.Embedding(5, 4) for _ in range(3)]
    state = torch.get_rng_state()
    one, same, other = (drawn(table, seed).weight for table, seed in zip(tables, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("values", [{"range": 0}, {"range": -0.1}, {"range": float("inf")}, {"modules": "head"}])
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EmbeddingUniform(**values)
