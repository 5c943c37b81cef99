"""Copies: texts folded to one, and near copies beside a reference that compares all pairs letter by letter."""

import random
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.folders import SHARED, needs_shared
from nlptransfer.data import Labels, copies_of, folded, load_split, load_texts
from nlptransfer.data.copies import KINDS


@pytest.mark.parametrize(
    "texts",
    [
        ("What a film!", "what a film", "  WHAT A\tFILM . ", "What, a film?!", "“What” a—film…", "`` what a film ''"),
        ("这家酒店很好。", "这家酒店，很好！", " 这家 酒店 很好", "《这家酒店》很好"),
        ("Straße 12", "STRASSE12", "ｓｔｒａßｅ　１２"),
        ("I ❤️ it", "i❤ IT", "i\u200b❤it\ufeff"),
        ("caf\u00e9", "cafe\u0301", "CAFÉ."),
    ],
)
def test_texts_that_differ_in_case_space_and_punctuation_fold_to_one(texts):
    assert len({folded(text) for text in texts}) == 1


@pytest.mark.parametrize(
    "texts",
    [
        ("good film", "good films", "a good film"),
        ("how nice 😀", "how nice 😢", "how nice"),
        ("$5", "€5", "5"),
        ("caf\u00e9", "cafe"),
        ("很好", "很不好", "好很"),
        ("C++", "C"),
    ],
)
def test_texts_that_differ_in_more_stay_apart(texts):
    assert len({folded(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("text", ["", "!!!", " ?", "...", "\u200b"])
def test_a_text_of_nothing_but_punctuation_stays_as_it_is(text):
    assert folded(text) == text


@given(st.text())
def test_folding_again_changes_nothing(text):
    once = folded(text)
    assert folded(once) == once


@given(st.text(st.characters(categories=["L", "N"], max_codepoint=0x2FFF)))
def test_what_is_neither_space_nor_punctuation_stays_in_its_order(text):
    assert folded(" - ".join(text)) == folded(text)
    assert bool(folded(text)) == bool(text)


@given(st.text())
def test_blanks_and_stops_around_words_change_nothing(text):
    assert folded(f" A {', '.join(text.split())}.") == folded(f"a{text}")


def brute_common(one: str, other: str) -> int:
    """Bytes of one that stand in a run of eight which the other has too, letter by letter."""
    one_bytes, other_bytes = one.encode(), other.encode()
    found = [other_bytes.find(one_bytes[at : at + 8]) >= 0 for at in range(len(one_bytes) - 7)]
    return sum(any(found[max(0, at - 7) : at + 1]) for at in range(len(one_bytes)))


def brute_copies(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs of places of near copies among texts that are folded and distinct."""
    pairs = set()
    for one, other in combinations(range(len(texts)), 2):
        sizes = [len(texts[place].encode()) for place in (one, other)]
        if min(sizes) < 8:
            continue
        common = brute_common(texts[one], texts[other]), brute_common(texts[other], texts[one])
        few = [size - shared <= 0.15 * (size - 40) for size, shared in zip(sizes, common, strict=True)]
        whole = [
            has_few and size - shared < 8 and size == min(sizes) and max(sizes) <= 4 * size
            for has_few, size, shared in zip(few, sizes, common, strict=True)
        ]
        if all(few) or any(whole):
            pairs.add((one, other))
    return pairs


def groups_of(first: np.ndarray) -> set[frozenset[int]]:
    groups = defaultdict(set)
    for place, leader in enumerate(first.tolist()):
        groups[leader].add(place)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


LONG = (
    "The ship left the harbor in the morning, and by noon nobody on land could see its sails any more; "
    "the captain wrote three letters that day and threw them all overboard."
)


def test_each_row_says_what_it_copies_and_how():
    texts = [
        LONG,
        "something else",
        LONG,
        LONG.upper().replace(",", " -"),
        LONG.replace("captain", "pilot"),
        f"{LONG} So it goes, as people say in the harbor when they speak of those days.",
        "Something else!",
        "nothing like it",
    ]
    copies = copies_of(texts)
    assert copies.first.tolist() == [0, 1, 0, 0, 0, 0, 1, 7]
    assert [KINDS[kind] for kind in copies.kinds] == ["", "", "exact", "folded", "near", "near", "folded", ""]
    assert copies.of.tolist() == [-1, -1, 0, 0, 0, 0, 1, -1]
    assert copies.similarity[[0, 1, 2, 3, 6, 7]].tolist() == [0, 0, 1, 1, 1, 0]
    # Seven bytes of the one and five of the other are not common; all of the first stands in the longer.
    plain, other, added = folded(LONG), folded(texts[4]), folded(texts[5])
    assert copies.similarity[4] == pytest.approx(1 - 12 / (len(plain) + len(other)))
    assert copies.similarity[5] == pytest.approx((len(plain) + brute_common(added, plain)) / len(plain + added))
    assert not len(copies.alike)


def test_short_texts_that_differ_in_a_word_are_alike_and_no_copies():
    texts = ["What is the capital of Yugoslavia ?", "What is the capital of Zimbabwe ?", "Who wrote Hamlet ?"]
    copies = copies_of(texts)
    assert (copies.of < 0).all() and copies.alike.tolist() == [[0, 1]]
    # As of one more word.
    copies = copies_of(["how do i set up direct deposit", "how do i set up direct deposit now"])
    assert (copies.of < 0).all() and copies.alike.tolist() == [[0, 1]]


def test_chinese_texts_have_near_copies_too():
    text = "这价钱买到这种配置的笔记本没什么可挑的了，送的东西又多，机器也好，配置合理，此外摄像头很清晰"
    added = text + "，就是散热口在右边，右手拿鼠标久了会热的不行。"
    assert copies_of([text, text.replace("机器", "电池"), added, "完全不同的另一条评论"]).first.tolist() == [0, 0, 0, 3]
    assert (copies_of(["怎么看王者荣耀", "怎么看绝地求生"]).of < 0).all()


def test_what_several_texts_add_to_their_own_makes_no_copies():
    draw = random.Random(0)
    footer = "Free registration, site map, about us, partners, jobs: copyright 1999 to 2008, all rights reserved."
    bodies = [" ".join(draw.choices(WORDS, k=12)) for _ in range(50)]
    assert (copies_of([f"{body}. {footer}" for body in bodies]).of < 0).all()


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a", "b", "A", "!", "?"], ["\ud800 x" * 9, "\ud800 x" * 9]])
def test_texts_of_any_size_are_grouped(texts):
    copies = copies_of(texts)
    assert len(copies.first) == len(copies.kinds) == len(copies.of) == len(texts)
    assert copies.first.tolist() == [[*map(folded, texts)].index(folded(text)) for text in texts]


WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


@st.composite
def corpora(draw):
    """Texts, and edits of them."""
    texts = [" ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40))) for _ in range(4)]
    for _ in range(draw(st.integers(0, 6))):
        words = draw(st.sampled_from(texts)).split()
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + draw(st.integers(0, 1))] = draw(st.lists(st.sampled_from(WORDS), max_size=12))
        texts.append(" ".join(words) or "alpha")
    return texts


@settings(max_examples=40, deadline=None)
@given(corpora())
def test_groups_are_connected_by_copies_and_each_row_names_one(texts):
    distinct = [*dict.fromkeys(map(folded, texts))]
    near = brute_copies(distinct)
    copies = copies_of(texts)
    # Each row but the first of a group names a copy of it in its group; no pair is one that the definition excludes.
    for row, (of, kind, first) in enumerate(zip(copies.of, copies.kinds, copies.first, strict=True)):
        assert (of < 0) == (kind == 0) == (first == row)
        if of >= 0:
            one, other = folded(texts[row]), folded(texts[of])
            assert copies.first[of] == first < row
            if KINDS[kind] == "near":
                assert tuple(sorted((distinct.index(one), distinct.index(other)))) in near
                common = brute_common(one, other) + brute_common(other, one)
                assert copies.similarity[row] == pytest.approx(common / len((one + other).encode()))
            else:
                assert one == other and (KINDS[kind] == "exact") == (texts[row] in texts[:row])
    # Hashes miss none that have most of their windows in common.
    for pair in near:
        windows = [{distinct[place][at : at + 8] for at in range(len(distinct[place]) - 7)} for place in pair]
        if len(windows[0] & windows[1]) >= 0.65 * len(windows[0] | windows[1]):
            rows = [[*map(folded, texts)].index(distinct[place]) for place in pair]
            assert copies.first[rows[0]] == copies.first[rows[1]]


def test_order_of_rows_decides_the_first_and_nothing_else():
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(40)]
    texts += [text.replace("alpha", "zulu", 1) for text in texts[:20]] + texts[10:30]
    order = draw.sample(range(len(texts)), len(texts))
    plain, shuffled = copies_of(texts), copies_of([texts[place] for place in order])
    assert {frozenset(order[place] for place in group) for group in groups_of(shuffled.first)} == groups_of(plain.first)
    assert len(groups_of(plain.first)) == 30


@needs_shared
def test_copies_that_are_planted_in_reviews_are_found():
    texts = load_texts(SHARED / "data" / "amazon_dvd" / "train.jsonl.gz")
    draw = random.Random(0)
    texts = [*dict.fromkeys(texts)]
    chosen = draw.sample(range(len(texts)), 200)
    edited = []
    for place in chosen:
        words = texts[place].split(" ")
        if place % 2:
            words[draw.randrange(len(words))] = "remarkable"
        else:
            words += draw.choice(texts).split(". ")[0].split(" ")
        edited.append(" ".join(words))
    copies = copies_of([*texts, *edited])
    found = copies.first[len(texts) :] == copies.first[chosen]
    assert found.mean() > 0.97


@needs_shared
def test_questions_that_test_repeats_are_found():
    labels = Labels(("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"))
    train, test = (load_split(SHARED / "data" / "trec6", labels, split=name).texts for name in ("train", "test"))
    copies = copies_of([*train, *test])
    leaked = np.isin(copies.first[len(train) :], copies.first[: len(train)])
    exact = np.isin(test, train)
    assert exact.sum() == 10 and leaked[exact].all() and leaked.sum() == 11
    # Natural pairs that differ in a word are alike.
    assert 200 < len(copies.alike) < 600
