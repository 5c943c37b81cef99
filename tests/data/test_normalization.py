"""Normalization: each form changes what it says, once and for all, and leaves no text empty."""

import time
import unicodedata
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nlptransfer.data.normalization import NORMALIZATIONS, Normalization, normalize
from nlptransfer.errors import SettingError

PARTS = [
    "&amp;", "&lt;", "&gt;", "&#38;", "&#x26;", "&nbsp;", "amp;", "lt;", "#38;", "&", ";", "<", ">", "/", "br",
    "<br />", "<b>", "</b>", "<!--", "-->", "http", "https://", "://", "www.", "w", "a.b", "@", "user", "@a",
    "aaaa", "oooo", "好", "哈哈哈哈", " ", "\n", "\u00a0", "“", "’", "ﬁ", "Ａ", "İ", "Σ",
    "\u0328", "\u0307", "\u00b4", "3", "_", ".",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PARTS), max_size=14).map("".join))


def test_the_table_has_the_names_of_the_setting():
    assert get_args(Normalization) == tuple(NORMALIZATIONS)


@pytest.mark.parametrize("name", NORMALIZATIONS)
@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("İ\u0328")
@example("&amp;" * 3 + "lt;br&amp;gt;")
@example("&lt;br&gt;")
@example("<br>")
@example(" \n ")
@example("wwwww.a")
@example("&amp;" + "amp;" * 30 + "x")
def test_once_is_enough_and_nothing_is_emptied(name, text):
    form = NORMALIZATIONS[name]
    found = form(text)
    assert form(found) == found == form(text)
    assert bool(found) == bool(text)
    assert found.isspace() == text.isspace()


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_nfkc_and_lower_are_in_nfkc(text):
    plain, lower = NORMALIZATIONS["nfkc"](text), NORMALIZATIONS["lower"](text)
    for found in (plain, lower):
        if not text.isspace():
            assert unicodedata.is_normalized("NFKC", found) and found == " ".join(found.split())
            assert not set(found) & set("‘’‚‛“”„‟")
    assert lower == lower.lower()
    assert NORMALIZATIONS["none"](text) == text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", " As “it” is ", " As “it” is "),
        ("nfkc", "\tＡ ﬁne\u00a0\n“film”, isn’t it ", 'A fine "film", isn\'t it'),
        ("lower", "GOOD  Film, “ΑΣ”", 'good film, "ας"'),
        ("web", "Tom &amp; Jerry&#39;s &lt;3", "Tom & Jerry's <3"),
        ("web", "so<br /><br />good</p> i <3 it, 2 < 3 > 1", "so good i <3 it, 2 < 3 > 1"),
        ("web", "<!-- note --><!DOCTYPE html>fine", "fine"),
        ("web", "see https://a.b/c?d=1&copy=2#e. Or (www.x.org)!", "see http. Or (http)!"),
        ("web", "看https://t.cn/abc很好", "看http很好"),
        ("web", 'say "https://a.b", so', 'say "http", so'),
        ("web", "HTTP://A.B awww.cute www. http", "http awww.cute www. http"),
        ("web", "@Some_one: write to a.b@c.org, 谢谢@某人", "@user: write to a.b@c.org, 谢谢@user"),
        ("web", "soooooo good!!!!! 哈哈哈哈哈 10000", "sooo good!!!!! 哈哈哈 10000"),
        ("web", "&amp;lt;br&amp;gt;ok", "ok"),
        ("web", "<br><br>", "<br><br>"),
        ("web", "&unknown; AT&T & co; &#1;", "&unknown; AT&T & co;"),
    ],
)
def test_what_each_form_does(name, text, expected):
    assert normalize(name, [text]) == [expected]


def test_texts_keep_their_order():
    assert normalize("lower", iter(["B", "", "A"])) == ["b", "", "a"]
    assert normalize("web", []) == []


def test_long_texts_take_no_long_time():
    started = time.perf_counter()
    for part in ("<", "<a", "<!--", "&amp;", "&amp;lt;", "www.", "http://!", "@", "aaaa", "“ ", "amp;"):
        text = "&" + part * (200_000 // len(part))
        (found,) = normalize("web", [text])
        assert NORMALIZATIONS["web"](found) == found
    assert time.perf_counter() - started < 20


def test_an_unknown_form():
    with pytest.raises(SettingError, match="normalization='upper': expected one of none, nfkc, lower, web"):
        normalize("upper", ["a"])
