"""Similarities against closed forms: HSIC by its centering matrix, the best error between two normals, known odds."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nlptransfer.errors import DataError
from nlptransfer.transfer import domain_shift
from nlptransfer.transfer.domain_shift import importance_weights, linear_cka, proxy_a_distance


def hsic(kernel: np.ndarray, other: np.ndarray) -> float:
    center = np.eye(len(kernel)) - 1 / len(kernel)
    return float(np.trace(kernel @ center @ other @ center))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 30), first=st.integers(1, 40), second=st.integers(1, 40))
def test_cka_is_hsic_normalized(seed: int, rows: int, first: int, second: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(3, 1, (rows, first))
    y = draw.normal(size=(rows, second)) + x[:, :1]
    # Centered before the product as well: two rows that nearly agree would lose their difference in it.
    center = np.eye(rows) - 1 / rows
    kernel, other = (center @ x) @ (center @ x).T, (center @ y) @ (center @ y).T
    expected = hsic(kernel, other) / np.sqrt(hsic(kernel, kernel) * hsic(other, other))
    found = linear_cka(x, y)
    assert found == pytest.approx(expected, abs=1e-7)
    assert 0 <= found <= 1
    assert linear_cka(y, x) == pytest.approx(found)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(5, 30), scale=st.floats(1e-6, 1e6))
def test_cka_does_not_see_rotation_shift_and_scale(seed: int, rows: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(rows, 8)), draw.normal(size=(rows, 3))
    rotated = scale * (x @ stats.ortho_group(8, seed=draw).rvs() + draw.normal(size=8))
    assert linear_cka(rotated, y) == pytest.approx(linear_cka(x, y), abs=1e-6)
    assert linear_cka(rotated, x) == pytest.approx(1)


@pytest.mark.parametrize("width", [4, 400])
def test_constant_features_are_like_nothing(width: int) -> None:
    features = np.random.default_rng(0).normal(size=(30, width))
    # .7 less the mean of thirty .7 is not 0: a rounding error must not count as a feature.
    constant = np.tile(np.linspace(0.7, 0.9, width), (30, 1))
    assert linear_cka(constant, features) == linear_cka(features, constant) == linear_cka(constant, constant) == 0
    assert linear_cka(np.hstack([features, constant]), features) == pytest.approx(1)


def test_cka_keeps_its_numbers_at_any_scale() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    assert linear_cka(1e-150 * features, 1e150 * features) == pytest.approx(1)


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rows", [(2000, 2000), (4000, 400)], ids=str)
def test_distance_of_two_normals_is_that_of_the_best_classifier(gap: float, rows: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    source, target = draw.normal(size=(rows[0], 3)), draw.normal([gap, 0, 0], 1, (rows[1], 3))
    assert proxy_a_distance(source, target) == pytest.approx(2 * (1 - 2 * stats.norm.cdf(-gap / 2)), abs=0.1)


def test_distance_has_its_ends() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(300, 5))
    assert proxy_a_distance(features, features + np.array([9, 0, 0, 0, 0])) == 2
    assert proxy_a_distance(features, draw.normal(size=(500, 5))) < 0.2
    assert proxy_a_distance(np.ones((20, 3)), np.ones((30, 3))) == 0


def test_distance_does_not_see_constant_columns_and_scale() -> None:
    draw = np.random.default_rng(1)
    source, target = draw.normal(size=(200, 4)), draw.normal(size=(150, 4)) + 0.5
    plain = proxy_a_distance(source, target)
    assert 0 < plain < 2
    wider = [np.hstack([1000 * side, np.full((len(side), 2), 0.1)]) for side in (source, target)]
    assert proxy_a_distance(*wider) == pytest.approx(plain)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), source=st.integers(2, 12), target=st.integers(2, 12), width=st.integers(1, 20))
def test_distance_of_few_rows_is_in_range_and_repeatable(seed: int, source: int, target: int, width: int) -> None:
    draw = np.random.default_rng(seed)
    sides = draw.normal(size=(source, width)), draw.normal(size=(target, width))
    found = proxy_a_distance(*sides, seed=seed)
    assert 0 <= found <= 2
    assert proxy_a_distance(*sides, seed=seed) == found


def drawn_words(rows: int, shares: tuple[float, ...], seed: int) -> list[str]:
    return random.Random(seed).choices(["cat", "dog", "fox"], shares, k=rows)


@pytest.mark.parametrize("rows", [(4000, 4000), (4000, 1000), (1000, 4000)], ids=str)
def test_importance_weights_are_the_ratio_of_the_densities(rows: tuple[int, int]) -> None:
    of_source, of_target = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
    source, target = drawn_words(rows[0], of_source, 0), drawn_words(rows[1], of_target, 1)
    weights = importance_weights(source, target)
    for word, before, after in zip(("cat", "dog", "fox"), of_source, of_target, strict=True):
        assert weights[[text == word for text in source]].mean() == pytest.approx(after / before, rel=0.15)
        # What weights are for: the source's mean becomes the target's.
        assert (weights * [text == word for text in source]).mean() == pytest.approx(after, abs=0.04)


ROOMS = ["房间很干净", "早餐一般", "前台服务热情", "酒店的空调太吵", "下次还住这家酒店"]
BOOKS = ["这本书很好", "内容空洞", "作者的文笔不错", "纸张很差", "故事感人"]
FILMS = ["a dull film", "a weak plot", "the actors carry it", "I liked the ending", "too long a movie"]
GADGETS = ["the battery died", "a fast charger", "the cable is weak", "I liked the screen", "too loud a fan"]


def written(phrases: list[str], rows: int, seed: int) -> list[str]:
    """Texts of two phrases each, joined without a space."""
    draw = random.Random(seed)
    return ["，".join(draw.sample(phrases, 2)) for _ in range(rows)]


@pytest.mark.parametrize("target_rows", [1, 3, 60])
@pytest.mark.parametrize(
    ("alike", "unlike"),
    [(ROOMS, BOOKS), (BOOKS, ROOMS), (FILMS, GADGETS), (GADGETS, FILMS)],
    ids=["rooms", "books", "films", "gadgets"],
)
def test_texts_like_the_targets_weigh_more(alike: list[str], unlike: list[str], target_rows: int) -> None:
    weights = importance_weights([*written(alike, 40, 0), *written(unlike, 40, 1)], written(alike, target_rows, 2))
    like, others = weights[:40], weights[40:]
    assert like.mean() > 1.2 * others.mean()
    if target_rows == 60:
        assert like.min() > others.max()


@settings(max_examples=25, deadline=None)
@given(
    source=st.lists(st.sampled_from([*ROOMS, *FILMS, *GADGETS]), min_size=1, max_size=12),
    target=st.lists(st.sampled_from([*BOOKS, *FILMS]), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_importance_weights_are_repeatable_and_have_mean_one(source: list[str], target: list[str], seed: int) -> None:
    weights = importance_weights(source, target, seed)
    assert weights.shape == (len(source),)
    assert weights.dtype == np.float64
    assert weights.mean() == pytest.approx(1)
    assert 0 < weights.min() <= weights.max() <= 400 * weights.min()
    assert (importance_weights(source, target, seed) == weights).all()


def test_importance_weights_are_clipped() -> None:
    rows = random.Random(0)
    source = [rows.choice(["red", "green", "blue"]) for _ in range(990)] + ["north"] * 10
    weights = importance_weights(source, ["north"] * 1000)
    assert weights[-1] / weights[0] == pytest.approx(400)


def test_a_source_text_is_judged_without_itself() -> None:
    # A classifier that had seen a text of its own words would know it for the source's.
    source = ["common"] * 20 + [f"mine{number}" for number in range(20)]
    weights = importance_weights(source, ["common"] * 20 + [f"yours{number}" for number in range(20)])
    assert weights[20:].mean() == pytest.approx(weights[:20].mean(), rel=0.1)


def test_texts_without_words_get_a_weight_too() -> None:
    assert np.isfinite(importance_weights([*FILMS, "", "!!!"], GADGETS)).all()
    assert importance_weights(FILMS[:1], GADGETS).tolist() == [1.0]


@pytest.mark.parametrize(
    ("measure", "first", "second", "message"),
    [
        (linear_cka, np.ones((3, 2)), np.ones((4, 2)), "found 3 and 4 rows; give both models the same texts"),
        (linear_cka, np.ones((1, 2)), np.ones((1, 2)), r"first: .* at least 2 rows, found \(1, 2\)"),
        (linear_cka, np.ones((3, 2)), np.ones(3), r"second: expected .* \(rows, width\).*found \(3,\)"),
        (linear_cka, np.ones((3, 0)), np.ones((3, 2)), r"first: .*found \(3, 0\)"),
        (linear_cka, np.ones((2, 2)), [[0, 1], [2, np.nan]], "second: .* finite numbers, found nan in row 1, column 1"),
        (proxy_a_distance, np.ones((5, 2)), np.ones((5, 3)), "one width on both sides, found 2 and 3; compute both"),
        (proxy_a_distance, np.ones((5, 2)), np.ones((1, 2)), r"target: .* at least 2 rows, found \(1, 2\)"),
        (proxy_a_distance, [[np.inf, 1], [1, 1]], np.ones((5, 2)), "source: .*, found inf in row 0, column 0"),
        (importance_weights, [], FILMS, "expected texts on both sides, found 0 of the source and 5 of the target"),
        (importance_weights, FILMS, [], "found 5 of the source and 0 of the target"),
        (importance_weights, ["", "!"], ["?"], "expected words in at least one text, found none"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, first, second, message) -> None:
    with pytest.raises(DataError, match=message):
        measure(first, second)


def test_importance_weights_are_computed_once(monkeypatch, own_cache):
    first = domain_shift.cached_importance_weights(FILMS, GADGETS, 1)
    np.testing.assert_array_equal(first, importance_weights(FILMS, GADGETS, 1))
    computed = []
    own = lambda *asked: computed.append(asked) or np.ones(len(asked[0]))  # noqa: E731
    monkeypatch.setattr(domain_shift, "importance_weights", own)
    np.testing.assert_array_equal(domain_shift.cached_importance_weights(FILMS, GADGETS, 1), first)
    assert not computed
    # Of other texts, the other way round, or with another seed they are others.
    for asked in ((FILMS, GADGETS, 2), (GADGETS, FILMS, 1), ([*FILMS[1:], FILMS[0]], GADGETS, 1)):
        domain_shift.cached_importance_weights(*asked)
        assert computed[-1] == asked


def test_distances_of_frozen_features_are_computed_once(monkeypatch, own_cache):
    draw = np.random.default_rng(0)
    source, target = draw.normal(size=(40, 3)).astype(np.float32), draw.normal(1, 1, (30, 3)).astype(np.float32)
    first = domain_shift.cached_proxy_a_distance(source, target)
    assert first == proxy_a_distance(source, target)
    monkeypatch.setattr(domain_shift, "proxy_a_distance", lambda *_: 0.5)
    assert domain_shift.cached_proxy_a_distance(source.copy(), target) == first
    assert (
        domain_shift.cached_proxy_a_distance(source[1:], target)
        == domain_shift.cached_proxy_a_distance(source.T, target.T)
        == 0.5
    )
