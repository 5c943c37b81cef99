"""Augmentation: rows first, copies that say where they come from, the nearest neighbors, and no surprise."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer.data.dataset import Split
from nlptransfer.errors import SettingError
from nlptransfer.training.augmentation import Augment, augment, nearest_rows, word_finder
from nlptransfer.vectors.store import WordVectors, save_vectors

WORDS = ["good", "great", "bad", "poor", "film", "movie", "plot", "story", "actor", "role"]
ONLY = {"augment_synonyms": 0.0, "augment_swaps": 0.0, "augment_deletions": 0.0}


def vectors_of(folder: Path, words: list[str], matrix: Any) -> WordVectors:
    found = save_vectors(folder, words, np.asarray(matrix, dtype=np.float32))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> WordVectors:
    """Five pairs of words that lie close together: good and great, bad and poor, ..."""
    matrix = np.repeat(np.eye(5), 2, axis=0) + np.tile([[0.0] * 5, [0.1] * 5], (5, 1))
    return vectors_of(tmp_path_factory.mktemp("vectors") / "v", WORDS, matrix)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory) -> WordVectors:
    words = ["电影", "影片", "很", "好看", "精彩", "我", "喜欢", "演员"]
    matrix = np.eye(8)
    matrix[1] += matrix[0]
    matrix[4] += matrix[3]
    return vectors_of(tmp_path_factory.mktemp("vectors") / "v", words, matrix)


def split_of(*texts: str) -> Split:
    return Split(list(texts), np.arange(len(texts)))


def copies_of(text: str, vectors: WordVectors | None, seed: int = 0, **values: Any) -> list[str]:
    return augment(split_of(text), Augment(**{"augment_copies": 20, **ONLY, **values}), seed, vectors).texts[1:]


def words_in(text: str) -> list[str]:
    return [text[a:b] for a, b in word_finder(None)(text)]


# What holds for every split

KNOWN = st.sampled_from([*WORDS, "Good", "FILM", "very", ",", "(", ")", "。", "很", "好看"])
SPLITS = st.lists(st.text(max_size=30) | st.lists(KNOWN, max_size=12).map(" ".join), min_size=1, max_size=8)
SHARE = st.sampled_from([0.0, 0.3, 1.0])
LEAST = st.sampled_from([-1.0, 0.5, 0.9])
SETTINGS = st.builds(Augment, st.integers(0, 3), SHARE, SHARE, SHARE, st.integers(1, 4), LEAST)


@settings(max_examples=60, deadline=None)
@given(SPLITS, SETTINGS, st.integers(-1, 3), st.booleans())
def test_rows_come_first_and_copies_follow_their_targets(vectors, texts, asked, seed, multi_label):
    targets = np.eye(len(texts), dtype=np.float32) if multi_label else np.arange(len(texts))
    split = Split(texts, targets)
    found = augment(split, asked, seed, vectors)
    assert found.take(range(len(split))).fingerprint() == split.fingerprint()
    copies, rows = found.texts[len(texts) :], found.targets[len(texts) :]
    assert found.targets.dtype == targets.dtype
    rows = (rows.argmax(axis=1) if multi_label else rows).tolist()
    assert rows == sorted(rows)
    assert max(Counter(rows).values(), default=0) <= asked.augment_copies
    assert len(set(copies)) == len(copies) and not set(copies) & set(texts)
    assert augment(split, asked, seed, vectors).fingerprint() == found.fingerprint()
    for copy, row in zip(copies, rows, strict=True):
        assert copy and not copy.isspace() and words_in(texts[row])
        assert len(words_in(copy)) <= len(words_in(texts[row]))


def test_copies_are_the_same_on_every_machine(vectors):
    text = "A good film, they say: the plot is fine and no actor is bad."
    found = augment(split_of(text, "Great movie!"), Augment(2, 0.3, 0.2, 0.1), 0, vectors)
    assert found.texts[2:] == [
        "A great movie, story say: the they is and no is poor.",
        "A great movie, they say: and story is actor the no fine is.",
        "Good movie!",
        "movie Good!",
    ]
    assert found.targets.tolist() == [0, 1, 0, 0, 1, 1]
    assert augment(split_of(text), Augment(2, 0.3, 0.2, 0.1), 1, vectors).texts[1:] != found.texts[2:4]


def test_without_copies_or_shares_the_rows_stay_alone(vectors):
    split = split_of("a good film", "a bad film")
    assert augment(split, Augment(), 0, vectors) is split
    assert augment(split, Augment(3, **ONLY), 0, None) is split
    assert augment(Split([], np.zeros((0, 3), dtype=np.float32)), Augment(3), 0, vectors).targets.shape == (0, 3)


def test_copies_that_are_equal_to_a_text_are_left_out(vectors):
    # All that can be made of these is "b" and "a", and "a" is there already.
    found = augment(split_of("a b", "a"), Augment(5, 0, 0, 0.5), 0, None)
    assert found.texts == ["a b", "a", "b"] and found.targets.tolist() == [0, 1, 0]
    assert augment(split_of("a b", "b a"), Augment(5, 0, 1.0, 0), 0, None).texts == ["a b", "b a"]
    # Each of two equal rows has copies, and all differ.
    found = augment(split_of(*["good film bad plot"] * 2), Augment(2, 0, 0.5, 0.5), 0, None)
    assert Counter(found.targets.tolist()) == {0: 3, 1: 3} and len(set(found.texts)) == 5


@pytest.mark.parametrize("text", ["", " \n", "!!! ... 😀", "___"])
def test_a_text_without_words_has_no_copies(vectors, text):
    assert augment(split_of(text), Augment(3, 1, 1, 1), 0, vectors).texts == [text]


# What is altered


@pytest.mark.parametrize(("share", "length"), [(0.1, 10), (0.3, 10), (0.1, 100)])
@pytest.mark.parametrize("name", list(ONLY))
def test_so_many_words_are_altered(vectors, name, share, length):
    draw = random.Random(0)
    texts = [" ".join(f"{draw.choice(WORDS)}" for _ in range(length)) for _ in range(300)]
    found = augment(split_of(*texts), Augment(1, **ONLY | {name: share}), 0, vectors)
    altered = []
    for row, copy in zip(found.targets[300:].tolist(), found.texts[300:], strict=True):
        before, after = texts[row].split(" "), copy.split(" ")
        if name == "augment_deletions":
            altered.append(len(before) - len(after))
        else:
            altered.append(sum(a != b for a, b in zip(before, after, strict=True)))
        if name == "augment_swaps":
            assert Counter(before) == Counter(after)
    # Texts of which nothing is altered at first are drawn again, and a word may change places with its like.
    expected = share * length
    assert 0.8 * expected <= np.mean(altered) <= max(1.2 * expected, 2.2)
    assert max(altered) <= int(expected) + 2


def test_words_become_their_neighbors_in_the_same_case(vectors):
    pairs = dict(zip(WORDS[::2], WORDS[1::2], strict=True))
    pairs |= {b: a for a, b in pairs.items()}
    (found,) = copies_of("Good FILM, isn't it? (bad  plot)\nRole!", vectors, augment_copies=1, augment_synonyms=1.0)
    assert found == "Great MOVIE, isn't it? (poor  story)\nActor!"
    for copy in copies_of("good film bad plot", vectors, augment_synonyms=0.25):
        before, after = ["good", "film", "bad", "plot"], copy.split()
        assert all(b in (a, pairs[a]) for a, b in zip(before, after, strict=True)) and before != after


def test_words_without_a_near_neighbor_stay(vectors):
    assert copies_of("good film", vectors, augment_synonyms=1.0, augment_similarity=0.999) == []
    assert copies_of("unheard of", vectors, augment_synonyms=1.0) == []
    assert len(copies_of("good film", vectors, augment_synonyms=1.0, augment_similarity=0.9)) == 1
    more = copies_of("good film", vectors, augment_synonyms=1.0, augment_similarity=-1, augment_neighbors=9)
    assert len(more) == 20


def test_neighbors_that_say_the_same_or_are_no_words_are_passed_over(tmp_path):
    words = ["good", "Good", ",", "##ood", "very_good", "5", "Fine"]
    found = vectors_of(tmp_path / "v", words, np.ones((7, 3)) + 0.01 * np.eye(7, 3))
    assert copies_of("good stuff", found, augment_synonyms=1.0, augment_neighbors=6) == ["fine stuff"]
    assert copies_of("Good stuff", found, augment_synonyms=1.0, augment_neighbors=6) == ["Fine stuff"]


def test_negations_neither_come_nor_go(tmp_path):
    words = ["will", "won't", "not", "never", "can"]
    near = vectors_of(tmp_path / "v", words, np.ones((5, 3)) + 0.01 * np.eye(5, 3))
    copies = copies_of("It will NOT be, and nobody can't say", near, augment_synonyms=1.0, augment_deletions=0.5)
    assert len(copies) == 5
    for copy in copies:
        assert [word for word in words_in(copy) if word in ("NOT", "nobody", "can't")] == ["NOT", "nobody", "can't"]
        assert not {"won't", "not", "never"} & set(words_in(copy))
    assert copies_of("Never not", near, augment_synonyms=1.0, augment_deletions=1.0) == []


def test_swapped_words_leave_punctuation_where_it_is():
    text = "One, two (three) four!\n"
    copies = copies_of(text, None, augment_swaps=0.5)
    assert len(copies) == 6
    for copy in copies:
        assert sorted(words_in(copy)) == sorted(words_in(text))
        assert re.sub(r"\w+", "x", copy) == "x, x (x) x!\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("one two", {"one", "two"}),
        ("one (two) three.", {"(two) three.", "one () three.", "one (two)."}),
        ("“one two”, he said", {"“two”, he said", "“one”, he said", "“one two”, said", "“one two”, he"}),
        ("one, well-made two", {", well-made two", "one, -made two", "one, well- two", "one, well-made"}),
        ("one! two ", {"! two ", "one! "}),
        ("很好 看", {"好 看", "很 看", "很好"}),
        ("one", set()),
    ],
)
def test_words_that_are_left_out_leave_no_hole(text, left):
    assert set(copies_of(text, None, augment_deletions=1 / len(words_in(text)))) == left


def test_one_word_stays_at_least():
    assert set(copies_of("one two three", None, augment_deletions=1.0)) == {"one", "two", "three"}


# Words


def test_what_a_word_is(chinese):
    text = "Isn't O’Neil's 2.5 well-made? e\u0301te\u0301 नमस्ते a_b 😀 'so' Σίσυφος"
    expected = ["Isn't", "O’Neil's", "2.5", "well", "made", "e\u0301te\u0301", "नमस्ते", "a", "b", "so", "Σίσυφος"]
    assert words_in(text) == expected
    assert [text[a:b] for a, b in word_finder(chinese)(text)] == expected


def test_scripts_without_spaces_are_cut_by_the_vocabulary_or_by_characters(vectors, chinese):
    text = "我喜欢电影，good演员 2.5"
    assert [text[a:b] for a, b in word_finder(chinese)(text)] == ["我", "喜欢", "电影", "good", "演员", "2.5"]
    for other in (None, vectors):
        assert "|".join(text[a:b] for a, b in word_finder(other)(text)) == "我|喜|欢|电|影|good|演|员|2.5"
    assert words_in("ที่นี่ カード") == ["ที่", "นี่", "カ", "ー", "ド"]


def test_chinese_words_become_their_neighbors(chinese):
    assert copies_of("我喜欢电影，很好看。", chinese, augment_synonyms=1.0) == ["我喜欢影片，很精彩。"]
    for copy in copies_of("我喜欢电影", chinese, augment_swaps=0.7):
        assert sorted(copy[a:b] for a, b in word_finder(chinese)(copy)) == sorted(["我", "喜欢", "电影"])


# Neighbors


@pytest.mark.parametrize(("rows", "count", "least"), [(300, 5, 0.2), (5000, 5, 0.4), (5000, 40, -1.0), (3, 5, -1.0)])
def test_neighbors_are_the_nearest(tmp_path, rows, count, least, monkeypatch):
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(rows, 12)).astype(np.float32) * draw.uniform(0.1, 9, (rows, 1)).astype(np.float32)
    matrix[rows // 2] = 0
    matrix[-1] = 2 * matrix[0]
    vectors = vectors_of(tmp_path / "v", [f"w{row}" for row in range(rows)], matrix)
    asked = np.unique(draw.integers(0, rows, 60))
    # Many small products find what one finds.
    monkeypatch.setattr("nlptransfer.training.augmentation._CELLS", 7 * rows)
    found = nearest_rows(vectors.matrix, asked, count, least)
    exact = matrix.astype(np.float64)
    units = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-9)
    for row, near in zip(asked.tolist(), found, strict=True):
        if row == rows // 2:
            assert len(near) == 0
            continue
        cosines = units @ units[row]
        cosines[row] = -2
        best = [other for other in np.argsort(-cosines, kind="stable")[:count] if cosines[other] >= least]
        assert near.tolist() == [other for other in best if other != row]
        theirs = [word for word, cosine in vectors.nearest(f"w{row}", count) if cosine >= least]
        assert [f"w{other}" for other in near.tolist()] == theirs


def test_of_equally_near_words_the_more_frequent_come_first():
    (found,) = nearest_rows(np.ones((3000, 4), dtype=np.float32), np.array([1]), 4, 0.5)
    assert found.tolist() == [0, 2, 3, 4]


def test_neighbors_are_looked_for_among_frequent_words(monkeypatch):
    monkeypatch.setattr("nlptransfer.training.augmentation._FREQUENT", 50)
    matrix = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    matrix[150] = matrix[7] + 0.01
    found = nearest_rows(matrix, np.array([7, 150]), 3, -1.0)
    assert max(map(max, found)) < 50 and found[1][0] == 7


def test_synonyms_need_vectors():
    with pytest.raises(SettingError, match=r"augment_synonyms=0\.1: expected 0 where no word vectors are given"):
        augment(split_of("a b"), Augment(augment_copies=1), 0, None)
    Augment().check()
