"""Texts that were learned from are found again, copies of them too; of many a sample says how many."""

import numpy as np
import pytest

from nlptransfer.results import learned, learned_hashes, read_learned, share_learned, write_learned


def test_what_was_learned_is_found(tmp_path):
    hashes = learned_hashes(["A fine film.", "a dull film", "a dull film"])
    write_learned(tmp_path, hashes)
    assert len(hashes) == 2 and np.array_equal(read_learned(tmp_path), hashes)
    assert np.array_equal(read_learned(tmp_path / "model"), hashes) and read_learned(tmp_path / "a" / "b") is None
    assert share_learned(hashes, ["a FINE film", "new", "a dull film", "other"]) == 0.5
    assert share_learned(hashes, []) == share_learned(learned_hashes([]), ["new"]) == 0


def test_of_many_texts_the_share_is_estimated(monkeypatch):
    monkeypatch.setattr(learned, "MOST", 2000)
    hashes = learned_hashes(f"text {number}" for number in range(20_000))
    assert len(hashes) == 2000
    texts = [f"text {number}" for number in range(15_000, 25_000)]
    assert share_learned(hashes, texts) == pytest.approx(0.5, abs=0.05)
