from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForSequenceClassification,
    FunnelConfig,
    FunnelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import tiny
from finetricks import Context, InputError, Recipe
from finetricks_plugins.build.classifier import classifier_of
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM, gamma_at


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
    by_hand = nn.functional.cross_entropy(scores[:, :-1].reshape(-1, 50), batch["input_ids"][:, 1:].reshape(-1))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


class TwoWaysConfig(PreTrainedConfig):
    model_type = "two_ways"
    vocab_size, hidden_size, num_hidden_layers, bidirectional = 50, 12, 1, True


class TwoWays(PreTrainedModel):
    """A language model that reads in both directions: one LSTM from the beginning, one from the end."""

    config_class = TwoWaysConfig

    def __init__(self, config: TwoWaysConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(50, 8)
        self.ahead, self.back = nn.LSTM(8, 6, batch_first=True), nn.LSTM(8, 6, batch_first=True)
        self.classifier = nn.Linear(12, 3)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, labels=None, output_hidden_states=False):
        tokens = self.embeddings(input_ids)
        states = torch.cat([self.ahead(tokens)[0], self.back(tokens.flip(1))[0].flip(1)], dim=-1)
        logits = self.classifier(states.mean(dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=(tokens, states) if output_hidden_states else None
        )


@pytest.fixture
def two_ways() -> Iterator[TwoWays]:
    AutoModelForCausalLM.register(TwoWaysConfig, TwoWays)
    torch.manual_seed(0)
    yield TwoWays(TwoWaysConfig())
    AutoModelForCausalLM._model_mapping._extra_content.pop(TwoWaysConfig)


def test_of_two_directions_each_predicts_its_own_next_token(two_ways) -> None:
    trick = AuxiliaryLM(gamma=1.0)
    layers = {"embeddings": ["embeddings"], "block.0": ["ahead", "back"], "head": ["classifier", "auxiliary_lm_head"]}
    recipe = Recipe(tricks=[trick], layers=layers)
    session = recipe.bind(two_ways, tiny.loader())
    batch = next(session.batches())
    loss = trick.language_model_loss(batch, session._step())
    ids, head = batch["input_ids"], two_ways.auxiliary_lm_head
    states = two_ways(ids, output_hidden_states=True).hidden_states[-1]

    def cross_entropy(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(states, two_ways.embeddings.weight).flatten(0, 1), wanted.flatten())

    ahead = cross_entropy(states[:, :-1, :6], ids[:, 1:])
    back = cross_entropy(states[:, 1:, 6:], ids[:, :-1])
    assert loss.item() == pytest.approx(((ahead + back) / 2).item(), rel=1e-6)
    with pytest.raises(InputError, match="have no directions yet, and its language model has two; .* 0 to 0"):
        tiny.recipe(AuxiliaryLM(layer=1)).bind(two_ways, tiny.loader())


def test_of_an_encoder_decoder_the_encoder_is_trained() -> None:
    torch.manual_seed(0)
    model = BartForSequenceClassification(
        BartConfig(
            vocab_size=50,
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            decoder_start_token_id=3,
        )
    )
    ids = torch.randint(5, 50, (4, 8))
    ids[:, -1] = 3  # BART reads the state of the end, so masking may neither take one away nor put one in
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(4).long()}
    trick = AuxiliaryLM(mask_token_id=4, mask_probability=0.9)
    session = tiny.recipe(trick).bind(model, [batch])
    trick.language_model_loss(batch, session._step()).backward()
    assert model.model.encoder.layers[1].fc1.weight.grad is not None
    assert all(p.grad is None for n, p in model.model.decoder.named_parameters() if n.startswith("layers"))


def test_it_reads_the_states_of_a_classifier_in_parts() -> None:
    session = tiny.recipe(AuxiliaryLM(mask_token_id=4)).bind(classifier_of(tiny.bert(), "some_trick"), tiny.loader())
    session.loss(next(session.batches())).backward()
    assert session.model.auxiliary_lm_head.dense.weight.grad.abs().sum() > 0


def test_the_state_can_be_read_below_the_top() -> None:
    top, below = (
        tiny.recipe(AuxiliaryLM(gamma=1.0, mask_token_id=4, layer=layer)).bind(tiny.bert(dropout=0), tiny.loader())
        for layer in (0, 2)
    )
    batch = next(top.batches())
    assert top.loss(batch).item() != below.loss(batch).item()


@pytest.mark.parametrize("layer", [0, 3])
def test_the_state_can_be_read_at_either_end(layer: int) -> None:
    session = tiny.recipe(AuxiliaryLM(gamma=1.0, mask_token_id=4, layer=layer)).bind(tiny.bert(), tiny.loader())
    assert torch.isfinite(session.loss(next(session.batches())))


def test_what_it_cannot_do_is_said_before_training() -> None:
    def bind(model: nn.Module, **fields: object) -> None:
        tiny.recipe(AuxiliaryLM(**fields)).bind(model, tiny.loader())

    with pytest.raises(InputError, match="needs a mask token"):
        bind(tiny.bert())
    with pytest.raises(InputError, match="mask token 50 lies outside the 50 embeddings"):
        bind(tiny.bert(), mask_token_id=50)
    with pytest.raises(InputError, match="no hidden states 4 layers below the top .* allow 0 to 3"):
        bind(tiny.bert(), mask_token_id=4, layer=4)
    with pytest.raises(InputError, match="this bert have seen the next token already"):
        bind(tiny.bert(), objective="causal")
    with pytest.raises(InputError, match="Linear has no input embeddings to tie"):
        tiny.recipe(AuxiliaryLM()).bind(nn.Linear(2, 2), [{"input": torch.zeros(1, 2)}])


def test_a_model_that_pools_its_tokens_is_refused() -> None:
    config = FunnelConfig(
        vocab_size=50, d_model=16, n_head=2, d_head=8, d_inner=32, block_sizes=[1, 1], num_labels=3, pad_token_id=0
    )
    session = tiny.recipe(AuxiliaryLM(mask_token_id=4)).bind(FunnelForSequenceClassification(config), tiny.loader())
    with pytest.raises(InputError, match="needs a state for each token"):
        session.loss(next(session.batches()))


def test_building_draws_the_head_from_its_own_stream() -> None:
    heads = []
    for seed in (1, 1, 2):
        model = tiny.bert()
        tiny.recipe(AuxiliaryLM(mask_token_id=4)).stack().build(model, seed)
        heads.append(model.auxiliary_lm_head.dense.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    AuxiliaryLM(gamma=0.0).build(model=nn.Linear(2, 2), context=Context(seed=0))  # neutral: nothing is asked
