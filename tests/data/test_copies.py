"""Copies: texts folded to one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.data import folded


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
