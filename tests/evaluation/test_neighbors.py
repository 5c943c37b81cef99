"""Neighbors: the most similar row, beside all cosines computed at once."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from nlptransfer.evaluation import Neighbors, neighbors


@pytest.fixture
def features() -> tuple[np.ndarray, np.ndarray]:
    """Rows in float16 with a common direction, half of them close to one of others."""
    draw = np.random.default_rng(0)
    others = draw.standard_normal((400, 500)) + 3
    rows = draw.standard_normal((90, 500)) + 3
    rows[::2] = others[:45] + draw.uniform(0.05, 1.0, (45, 1)) * draw.standard_normal((45, 500))
    return rows.astype(np.float16), others.astype(np.float16)


@pytest.mark.parametrize("tile", [(2048, 8192), (7, 11)])
def test_the_most_similar_of_others_is_found(
    features: tuple[np.ndarray, np.ndarray], tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "TILE", tile)
    monkeypatch.setattr(neighbors, "BLOCK", tile[0])
    rows, others = features
    apart = np.arange(len(rows)), np.arange(len(others)) + len(rows)
    places, cosines = Neighbors.of(others).most_similar(rows, *apart, 0.85)
    mean = others.astype(np.float64).mean(axis=0)
    expected = cosine_similarity(rows - mean, others - mean)
    is_similar = expected.max(axis=1) >= 0.85
    assert 10 < is_similar.sum() < 45
    assert (places >= 0).tolist() == is_similar.tolist() and (cosines[~is_similar] == 0).all()
    assert (places[is_similar] == expected.argmax(axis=1)[is_similar]).all()
    np.testing.assert_allclose(cosines[is_similar], expected.max(axis=1)[is_similar], atol=1e-4)


def test_rows_of_a_group_are_not_compared_nor_any_with_itself(features: tuple[np.ndarray, np.ndarray]) -> None:
    rows, others = features
    both = np.concatenate([others, rows])
    groups = np.arange(len(both))
    # The first close pair is of one group.
    groups[400] = 0
    places, cosines = Neighbors.of(both).most_similar(both, groups, groups, 0.85)
    assert places[400] == places[0] == -1 and (places != np.arange(len(both))).all()
    found = np.flatnonzero(places >= 0)
    assert len(found) > 20 and (places[places[found]] == found).all() and (cosines[found] >= 0.85).all()


def test_no_rows_have_no_neighbors(features: tuple[np.ndarray, np.ndarray]) -> None:
    rows, others = features
    none = np.zeros(0, np.int64)
    places, cosines = Neighbors.of(others).most_similar(rows[:0], none, np.arange(len(others)), 0.85)
    assert len(places) == len(cosines) == 0
    places, _ = Neighbors.of(others[:0]).most_similar(rows, np.arange(len(rows)), none, 0.85)
    assert (places == -1).all()
