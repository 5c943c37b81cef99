"""The route Word2Vec: what it keeps of a file of vectors, what it builds, feeds, saves and loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as hf_logging

from helpers.classifiers import train_only
from helpers.encoders import make_film_base
from helpers.folders import MODEL_FILES
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.models.rows import FeatureRows
from nlptransfer.models.tokens import TokenRows
from nlptransfer.routes.base import Built
from nlptransfer.routes.word2vec import Word2Vec
from nlptransfer.routes.word2vec_model import Word2VecForSequenceClassification
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.vectors.store import save_vectors
from nlptransfer.vectors.tokenizer import RESERVED

WORDS = [
    "the", "a", "and", "film", "was", "is", "very", "plot", "cast", "music",
    "good", "bad", "great", "dull", "long", "short", "loud", "quiet", "gem", "mess",
]  # fmt: skip
MATRIX = np.random.default_rng(0).normal(0, 3, (len(WORDS), 6)).astype(np.float32)
TEXTS = ["A good film.", "The plot was dull", "great cast, great music!", "a mess"]
TARGETS = np.array([1, 0, 1, 0])
HEADS: dict[str, dict[str, Any]] = {
    "cnn": {"head_type": "cnn"},
    "mlp": {"head_type": "mlp", "mlp_sizes": (5, 4), "pooling": ("max", "mean")},
    "linear": {"head_type": "linear"},
    "linear, vectors learn": {"head_type": "linear", "train_vectors": True},
}

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A file of word vectors, the most frequent word first."""
    save_vectors(tmp_path / "words.txt", WORDS, MATRIX)
    return str(tmp_path / "words.txt")


def build(route: Word2Vec, base: str, texts: Sequence[str] = TEXTS, seed: int = 0) -> Built:
    return route.build(train_only(texts, np.arange(len(texts)) % 2), base, None, seed)


def own(built: Built) -> Word2VecForSequenceClassification:
    assert isinstance(built.model, Word2VecForSequenceClassification)
    return built.model


def words_of(built: Built) -> list[str]:
    return [word for word, i in sorted(built.tokenizer.get_vocab().items(), key=lambda pair: pair[1])][RESERVED:]


# Vectors and vocabulary


@pytest.mark.parametrize("unit_length", [True, False])
def test_vectors_of_a_file(base: str, unit_length: bool) -> None:
    built = build(Word2Vec(unit_length=unit_length), base)
    matrix = own(built).vectors.weight.detach().numpy()
    expected = MATRIX / np.linalg.norm(MATRIX, axis=1, keepdims=True) if unit_length else MATRIX
    assert matrix.shape == (len(WORDS) + RESERVED, 6)
    assert not matrix[:RESERVED].any()
    assert built.tokenizer("dull MESS unheard")["input_ids"] == [WORDS.index("dull") + 2, WORDS.index("mess") + 2, 1]
    np.testing.assert_allclose(matrix[RESERVED:], expected, rtol=1e-5)


def test_vectors_of_a_saved_folder(base: str, tmp_path: Path) -> None:
    save_vectors(tmp_path / "folder", WORDS, MATRIX)
    built = build(Word2Vec(), str(tmp_path / "folder"))
    assert built.record == {**build(Word2Vec(), base).record, "name": "folder"}
    assert words_of(built) == WORDS


def test_zero_vector_keeps_its_length(tmp_path: Path) -> None:
    save_vectors(tmp_path / "zero.txt", ["the", "film"], np.array([[0, 0], [3, 4]], dtype=np.float32))
    matrix = own(build(Word2Vec(), str(tmp_path / "zero.txt"))).vectors.weight
    torch.testing.assert_close(matrix[RESERVED:].detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("max_words", "kept"),
    [
        (1, ["great"]),
        (2, ["great", "gem"]),
        (3, ["great", "gem", "mess"]),
        (4, ["the", "great", "gem", "mess"]),
        (6, ["the", "a", "and", "great", "gem", "mess"]),
        (19, [word for word in WORDS if word != "quiet"]),
        (20, WORDS),
        (500, WORDS),
    ],
)
def test_max_words_keeps_training_words_then_frequent_ones(base: str, max_words: int, kept: list[str]) -> None:
    built = build(Word2Vec(max_words=max_words, unit_length=False), base, ["Gem! GREAT", "great mess"])
    assert words_of(built) == kept
    rows = [WORDS.index(word) for word in kept]
    np.testing.assert_allclose(own(built).vectors.weight.detach()[RESERVED:], MATRIX[rows], rtol=1e-5)
    assert built.record["words"] == own(built).config.vocab_size - RESERVED == len(kept)


def test_record(base: str) -> None:
    assert build(Word2Vec(), base, ["the unheard film", "an odd mess"]).record == {
        "kind": "vectors", "name": "words.txt", "words": 20, "dimensions": 6, "unknown_share": 0.5,
    }  # fmt: skip


def test_words_distilled_from_an_encoder(tmp_path: Path) -> None:
    encoder = make_film_base(tmp_path / "tiny-bert")
    route = Word2Vec(dimensions=4, head_type="linear")
    built = build(route, encoder, ["a good film", "the plot was dull", "great cast", "a mess"])
    assert set(words_of(built)) >= {"a", "good", "film", "the", "plot", "was", "dull", "great", "cast", "mess"}
    source = {"kind": "distilled", "name": "tiny-bert", "revision": None, "dimensions": 4, "unknown_share": 0}
    assert built.record == built.record | source and own(built).config.hidden_size == 4
    assert str(tmp_path) not in str(built.record)
    norms = own(built).vectors.weight[RESERVED:].norm(dim=1)
    torch.testing.assert_close(norms.detach(), torch.ones(len(norms)))
    again = build(route, encoder, ["a good film", "the plot was dull", "great cast", "a mess"])
    assert torch.equal(own(again).vectors.weight, own(built).vectors.weight)


# The model


@pytest.mark.parametrize("head", HEADS)
def test_same_seed_same_weights(base: str, head: str) -> None:
    route = Word2Vec(**HEADS[head])
    first, again, other = (own(build(route, base, seed=seed)).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert torch.equal(first["vectors.weight"], other["vectors.weight"])


def test_settings_reach_the_model(base: str) -> None:
    route = Word2Vec(kernel_sizes=(2, 3), num_filters=7, dropout=0.1, train_vectors=True, max_length=9)
    built = build(route, base)
    config = own(built).config
    assert (config.head, config.kernel_sizes, config.num_filters, config.dropout) == ("cnn", [2, 3], 7, 0.1)
    assert own(built).vectors.weight.requires_grad
    assert built.tokenizer.model_max_length == 9
    assert route.head(built.model) is own(built).classifier
    assert route.head(built.model).in_features == 14
    assert not own(build(Word2Vec(), base)).vectors.weight.requires_grad


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_reach_the_model(base: str, multi_label: bool) -> None:
    targets = np.eye(4, 2, dtype=np.float32) if multi_label else TARGETS
    config = Word2Vec().build(train_only(TEXTS, targets, multi_label), base, None, 0).model.config
    assert config.id2label == {0: "bad", 1: "good"}
    assert config.label2id == {"bad": 0, "good": 1}
    assert config.problem_type == f"{'multi' if multi_label else 'single'}_label_classification"


def test_defaults_are_training_settings() -> None:
    for head in HEADS.values():
        TrainingSettings(**Word2Vec(**head).defaults(train_only(TEXTS, TARGETS))).check()


# What the model is fed


@pytest.mark.parametrize("head", HEADS)
def test_rows_give_the_logits_of_the_tokens(base: str, head: str) -> None:
    route = Word2Vec(**HEADS[head], max_length=3)
    built = build(route, base)
    built.model.eval()
    texts = ["the film was great and very long", "", "unheard", "good"]
    rows = route.rows(built.model, built.tokenizer, texts)
    assert type(rows) is (TokenRows if head in ("cnn", "linear, vectors learn") else FeatureRows)
    assert len(rows) == len(texts)
    tokens = built.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert tokens["input_ids"].shape == (4, 3)
    with torch.inference_mode():
        found = built.model(**rows.batch(np.arange(4))).logits
        torch.testing.assert_close(found, built.model(**tokens).logits, rtol=1e-5, atol=1e-5)
    assert len(route.rows(built.model, built.tokenizer, [])) == 0


@pytest.mark.parametrize("head", HEADS)
def test_head_inputs_only_where_the_head_is_fitted(base: str, head: str) -> None:
    route = Word2Vec(**HEADS[head])
    built = build(route, base)
    rows = route.rows(built.model, built.tokenizer, TEXTS)
    inputs = route.head_inputs(built.model, rows)
    if head != "linear":
        assert inputs is None
        return
    assert inputs is not None and inputs[1] is None
    found = inputs[0]
    with torch.inference_mode():
        out = built.model.eval()(**rows.batch(np.arange(len(TEXTS))), output_hidden_states=True)
    np.testing.assert_array_equal(found, out.hidden_states[-1])
    # Standardized on the training rows: what makes one strength of the penalty fit all features.
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-5)


# Saved and loaded


@pytest.mark.parametrize("head", HEADS)
def test_round_trip(base: str, head: str, tmp_path: Path) -> None:
    route = Word2Vec(**HEADS[head])
    built = build(route, base)
    built.model.eval()
    hf_logging.enable_progress_bar()
    route.save(built.model, built.tokenizer, tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} == MODEL_FILES - {"nlptransfer.json"}
    torch.manual_seed(99)
    model, tokenizer = route.load(tmp_path / "saved", built.record, None)
    assert hf_logging.is_progress_bar_enabled()
    assert not model.training
    assert tokenizer.get_vocab() == built.tokenizer.get_vocab()
    with torch.inference_mode():
        texts = [*TEXTS, "", "unheard"]
        before, after = (
            m(**route.rows(m, t, texts).batch(np.arange(len(texts)))).logits
            for m, t in ((built.model, built.tokenizer), (model, tokenizer))
        )
    assert torch.equal(before, after)
    learns = {name for name, parameter in built.model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learns


def test_a_weight_that_is_missing_is_not_made_up(base: str, tmp_path: Path) -> None:
    built = build(Word2Vec(head_type="linear"), base)
    Word2Vec().save(built.model, built.tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match=r"expected every weight of the model, found no classifier\.bias"):
        Word2Vec().load(tmp_path, built.record, None)


# Settings


WRONG: dict[str, list[Any]] = {
    "num_filters": [0], "max_words": [0], "max_length": [-1], "dimensions": [0], "dropout": [1.0, -0.1],
    "kernel_sizes": [(), (3, 0)], "mlp_sizes": [(), (0,)], "pooling": [(), ("median",)], "head_type": ["rnn"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_settings_that_make_no_sense(name: str, value: Any, base: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name}=.*: expected "):
        Word2Vec(**{name: value}).check()
    with pytest.raises(SettingError):
        build(Word2Vec(**{name: value}), base)


def test_vectors_have_no_revision(base: str) -> None:
    with pytest.raises(SettingError, match=r"revision='main'.*: expected none"):
        Word2Vec().build(train_only(TEXTS, TARGETS), base, "main", 0)
