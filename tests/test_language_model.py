from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    XLNetConfig,
)

import tiny
from finetricks import Context, DataError, InputError
from finetricks_plugins.language_model.cache import Entry, key_of
from finetricks_plugins.language_model.head import TiedHead
from finetricks_plugins.language_model.model import OwnHead, WithTiedHead, language_model
from finetricks_plugins.language_model.objective import is_causal, objective_of
from finetricks_plugins.language_model.targets import Masking, masked, masking_of, neighbours
from finetricks_plugins.language_model.texts import Texts, pieces, texts_of_batches, texts_of_files
from finetricks_plugins.language_model.training import Settings

MASKING = Masking(probability=0.15, mask_id=4, special_ids=(0, 4), vocabulary=50)
SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
GEMMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}


# -- targets ---------------------------------------------------------------------------------------------


def test_targets_are_the_neighbours_without_padding_on_either_side() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [0, 5, 6, 7]])
    attention = (ids != 0).long()
    assert neighbours(ids, attention).tolist() == [[6, 7, -100, -100], [-100, 6, 7, -100]]
    assert neighbours(ids, attention, offset=-1).tolist() == [[-100, 5, 6, -100], [-100, -100, 5, 6]]


def test_masking_is_80_10_10_of_15_percent() -> None:
    ids = torch.full((200, 500), 7)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    generator = torch.Generator().manual_seed(0)
    ordinary = torch.arange(100, 1000)
    inputs, wanted = masked(ids, maskable, probability=0.15, mask_id=4, ordinary=ordinary, generator=generator)
    chosen = wanted != -100
    assert not chosen[:, 0].any()
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.003)
    assert (inputs[chosen] == 4).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (inputs[chosen] == 7).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (inputs[chosen] >= 100).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert (wanted[chosen] == 7).all()


def test_special_tokens_and_padding_are_never_masked_and_never_put_in() -> None:
    masking = Masking(probability=0.99, mask_id=4, special_ids=(0, 2, 3, 4), vocabulary=8)
    ids = torch.tensor([[2, 5, 6, 3, 0, 7]]).repeat(300, 1)
    attention = torch.tensor([[1, 1, 1, 1, 0, 0]]).repeat(300, 1)  # the 7 is padding that no special token marks
    inputs, wanted = masking(ids, attention, torch.Generator().manual_seed(0))
    assert (wanted[:, [0, 3, 4, 5]] == -100).all()
    assert set(inputs[:, 1].tolist()) == {1, 4, 5, 6, 7}


def test_without_a_tokenizer_the_configuration_names_the_special_tokens() -> None:
    config = LlamaConfig(**SMALL, num_key_value_heads=2, bos_token_id=1, eos_token_id=[2, 3])
    model = LlamaModel(config)
    masking = masking_of(
        model, model.embed_tokens, Context(seed=0), probability=0.2, mask_token_id=9, trick="some_trick"
    )
    assert masking == Masking(probability=0.2, mask_id=9, special_ids=(0, 1, 2, 3, 9), vocabulary=50)


# -- objective -------------------------------------------------------------------------------------------


def test_which_models_are_causal() -> None:
    assert is_causal(GPT2Config())
    assert is_causal(LlamaConfig())
    assert not is_causal(tiny.bert().config)
    assert not is_causal(T5Config())


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
    assert objective_of(config, "auto", "some_trick") == ("causal" if is_causal(config) else "masked")


def test_predicting_what_was_read_is_refused() -> None:
    with pytest.raises(InputError, match="some_trick: the states of this bert have seen the next token already"):
        objective_of(BertConfig(), "causal", "some_trick")
    assert objective_of(GPT2Config(), "masked", "some_trick") == "masked"


# -- head ------------------------------------------------------------------------------------------------


def test_each_direction_predicts_its_own_next_token() -> None:
    torch.manual_seed(0)
    head, embeddings = TiedHead(4, 6, 10), torch.randn(10, 6)
    ids, attention = torch.tensor([[5, 6, 7]]), torch.ones(1, 3)
    states = torch.randn(1, 3, 8)
    loss = head.causal_loss(states, ids, attention, embeddings, both=True)
    ahead = nn.functional.cross_entropy(head(states[0, :2, :4], embeddings), ids[0, 1:])
    back = nn.functional.cross_entropy(head(states[0, 1:, 4:], embeddings), ids[0, :2])
    assert loss.item() == pytest.approx(((ahead + back) / 2).item(), rel=1e-6)


def test_states_that_are_not_one_a_token_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[1, 3, 4\] here, and the model gives \[1, 2, 4\]"):
        TiedHead(4, 6, 10).loss(torch.zeros(1, 2, 4), torch.zeros(1, 3).long(), torch.zeros(10, 6))


# -- the model -------------------------------------------------------------------------------------------


def names_of(body: nn.Module) -> list[str]:
    return [name for name, _ in body.named_parameters()]


def test_the_checkpoints_own_head_is_used_with_the_bodys_present_weights(tmp_path) -> None:
    torch.manual_seed(0)
    checkpoint = BertForMaskedLM(BertConfig(**SMALL))
    checkpoint.cls.predictions.bias.data.normal_()
    checkpoint.save_pretrained(tmp_path)
    classifier = BertForSequenceClassification.from_pretrained(tmp_path)
    classifier.bert.embeddings.word_embeddings.weight.data += 1
    lm = language_model(
        classifier.bert, names_of(classifier.bert), MASKING, name=str(tmp_path), seed=0, trick="some_trick"
    )
    assert isinstance(lm, OwnHead)
    assert torch.equal(lm.model.cls.predictions.bias, checkpoint.cls.predictions.bias)
    assert torch.equal(lm.body.embeddings.word_embeddings.weight, classifier.bert.embeddings.word_embeddings.weight)
    assert lm.model.cls.predictions.decoder.weight is lm.body.embeddings.word_embeddings.weight
    assert lm.body is not classifier.bert


def test_an_output_matrix_that_no_checkpoint_has_is_tied_to_the_embeddings() -> None:
    body = LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False))
    lm = language_model(body, names_of(body), None, name="", seed=0, trick="some_trick")
    assert lm.model.lm_head.weight is lm.body.embed_tokens.weight


def test_an_untied_output_matrix_of_the_checkpoint_stays_untied(tmp_path) -> None:
    from transformers import LlamaForCausalLM

    checkpoint = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False))
    checkpoint.save_pretrained(tmp_path)
    body = LlamaModel.from_pretrained(tmp_path)
    lm = language_model(body, names_of(body), None, name=str(tmp_path), seed=0, trick="some_trick")
    assert torch.equal(lm.model.lm_head.weight, checkpoint.lm_head.weight)


def test_a_vocabulary_that_grew_is_followed_by_the_head(tmp_path) -> None:
    BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(tmp_path)
    classifier = BertForSequenceClassification.from_pretrained(tmp_path)
    classifier.resize_token_embeddings(53, mean_resizing=False)
    lm = language_model(
        classifier.bert, names_of(classifier.bert), MASKING, name=str(tmp_path), seed=0, trick="some_trick"
    )
    ids = torch.tensor([[52, 51, 50, 49, 7, 8]]).repeat(8, 1)
    assert lm.loss(ids, torch.ones_like(ids), torch.Generator().manual_seed(0)).isfinite()


def test_a_body_without_a_language_model_of_its_kind_gets_a_tied_head() -> None:
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0)
    torch.manual_seed(0)
    body = T5EncoderModel(config)
    lm = language_model(body, names_of(body), MASKING, name="", seed=0, trick="some_trick")
    assert isinstance(lm, WithTiedHead)
    ids = torch.randint(5, 50, (8, 12), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    lm.eval()
    loss = lm.loss(ids, attention, torch.Generator().manual_seed(0))
    inputs, targets = MASKING(ids, attention, torch.Generator().manual_seed(0))
    scores = lm.head(body.eval()(inputs, attention).last_hidden_state, body.shared.weight)
    by_hand = nn.functional.cross_entropy(scores.reshape(-1, 50), targets.reshape(-1))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_causal_loss_is_that_of_the_next_tokens_without_padding() -> None:
    torch.manual_seed(0)
    body = LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2))
    lm = language_model(body, names_of(body), None, name="", seed=0, trick="some_trick")
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    attention = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    scores = lm.model(input_ids=ids, attention_mask=attention).logits
    wanted = torch.tensor([[6, 7, -100], [9, 10, 11]])
    by_hand = nn.functional.cross_entropy(scores[:, :-1].reshape(-1, 50), wanted.reshape(-1))
    assert lm.loss(ids, attention, torch.Generator()).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_nothing_to_predict_is_no_loss() -> None:
    body = BertModel(BertConfig(**SMALL))
    lm = language_model(body, names_of(body), MASKING, name="", seed=0, trick="some_trick")
    special = torch.tensor([[0, 4]])
    assert lm.loss(special, torch.ones_like(special), torch.Generator()) is None


# -- texts -----------------------------------------------------------------------------------------------


def test_long_texts_are_cut_into_even_pieces() -> None:
    assert list(pieces([1, 2, 3], 3)) == [[1, 2, 3]]
    assert [len(piece) for piece in pieces(list(range(130)), 128)] == [65, 65]
    assert list(pieces(list(range(10)), 4)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert list(pieces([], 4)) == []


def test_a_batch_of_texts_is_padded_on_the_right() -> None:
    texts = Texts([[5, 6, 7], [8], [9, 10]])
    assert (len(texts), texts.tokens) == (3, 6)
    ids, attention = texts.batch([2, 0], pad_id=1)
    assert ids.tolist() == [[9, 10, 1], [5, 6, 7]]
    assert attention.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert texts.fingerprint != Texts([[5, 6], [7, 8], [9, 10]]).fingerprint


def test_the_text_of_batches_leaves_padding_out() -> None:
    ids = torch.tensor([[0, 5, 6], [7, 8, 0]])
    batches = [{"input_ids": ids, "attention_mask": (ids != 0).long()}, {"input_ids": ids[:1]}]
    assert list(texts_of_batches(batches, "some_trick")) == [[5, 6], [7, 8], [0, 5, 6]]
    with pytest.raises(InputError, match="some_trick: .* got list"):
        list(texts_of_batches([[ids]], "some_trick"))


class Words:
    """A tokenizer of numbers."""

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def test_a_corpus_is_lines_of_text_or_a_column_of_a_table(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n\n  \n3 4 5\n")
    (tmp_path / "b.csv").write_text("id,body\n1,6 7\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": "8 9"}) + "\n")
    paths = [str(tmp_path / name) for name in ("a.txt", "b.csv", "c.jsonl")]
    assert list(texts_of_files(paths, "body", Words(), "some_trick")) == [[1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_a_corpus_that_cannot_be_read_is_an_error(tmp_path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.csv").write_text("id,body\n1,6 7\n")

    def read(name: str) -> list[list[int]]:
        return list(texts_of_files([str(tmp_path / name)], "text", Words(), "some_trick"))

    with pytest.raises(DataError, match="cannot read .*missing.txt: No such file"):
        read("missing.txt")
    with pytest.raises(DataError, match="blank.txt: the file holds no text"):
        read("blank.txt")
    with pytest.raises(DataError, match="binary:1: not UTF-8 but UTF-16"):
        read("binary")
    with pytest.raises(DataError, match="no column 'text'; its columns are id, body"):
        read("a.csv")
    with pytest.raises(InputError, match="no tokenizer to read it with"):
        list(texts_of_files(["a.txt"], "text", None, "some_trick"))


# -- training --------------------------------------------------------------------------------------------


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    settings = Settings(steps=10, batch_size=1, learning_rate=4.0, warmup=0.2, weight_decay=0.0, pad_id=0, seed=0)
    assert [settings.rate(step) for step in (0, 1, 2, 6, 9)] == [2.0, 4.0, 4.0, 2.0, 0.5]


# -- cache -----------------------------------------------------------------------------------------------


def test_the_key_is_made_of_weights_structure_facts_and_what_is_trained() -> None:
    def key(change=lambda model: None, **facts) -> str:
        model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.GELU())
        model.load_state_dict({"0.weight": torch.ones(2, 2), "0.bias": torch.zeros(2)})
        change(model)
        return key_of(model, facts, (key_of,))

    def weight(model: nn.Module) -> None:
        model[0].weight.data[0, 0] += 1e-7

    def dropout(model: nn.Module) -> None:
        model[1].p = 0.2

    def activation(model: nn.Module) -> None:
        model[2] = nn.ReLU()

    def frozen(model: nn.Module) -> None:
        model[0].bias.requires_grad_(False)

    keys = [key(), key(steps=3), key(weight), key(dropout), key(activation), key(frozen)]
    assert len(set(keys)) == 6
    assert key() == keys[0]
    assert key(lambda model: model.eval()) == keys[0]


def test_a_result_that_is_not_whole_is_none(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path))
    entry = Entry("some_trick", "key")
    assert entry.result() is None
    with entry.locked():
        entry.save_progress(3, {"model": {"w": torch.zeros(2)}, "step": 3})
        assert entry.progress()["step"] == 3
        entry.save(5, {"w": torch.ones(2)}, {"what": "a test"})
    assert entry.progress() is None
    assert torch.equal(entry.result()["w"], torch.ones(2))
    (weights,) = entry.folder.glob("result/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    assert entry.result() is None


def test_a_cache_that_cannot_be_written_is_said(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set FINETRICKS_CACHE"), Entry("some_trick", "key").locked():
        pass
