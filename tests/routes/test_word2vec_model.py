"""Word2VecForSequenceClassification keeps the contract of transformers, and padding and unknown words weigh nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from nlptransfer.models.ngrams import Ngrams
from nlptransfer.routes.pooled_head import PooledBody, Standardize
from nlptransfer.routes.word2vec_model import CnnBody, Word2VecConfig, Word2VecForSequenceClassification, make_tokenizer
from nlptransfer.vectors.tokenizer import RESERVED

WORDS = ["the", "a", "film", "was", "is", "and", "very", "not", "good", "bad", "great", "dull", "plot", "cast", "music"]
SIZE = len(WORDS) + RESERVED
NAMES = {0: "bad", 1: "good", 2: "mixed"}
HEADS: dict[str, dict[str, Any]] = {
    "cnn": {"head": "cnn"},
    "linear": {"head": "linear"},
    "mlp": {"head": "mlp", "pooling": ("mean", "max")},
}
any_ids = st.integers(0, SIZE - 1)


@pytest.fixture(autouse=True, scope="module")
def _no_bars() -> Any:
    hf_logging.disable_progress_bar()
    yield
    hf_logging.enable_progress_bar()


def make(head: str = "cnn", seed: int = 0, **changes: Any) -> Word2VecForSequenceClassification:
    """A tiny model, whose vector for unknown words is not even zero."""
    small = {"vocab_size": SIZE, "hidden_size": 4, "num_filters": 3, "mlp_sizes": (6, 5), "id2label": NAMES}
    torch.manual_seed(seed)
    model = Word2VecForSequenceClassification(
        Word2VecConfig(**{**small, "label2id": {name: i for i, name in NAMES.items()}, **HEADS[head], **changes})
    )
    if isinstance(model.body, PooledBody):
        width = len(model.body.standardize.mean)
        model.body.standardize.fit(np.random.default_rng(seed).normal(1, 3, (20, width)).astype(np.float32))
    return model.eval()


MODELS = {head: make(head) for head in HEADS}


def logits_of(model: Word2VecForSequenceClassification, *rows: list[int], mask: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return model(torch.tensor(rows, dtype=torch.long), mask).logits


def padded(rows: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


# The convolutions


def plain_cnn(model: Word2VecForSequenceClassification, row: list[int]) -> Tensor:
    """The logits of one text by one convolution a size (Kim 2014), the maximum taken where a known word stands."""
    assert isinstance(model.body, CnnBody)
    vectors = torch.stack([model.vectors.weight[i] if i >= RESERVED else torch.zeros(4) for i in row])
    places = [place for place, i in enumerate(row) if i >= RESERVED]
    maxima = []
    for size, convolution in zip(model.config.kernel_sizes, model.body.convolutions, strict=True):
        around = functional.pad(vectors.T, ((size - 1) // 2, size // 2))
        maps = functional.relu(functional.conv1d(around[None], convolution.weight, convolution.bias))[0]
        assert maps.shape == (3, len(row))
        maxima.append(maps[:, places].amax(dim=1) if places else torch.zeros(3))
    return model.classifier(torch.cat(maxima))


@pytest.mark.parametrize("sizes", [(3, 4, 5), (1,), (2,), (2, 4), (1, 6), (5, 3), (4, 2, 7), (3, 3), (8, 1)], ids=str)
def test_cnn_equals_plain_convolutions(sizes: tuple[int, ...]) -> None:
    model = make("cnn", kernel_sizes=sizes)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(any_ids, min_size=1, max_size=9))
    def check(row: list[int]) -> None:
        with torch.inference_mode():
            torch.testing.assert_close(logits_of(model, row)[0], plain_cnn(model, row), rtol=1e-5, atol=1e-5)

    check()


# Padding, unknown words, empty texts


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*HEADS]), st.lists(st.lists(any_ids, max_size=7), min_size=1, max_size=5), st.integers(0, 3))
def test_a_row_does_not_depend_on_its_batch(head: str, rows: list[list[int]], extra: int) -> None:
    ids, mask = padded(rows, max(1, *map(len, rows)) + extra)
    with torch.inference_mode():
        together = MODELS[head](input_ids=ids, attention_mask=mask).logits
    alone = torch.cat([logits_of(MODELS[head], row or [0]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["linear", "mlp"]), st.lists(st.integers(RESERVED, SIZE - 1), max_size=6), st.data())
def test_pooled_heads_pass_over_unknown_words(head: str, row: list[int], data: st.DataObject) -> None:
    longer = list(row)
    for unknown in data.draw(st.lists(st.sampled_from([0, 1]), max_size=4)):
        longer.insert(data.draw(st.integers(0, len(longer))), unknown)
    expected = logits_of(MODELS[head], row or [0])
    torch.testing.assert_close(logits_of(MODELS[head], longer or [0]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_known_word_all_texts_are_the_empty_one(head: str) -> None:
    empty = logits_of(MODELS[head], [0])
    assert torch.isfinite(empty).all()
    for ids in ([1], [1, 1, 1, 1, 1, 1], [0, 1, 0]):
        torch.testing.assert_close(logits_of(MODELS[head], ids), empty)
    ids = torch.tensor([[0]])
    torch.testing.assert_close(logits_of(MODELS[head], [0], mask=torch.zeros_like(ids)), empty)
    # Tokenizers make rows of no place at all when no text of the batch has a word.
    no_places = torch.zeros((2, 0), dtype=torch.long)
    torch.testing.assert_close(MODELS[head](no_places, no_places).logits, empty.expand(2, -1))


@pytest.mark.parametrize("head", HEADS)
def test_without_a_mask_every_place_counts(head: str) -> None:
    row = [4, 1, 7, 9]
    assert torch.equal(logits_of(MODELS[head], row), logits_of(MODELS[head], row, mask=torch.ones(1, 4)))
    hidden = logits_of(MODELS[head], row, mask=torch.tensor([[1, 1, 0, 1]]))
    torch.testing.assert_close(hidden, logits_of(MODELS[head], [4, 1, 1, 9]))
    with pytest.raises(ValueError, match="input_ids or features"):
        MODELS[head]()


# The contract of transformers' models


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_hidden_states(head: str) -> None:
    model, ids, labels = MODELS[head], torch.tensor([[3, 4], [5, 0]]), torch.tensor([2, 0])
    out = model(input_ids=ids, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(out.loss, torch.nn.CrossEntropyLoss()(out.logits, labels))
    assert len(out.hidden_states) == 1
    torch.testing.assert_close(model.classifier(out.hidden_states[-1]), out.logits)
    plain = model(input_ids=ids, token_type_ids=torch.zeros_like(ids))
    assert plain.loss is None
    assert plain.hidden_states is None
    assert torch.equal(model(ids, return_dict=False)[0], plain.logits)
    assert isinstance(model, PreTrainedModel)
    assert model.get_input_embeddings() is model.vectors


def test_hidden_states_by_config() -> None:
    model = make("mlp", output_hidden_states=True)
    assert model(torch.tensor([[3]])).hidden_states[0].shape == (1, 5)
    assert model(torch.tensor([[3]]), output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("problem_type", ["multi_label_classification", None])
def test_multi_label_loss(problem_type: str | None) -> None:
    model = make("linear", problem_type=problem_type)
    ids, labels = torch.tensor([[3, 4], [5, 6]]), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    out = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.BCEWithLogitsLoss()(out.logits, labels))
    if problem_type:
        assert torch.equal(model(input_ids=ids, labels=labels.long()).loss, out.loss)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("train_vectors", [False, True], ids=["frozen", "trained"])
def test_what_learns(head: str, train_vectors: bool) -> None:
    model = make(head, train_vectors=train_vectors, dropout=0.0).train()
    model.vectors.weight.data[:RESERVED] = 0
    before = model.vectors.weight.detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    ids, mask = padded([[3, 1, 4, 5], [6, 7], [1], [8, 9, 10]], 5)
    for step in range(3):
        optimizer.zero_grad()
        model(ids, mask, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        if step == 0:
            assert [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()] == []
            if train_vectors:
                assert model.vectors.weight.grad.any(dim=1).nonzero().flatten().tolist() == list(range(3, 11))
        optimizer.step()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ([] if train_vectors else ["vectors.weight"])
    assert not model.vectors.weight[:RESERVED].any()
    assert torch.equal(model.vectors.weight, before) != train_vectors


# Standardized features


def test_standardize_constant_features() -> None:
    features = np.random.default_rng(0).normal(2, 3, (1001, 6)).astype(np.float32)
    features[:, 0], features[:, 1], features[:, 2] = 0, 1000.1, -0.1
    features[:, 3] = 1e-5 * features[:, 4]
    standardize = Standardize(6)
    standardize.fit(features)
    out = standardize(torch.from_numpy(features)).numpy()
    assert (standardize.scale[:3] == 1).all()
    np.testing.assert_allclose(out[:, :3], 0, atol=1e-4)
    # However small it is, what differs counts.
    np.testing.assert_allclose(out[:, 3:].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(out[:, 3:].std(axis=0), 1, atol=1e-4)


def test_standardize_a_single_row() -> None:
    standardize = Standardize(2)
    standardize.fit(np.array([[3.0, -4.0]], dtype=np.float32))
    assert standardize(torch.tensor([[3.0, -3.0]])).tolist() == [[0.0, 1.0]]


# Saved and loaded


def save(model: Word2VecForSequenceClassification, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_tokenizer(WORDS, max_length=6).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("train_vectors", [False, True], ids=["frozen", "trained"])
def test_round_trip(head: str, train_vectors: bool, tmp_path: Path) -> None:
    model = make(head, train_vectors=train_vectors, kernel_sizes=(2, 5), dropout=0.3)
    save(model, tmp_path)
    torch.manual_seed(99)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is Word2VecForSequenceClassification
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == learns
    assert learns["vectors.weight"] == train_vectors
    row = [3, 1, 8, 2, 12]
    assert torch.equal(logits_of(loaded, row), logits_of(model, row))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == NAMES
    for name in ("head", "pooling", "mlp_sizes", "kernel_sizes", "num_filters", "dropout", "hidden_size", "vocab_size"):
        assert getattr(config, name) == getattr(model.config, name)


@pytest.mark.parametrize("head", HEADS)
def test_loaded_for_other_labels(head: str, tmp_path: Path) -> None:
    model = make(head)
    save(model, tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name for name, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert loaded.classifier.weight.shape[0] == 5
    assert loaded.classifier.weight.any()
    assert not loaded.vectors.weight.requires_grad
    kept = {name: value for name, value in model.state_dict().items() if "classifier" not in name}
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in kept.items())


PLAIN = """
import json, sys
import nlptransfer.word2vec
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
found = {
    "config": AutoConfig.from_pretrained(folder).model_type,
    "model": type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__,
    "is_fast": tokenizer.is_fast,
    "ids": tokenizer(["A very good film", "unheard"])["input_ids"],
}
classify = pipeline("text-classification", model=folder, top_k=None)
texts = ["The film was great, and the plot very good!", "", "unheard of", "dull"]
found["one by one"] = [classify([text])[0] for text in texts]
found["batched"] = classify(texts, batch_size=4, truncation=True)
print(json.dumps(found))
"""


def test_plain_transformers_needs_one_import(tmp_path: Path) -> None:
    model = make("cnn")
    save(model, tmp_path)
    done = subprocess.run([sys.executable, "-c", PLAIN, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["config"], found["model"]) == ("word2vec", "Word2VecForSequenceClassification")
    assert found["is_fast"] is True
    assert found["ids"] == [[3, 8, 10, 4], [1]]
    sentence = [2, 4, 5, 12, 7, 2, 14, 8, 10]
    for name, most in (("one by one", None), ("batched", 6)):
        rows = [sentence[:most], [0], [1, 1], [WORDS.index("dull") + RESERVED]]
        for row, scores in zip(rows, found[name], strict=True):
            expected = logits_of(model, row).softmax(dim=1)[0].tolist()
            by_label = {entry["label"]: entry["score"] for entry in scores}
            assert by_label == pytest.approx(dict(zip(NAMES.values(), expected, strict=True)), abs=1e-5)


# The tokenizer


def test_tokenizer(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(WORDS, max_length=4)
    tokenizer.save_pretrained(tmp_path)
    for found in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert found.is_fast
        assert found.model_max_length == 4
        batch = found(["Good film!", "the unheard plot was very dull"], padding=True, truncation=True)
        assert batch["input_ids"] == [[10, 4, 0, 0], [2, 1, 14, 5]]
        assert batch["attention_mask"] == [[1, 1, 0, 0], [1, 1, 1, 1]]
        assert set(batch) == {"input_ids", "attention_mask"}
        assert found("[PAD] [UNK]")["input_ids"] == [0, 1]


# N-grams


def with_ngrams(count: int = 5) -> Word2VecForSequenceClassification:
    return make("linear", num_ngrams=count)


def test_ngrams_add_what_their_columns_weigh() -> None:
    model = with_ngrams()
    ids, weights = torch.tensor([[3, 0, 4], [1, 0, 0], [0, 0, 0]]), torch.tensor([[0.5, 2, 1], [3, 0, 0], [0, 0, 0]])
    tokens = torch.tensor([[4, 5, 6], [7, 8, 0], [9, 0, 0]])
    with torch.inference_mode():
        out = model(tokens, output_hidden_states=True, ngram_ids=ids, ngram_weights=weights)
        dense = np.zeros((3, 5), np.float32)
        dense[0, [3, 0, 4]], dense[1, 1] = (0.5, 2, 1), 3
        (hidden,) = out.hidden_states
        weight, bias = model.classifier.weight, model.classifier.bias
        assert weight.shape == (3, 4 + 5) and hidden.shape == (3, 4)
        expected = hidden @ weight[:, :4].t() + bias + torch.from_numpy(dense) @ weight[:, 4:].t()
        torch.testing.assert_close(out.logits, expected)
        # More padding changes nothing.
        padded = [functional.pad(part, (0, 4)) for part in (ids, weights)]
        again = model(tokens, ngram_ids=padded[0], ngram_weights=padded[1]).logits
    torch.testing.assert_close(again, out.logits)


def test_ngrams_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="expected the n-grams of the texts, as nlptransfer's Classifier gives them"):
        logits_of(with_ngrams(), [4, 5])


def test_ngrams_without_a_weight_are_dropped() -> None:
    model, ngrams = with_ngrams(), Ngrams.of(["a good film"], 3)
    assert len(ngrams) == 5
    model.ngrams = ngrams
    model.drop_unused_ngrams()
    assert model.ngrams is ngrams and model.config.num_ngrams == 5
    with torch.no_grad():
        model.classifier.weight[:, 4:] = 0
    weight = model.classifier.weight[:, :4].clone()
    model.drop_unused_ngrams()
    assert model.ngrams is None and model.config.num_ngrams == 0
    assert torch.equal(model.classifier.weight, weight) and model.classifier.in_features == 4
    assert logits_of(model, [4, 5]).shape == (1, 3)
