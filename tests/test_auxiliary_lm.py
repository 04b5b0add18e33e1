from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    T5Config,
    XLNetConfig,
)

import tiny
from finetricks import InputError
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM, gamma_at, is_causal, masked, shifted


def gpt2() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def test_gamma_decays_as_in_the_authors_configuration() -> None:
    # exp(linspace(-1.6, -2.3, 15)): 0.2019 down to 0.1003, then constant
    first, rate = math.exp(-1.6), 0.7 / 14
    values = [gamma_at(epoch, first, "exponential", rate) for epoch in (0, 1, 14, 15, 50)]
    assert values == pytest.approx([0.2019, 0.2019 * 0.9512, 0.1003, 0.1003, 0.1003], rel=1e-3)
    assert gamma_at(9, 0.2, "constant", rate) == 0.2


def test_causal_targets_are_the_next_tokens_without_padding_on_either_side() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [0, 5, 6, 7]])
    attention = (ids != 0).long()
    assert shifted(ids, attention).tolist() == [[6, 7, -100, -100], [-100, 6, 7, -100]]


def test_masking_is_80_10_10_of_15_percent() -> None:
    ids = torch.full((200, 500), 7)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    inputs, targets = masked(
        ids, maskable, probability=0.15, mask_id=4, vocabulary=1000, generator=torch.Generator().manual_seed(0)
    )
    chosen = targets != -100
    assert not chosen[:, 0].any()
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.003)
    assert (inputs[chosen] == 4).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (inputs[chosen] == 7).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert (targets[chosen] == 7).all()


def test_the_loss_is_the_tasks_plus_gamma_times_the_language_models() -> None:
    trick = AuxiliaryLM(gamma=0.3, mask_token_id=4)
    session = tiny.recipe(trick).bind(tiny.bert(dropout=0.0), tiny.loader())
    plain = tiny.recipe().bind(tiny.bert(dropout=0.0), tiny.loader())
    batch = next(session.batches())
    extra = trick.language_model_loss(batch, session._step())
    assert session.loss(batch).item() == pytest.approx(plain.loss(batch).item() + 0.3 * extra.item(), rel=1e-6)
    # An untrained head knows nothing: near ln(vocabulary).
    assert extra.item() == pytest.approx(math.log(50), rel=0.1)


def test_it_learns_and_is_taken_off() -> None:
    recipe = tiny.recipe(AuxiliaryLM(gamma=1.0, mask_token_id=4), epochs=20, learning_rate=1e-2)
    model = tiny.bert()
    session = recipe.bind(model, tiny.loader())
    assert any(name.startswith("auxiliary_lm_head") for name in session.layers.parameters["head"])
    losses = tiny.train(session)
    assert sum(losses[-6:]) < sum(losses[:6])
    session.finish()
    assert session.model.state_dict().keys() == tiny.bert().state_dict().keys()


def test_a_decoder_predicts_the_next_token() -> None:
    trick = AuxiliaryLM(gamma=1.0)
    session = tiny.recipe(trick).bind(gpt2(), tiny.loader())
    batch = next(session.batches())
    session.model.eval()
    loss = trick.language_model_loss(batch, session._step())
    with torch.no_grad():
        states = session.model.transformer(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        scores = session.model.auxiliary_lm_head(states, session.model.transformer.wte.weight)
    by_hand = torch.nn.functional.cross_entropy(scores[:, :-1].reshape(-1, 50), batch["input_ids"][:, 1:].reshape(-1))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_state_can_be_read_below_the_top() -> None:
    top, below = (
        tiny.recipe(AuxiliaryLM(gamma=1.0, mask_token_id=4, layer=layer)).bind(tiny.bert(dropout=0), tiny.loader())
        for layer in (0, 2)
    )
    batch = next(top.batches())
    assert top.loss(batch).item() != below.loss(batch).item()


def test_which_models_are_causal() -> None:
    assert is_causal(GPT2Config())
    assert is_causal(LlamaConfig())
    assert not is_causal(tiny.bert().config)
    assert not is_causal(T5Config())


def test_what_it_cannot_do_is_said_before_training() -> None:
    with pytest.raises(InputError, match="needs a mask token"):
        tiny.recipe(AuxiliaryLM()).bind(tiny.bert(), tiny.loader())
    with pytest.raises(InputError, match="mask token 50 lies outside the 50 embeddings"):
        tiny.recipe(AuxiliaryLM(mask_token_id=50)).bind(tiny.bert(), tiny.loader())
    with pytest.raises(InputError, match="no hidden states 4 layers below the top .* allow 0 to 3"):
        tiny.recipe(AuxiliaryLM(mask_token_id=4, layer=4)).bind(tiny.bert(), tiny.loader())
    with pytest.raises(InputError, match="Linear has no input embeddings to tie"):
        tiny.recipe(AuxiliaryLM()).bind(torch.nn.Linear(2, 2), [{"input": torch.zeros(1, 2)}])


SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
GEMMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SMALL),
        BertConfig(**SMALL, is_decoder=True),
        ElectraConfig(**SMALL, embedding_size=16),
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=0),
        LlamaConfig(**SMALL, num_key_value_heads=2),
        XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0),
        Gemma3TextConfig(**GEMMA),
        Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True),
    ],
    ids=lambda config: config.model_type,
)
def test_causal_is_what_does_not_see_the_next_token(config) -> None:
    # Predicting the next token is no task for a model that has read it.
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.arange(1, 9)[None]
    other = ids.clone()
    other[0, -1] = 30
    with torch.no_grad():
        first, second = (model(input_ids=i, output_hidden_states=True).hidden_states[-1][0, 0] for i in (ids, other))
    assert is_causal(config) == torch.allclose(first, second, atol=1e-7)


@pytest.mark.parametrize("layer", [0, 3])
def test_the_state_can_be_read_at_either_end(layer: int) -> None:
    session = tiny.recipe(AuxiliaryLM(gamma=1.0, mask_token_id=4, layer=layer)).bind(tiny.bert(), tiny.loader())
    assert torch.isfinite(session.loss(next(session.batches())))
