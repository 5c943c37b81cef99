"""Pooled word vectors against a plain loop and against the model's own pooling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer import features
from nlptransfer.batching import TokenRows
from nlptransfer.features import pooled_vectors
from nlptransfer.word2vec import RESERVED, pool

MATRIX = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
MATRIX[:RESERVED] = 0
POOLINGS = [("mean",), ("max",), ("mean", "max"), ("max", "mean")]
ids_of_rows = st.lists(st.lists(st.integers(0, len(MATRIX) - 1), max_size=6), max_size=7)


def token_rows(ids: list[list[int]]) -> TokenRows:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)]).astype(np.int64)
    return TokenRows(np.array([i for row in ids for i in row], dtype=np.int32), offsets)


def by_hand(ids: list[int], pooling: tuple[str, ...]) -> np.ndarray:
    known = [MATRIX[i].numpy() for i in ids if i >= RESERVED] or [np.zeros(5, dtype=np.float32)]
    ways = {"mean": np.mean(known, axis=0), "max": np.max(known, axis=0)}
    return np.concatenate([ways[way] for way in pooling])


@settings(deadline=None)
@given(ids_of_rows, st.sampled_from(POOLINGS))
def test_equals_a_plain_loop(ids: list[list[int]], pooling: tuple[str, ...]) -> None:
    found = pooled_vectors(MATRIX, token_rows(ids), pooling).features
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
    np.testing.assert_allclose(pooled_vectors(MATRIX, rows, pooling).features, in_model, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rows_without_a_known_word_are_zero(pooling: tuple[str, ...]) -> None:
    found = pooled_vectors(MATRIX, token_rows([[], [0], [1, 0, 1], [2], []]), pooling).features
    assert not found[[0, 1, 2, 4]].any()
    np.testing.assert_array_equal(found[3], np.concatenate([MATRIX[2]] * len(pooling)))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_chunks_change_nothing(pooling: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = token_rows([[], [2, 3], [1], [4, 1, 5], [], [6], [7, 8, 2], []])
    whole = pooled_vectors(MATRIX, rows, pooling).features
    monkeypatch.setattr(features, "CHUNK", 3)
    np.testing.assert_array_equal(pooled_vectors(MATRIX, rows, pooling).features, whole)


def test_takes_the_models_own_parameter() -> None:
    rows = token_rows([[2, 3], [4]])
    expected = pooled_vectors(MATRIX, rows, ("mean",)).features
    learning = torch.nn.Parameter(MATRIX.clone())
    np.testing.assert_array_equal(pooled_vectors(learning, rows, ("mean",)).features, expected)
    half = pooled_vectors(MATRIX.bfloat16(), rows, ("mean",)).features
    np.testing.assert_allclose(half, expected, atol=0.02)
