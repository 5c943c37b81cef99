"""Pooled word vectors against a plain loop and the model's own pooling; keys; what layers below a cut give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from nlptransfer.models import partial
from nlptransfer.models.features import activations, hash_of_modules, pooled_vectors, text_key, to_float16
from nlptransfer.models.pooling import pool
from nlptransfer.models.tokens import TokenRows, encode
from nlptransfer.vectors.tokenizer import RESERVED

MATRIX = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
MATRIX[:RESERVED] = 0
POOLINGS = [("mean",), ("max",), ("mean", "max"), ("max", "mean")]
ids_of_rows = st.lists(st.lists(st.integers(0, len(MATRIX) - 1), max_size=6), max_size=7)


def token_rows(ids: list[list[int]]) -> TokenRows:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)]).astype(np.int64)
    return TokenRows(np.array([i for row in ids for i in row], dtype=np.int32), offsets)


def by_hand(ids: list[int], pooling: tuple[str, ...]) -> np.ndarray:
    known = [MATRIX[i].numpy() for i in ids if i >= RESERVED] or [np.zeros(5, dtype=np.float32)]
    pooled = {"mean": np.mean(known, axis=0), "max": np.max(known, axis=0)}
    return np.concatenate([pooled[kind] for kind in pooling])


@settings(deadline=None)
@given(ids_of_rows, st.sampled_from(POOLINGS))
def test_equals_a_plain_loop(ids: list[list[int]], pooling: tuple[str, ...]) -> None:
    found = pooled_vectors(MATRIX, token_rows(ids), pooling)
    assert found.shape == (len(ids), 5 * len(pooling))
    assert found.dtype == np.float32
    for row, expected in zip(found, (by_hand(row, pooling) for row in ids), strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(ids_of_rows.filter(bool), st.sampled_from(POOLINGS))
def test_equals_the_models_pooling_of_padded_rows(ids: list[list[int]], pooling: tuple[str, ...]) -> None:
    rows = token_rows(ids)
    batch = rows.batch(np.arange(len(rows)))
    known = (batch["input_ids"] >= RESERVED) & batch["attention_mask"].bool()
    in_model = pool(MATRIX[batch["input_ids"]], known, pooling)
    np.testing.assert_allclose(pooled_vectors(MATRIX, rows, pooling), in_model, rtol=1e-6, atol=1e-6)


# Features in float16


def test_float16_has_an_end() -> None:
    found = to_float16(torch.tensor([1e9, -1e9, torch.inf, -torch.inf, 65504.0, 0.5, 1e-12]))
    assert found.tolist() == [65504, -65504, 65504, -65504, 65504, 0.5, 0]
    assert found.dtype == torch.float16
    assert to_float16(torch.tensor([torch.nan])).isnan().all()


@pytest.fixture
def folder(own_cache: Path) -> Path:
    return own_cache / "nlptransfer" / "features"


# Keys


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "long", "plot"]


def tokenizer_of(words: list[str] = VOCABULARY, max_length: int = 12) -> PreTrainedTokenizerFast:
    backend = BertWordPieceTokenizer({word: i for i, word in enumerate(words)})
    return PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, pad_token="[PAD]", model_max_length=max_length)


def test_key_of_texts() -> None:
    config, tokenizer, texts = BertConfig(), tokenizer_of(), ["a good film", "a bad plot"]
    key = text_key(config, tokenizer, texts, "truncate")
    assert text_key(BertConfig(), tokenizer_of(), tuple(texts), "truncate") == key
    moved = BertConfig()
    moved._name_or_path = "/home/me/model"
    assert text_key(moved, tokenizer, texts, "truncate") == key
    left, typed, padded = tokenizer_of(), tokenizer_of(), tokenizer_of()
    left.padding_side, padded.pad_token = "left", "[UNK]"
    typed.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    others = [
        text_key(BertConfig(layer_norm_eps=1e-3), tokenizer, texts, "truncate"),
        text_key(config, tokenizer, texts, "windows"),
    ]
    for changed in (tokenizer_of([*VOCABULARY, "more"]), tokenizer_of(max_length=11), left, typed, padded):
        others.append(text_key(config, changed, texts, "truncate"))
    for other in (texts[::-1], ["a good film", "a bad Plot"], ["".join(texts)], ["a good film10 a bad plot"]):
        others.append(text_key(config, tokenizer, other, "truncate"))
    for number, other in enumerate(others):
        assert other != key and other not in others[:number]


def test_hash_of_weights() -> None:
    layer, norm = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)  # a norm's count has no dimensions
    first = hash_of_modules([layer, norm])
    assert hash_of_modules([layer, norm]) == first
    assert hash_of_modules([torch.nn.Linear(3, 2).bfloat16(), norm]) != first
    norm.num_batches_tracked += 1
    second = hash_of_modules([layer, norm])
    with torch.no_grad():
        layer.bias[0] += 1e-6
    assert len({first, second, hash_of_modules([layer, norm])}) == 3


# Activations


TEXTS = ["a good film", "bad", "", "a long long plot a bad bad film", "good plot"]


def tiny_bert(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=len(VOCABULARY), **sizes))


@pytest.mark.parametrize("cut", [1, 2])
def test_activations_are_those_of_each_text_alone(folder: Path, cut: int) -> None:
    model, tokenizer = tiny_bert().train(), tokenizer_of()
    tokens = encode(TEXTS, tokenizer, 12)
    found = activations(model, tokenizer, TEXTS, tokens, cut)
    assert found.shape == (len(tokens.ids), 8) and found.dtype == np.float16
    assert model.training
    model.eval()
    for row in range(len(TEXTS)):
        with torch.no_grad():
            states = model.bert(**tokens.batch(np.array([row])), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[tokens.offsets[row] : tokens.offsets[row + 1]], states[cut][0], atol=2e-3)


def test_activations_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_bert(), tokenizer_of()
    tokens = encode(TEXTS, tokenizer, 12)
    found = activations(model, tokenizer, TEXTS, tokens, 1)
    # What is above the cut may learn.
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.zero_()
        model.classifier.weight.zero_()
    with monkeypatch.context() as patched:
        patched.setattr(partial, "activations_below", None)
        np.testing.assert_array_equal(activations(model, tokenizer, TEXTS, tokens, 1), found)
    assert len([*folder.iterdir()]) == 1
    assert not np.array_equal(activations(model, tokenizer, TEXTS, tokens, 2), found)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.zero_()
    assert not np.array_equal(activations(model, tokenizer, TEXTS, tokens, 1), found)
    assert activations(model, tokenizer, [], encode([], tokenizer, 12), 1).shape == (0, 8)
