"""Scores, and the files that keep them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from finetricks.errors import FinetricksError
from finetricks.tasks.encode import collator, tokenize
from finetricks.tasks.models import load_tokenizer, resolve_model
from finetricks.tasks.predictions import decide, read_predictions, score, write_predictions

TEXTS = ["one", "one two three four", "one two", "one two three four five six", "three", "two three"]


@pytest.fixture(scope="module")
def minilm():
    return load_tokenizer(resolve_model("minilm"))


@pytest.fixture
def model():
    config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, num_labels=3)
    return BertForSequenceClassification(config)


@pytest.fixture
def dataset(minilm):
    return tokenize({"text": TEXTS}, minilm, [5, 4, 3, 2, 1, 0], labels=[0, 1, 2, 0, 1, 2])


ACTIVATIONS = {
    "classification": lambda logits: torch.softmax(logits, dim=-1),
    "multi_label": torch.sigmoid,
    "regression": lambda logits: logits,
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_scores_stand_in_the_order_of_the_data(model, minilm, dataset, kind, batch_size: int) -> None:
    scores = score(model, dataset, minilm, kind=kind, batch_size=batch_size)
    model.eval()
    with torch.no_grad():
        alone = [model(**collator(minilm)([example])).logits[0].double() for example in dataset]
    expected = torch.stack([ACTIVATIONS[kind](logits) for logits in alone]).numpy()
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert len(np.unique(scores[:, 0].round(12))) == len(TEXTS)  # so an order that is wrong would show


def test_scoring_leaves_modes_random_state_and_gradients_alone(model, minilm, dataset) -> None:
    model.train()
    model.bert.embeddings.eval()  # frozen, say
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    first, second = (score(model, dataset, minilm, kind="classification", batch_size=2) for _ in range(2))
    assert np.array_equal(first, second)  # no dropout
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    model(**collator(minilm)([dataset[0]])).loss.backward()  # nothing of the inference is left in the model


def test_scores_that_are_not_finite_are_an_error(model, minilm, dataset) -> None:
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(FinetricksError, match="scores are not finite for 6 of 6 examples"):
        score(model, dataset, minilm, kind="classification", batch_size=2)


def test_decisions() -> None:
    scores = np.array([[0.5, 0.2], [0.1, 0.9]])
    assert decide(scores, kind="classification", labels=("a", "b")) == ["a", "b"]
    assert decide(scores, kind="multi_label", labels=("a", "b")) == [["a"], ["b"]]
    assert decide(scores[:, :1], kind="regression", labels=()) == [0.5, 0.1]


def test_classes_are_written_and_read_to_the_bit(tmp_path, minilm) -> None:
    labels = ("01", "1", 'a, "b"')
    dataset = tokenize({"text": TEXTS[:3]}, minilm, [9, 7, 8], labels=[0, 1, 2])
    scores = np.random.default_rng(0).dirichlet(np.ones(3), size=3)
    path = tmp_path / "predictions" / "valid.csv"
    write_predictions(path, dataset, scores, kind="classification", labels=labels)
    frame = read_predictions(path)
    assert list(frame) == ["example_id", "label", "prediction", "score:01", "score:1", 'score:a, "b"']
    assert frame["example_id"].tolist() == [9, 7, 8]
    assert frame["label"].tolist() == list(labels)
    assert frame["prediction"].tolist() == [labels[index] for index in scores.argmax(axis=1)]
    assert np.array_equal(frame[[f"score:{name}" for name in labels]].to_numpy(), scores)


def test_values_and_several_labels_are_written(tmp_path, minilm) -> None:
    path = tmp_path / "x.csv"
    dataset = tokenize({"text": TEXTS[:2]}, minilm, [0, 1], labels=[0.1, 2.0])
    write_predictions(path, dataset, np.array([[1 / 3], [2.5]]), kind="regression", labels=())
    assert path.read_text() == "example_id,label,prediction\n0,0.1,0.3333333333333333\n1,2.0,2.5\n"
    dataset = tokenize({"text": TEXTS[:2]}, minilm, [0, 1], labels=[[1.0, 1.0], [0.0, 0.0]])
    write_predictions(path, dataset, np.array([[0.75, 0.25], [0.5, 0.5]]), kind="multi_label", labels=("é", "b"))
    assert path.read_text(encoding="utf-8").splitlines() == [
        "example_id,label,prediction,score:é,score:b",
        '0,"[""é"", ""b""]","[""é""]",0.75,0.25',
        '1,[],"[""é"", ""b""]",0.5,0.5',
    ]


def test_new_rows_have_no_label(tmp_path, minilm) -> None:
    dataset = tokenize({"text": ["one"]}, minilm, [0])
    write_predictions(tmp_path / "x.csv", dataset, np.array([[0.25, 0.75]]), kind="classification", labels=("NA", "b"))
    assert (tmp_path / "x.csv").read_text() == "example_id,prediction,score:NA,score:b\n0,b,0.25,0.75\n"
