"""Word vectors that are trained further on texts: known words move, new ones come in, others stay."""

import random
from typing import Any

import numpy as np
import pytest

from nlptransfer.errors import VectorsError
from nlptransfer.vectors.store import save_vectors
from nlptransfer.vectors.training import continued_vectors

KINDS = [[f"{name}{letter}" for letter in "abcdefgh"] for name in ("left", "right")]


def spoken(count: int, seed: int) -> list[str]:
    """Texts of two kinds of words; ``novelty`` is among those of the one kind, of which half are known."""
    draw, kinds = random.Random(seed), [[*KINDS[0], "novelty"], KINDS[1]]
    return [" ".join(draw.choices(kinds[row % 2], k=12)) for row in range(count)]


@pytest.fixture
def loose(tmp_path):
    """Vectors of words that lie anywhere, and one that no text has."""
    words = [*KINDS[0], *KINDS[1], "elsewhere"]
    return save_vectors(tmp_path / "loose", words, np.random.default_rng(0).normal(size=(17, 12)), source="loose.txt")


def apart(vectors: Any) -> float:
    """Mean cosine of words of one kind, less that of words of both."""
    rows = [vectors.matrix[vectors.rows(kind)] for kind in KINDS]
    one, other = (own / np.linalg.norm(own, axis=1, keepdims=True) for own in rows)
    return float((one @ one.T).mean() - (one @ other.T).mean())


def test_words_that_are_used_alike_come_together_and_new_ones_come_in(loose, monkeypatch, tmp_path):
    texts = [*spoken(200, 0), "once twice twice"]
    found = continued_vectors(loose, texts, epochs=5, seed=1)
    assert apart(found) > apart(loose) + 0.1
    assert found.words() == [*loose.words(), "novelty"]
    assert "left" in found.nearest("novelty", 3)[0][0]
    (row,) = found.rows(["elsewhere"])
    assert np.array_equal(found.matrix[row], loose.matrix[loose.rows(["elsewhere"])[0]])
    assert (found.source, found.dimensions) == ("loose.txt continued", 12)
    # Made anew with the same seed they are the same; with another they are not.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "anew"))
    again, other = (continued_vectors(loose, texts, epochs=5, seed=seed) for seed in (1, 2))
    assert again.folder != found.folder and np.array_equal(again.matrix, found.matrix)
    assert not np.array_equal(other.matrix, found.matrix)


def test_texts_without_a_word_to_learn_are_refused(loose):
    with pytest.raises(VectorsError, match="expected words of the texts that have a vector, or come often enough"):
        continued_vectors(loose, ["once", "twice"])
