"""Which labels are separated: beside scikit-learn and scipy, and by labels that were made out of one."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from nlptransfer.evaluation import separability


def test_separation_is_the_area_under_the_roc_curve_and_p_values_are_mann_and_whitneys() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    scores = rng.normal(size=(200, 3)).round(1)
    scores[np.arange(200), y] += 0.3
    found = separability(scores, y)
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    raw = []
    for (one, other), separation, rows in zip(found.pairs, found.separation, found.rows, strict=True):
        of_pair = np.isin(y, [one, other])
        difference = scores[:, one] - scores[:, other]
        assert separation == pytest.approx(roc_auc_score(y[of_pair] == one, difference[of_pair]))
        assert rows.tolist() == [(y == one).sum(), (y == other).sum()]
        sides = difference[y == one], difference[y == other]
        raw.append(stats.mannwhitneyu(*sides, alternative="greater", method="asymptotic", use_continuity=False).pvalue)
    by_hand = np.maximum.accumulate(np.sort(raw) * [3, 2, 1]).clip(max=1)
    # Ties, which scipy allows for, matter little.
    assert np.sort(found.p_values) == pytest.approx(by_hand, rel=0.05)


def test_one_label_with_two_names_is_found_among_many_in_little_time() -> None:
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(150), 100)
    meaning = np.where(y == 149, 3, y)
    scores = rng.normal(size=(len(y), 150), scale=0.3) + 3 * (meaning[:, None] == np.arange(150))
    scores[:, 149] = scores[:, 3] + rng.normal(size=len(y), scale=0.3)
    started = time.process_time()
    found = separability(scores, y)
    assert time.process_time() - started < 10
    assert len(found.pairs) == 11_175 and found.pairs[found.overlapping].tolist() == [[3, 149]]


def test_few_rows_are_no_evidence() -> None:
    """A pair is tested from the rows on with which 9 of 10 tests notice a separation of .75."""
    rng = np.random.default_rng(2)
    scores, y = rng.normal(size=(200, 2)), np.repeat([0, 1], 100)
    assert len(separability(scores[80:120], y[80:120]).pairs) == 0
    rows = next(
        rows
        for rows in range(2, 100)
        if len(separability(scores[100 - rows : 100 + rows], y[100 - rows : 100 + rows]).pairs)
    )
    # A normal score whose separation is .75.
    shift = np.sqrt(2) * stats.norm.ppf(0.75)
    noticed = 0
    for _ in range(400):
        difference = rng.normal(size=2 * rows) + shift * (np.arange(2 * rows) < rows)
        both = np.column_stack([difference, np.zeros(2 * rows)])
        noticed += not separability(both, np.repeat([0, 1], rows)).overlapping.any()
    assert noticed / 400 == pytest.approx(0.9, abs=0.04)


def test_of_several_labels_rows_with_both_say_nothing() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random((400, 3)) < 0.4).astype(np.float32)
    scores = rng.normal(size=(400, 3)) + 3 * y
    found = separability(scores, y)
    assert [*found.rows[0]] == [((y[:, 0] > y[:, 1]).sum()), (y[:, 1] > y[:, 0]).sum()]
    assert not found.overlapping.any()
    scores[:, 1] = scores[:, 0]
    assert separability(scores, y).pairs[separability(scores, y).overlapping].tolist() == [[0, 1]]
