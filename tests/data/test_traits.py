"""What is seen of a text, and how the values of a column become traits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer.data.traits import BINS, MISSING, OTHER, script_of, traits_of, values_of


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_text_has_one_start_and_one_end(text):
    traits = traits_of(text)
    assert sorted(kind for kind, _, _ in traits if kind in ("start", "end")) == ["end", "start"]
    assert all(len(trait) == 3 and all(isinstance(part, str) for part in trait) for trait in traits)


def test_traits_of_a_text():
    assert traits_of("Oh NO, #1! ") >= {
        ("word", "oh", ""),
        ("word", "1", ""),
        ("sign", "#", ""),
        ("script", "LATIN", ""),
        ("form", "a hashtag", ""),
        ("form", "a digit", ""),
        ("form", "white space at an end", ""),
        ("start", "start", "a capital"),
        ("end", "end", " "),
    }
    assert {name for kind, name, _ in traits_of("so what?!! 👍") if kind == "form"} == {
        "a sign twice in a row",
        "an emoji",
        "no capital",
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=True) | st.integers(-9, 9), min_size=1, max_size=200))
def test_ranges_hold_their_numbers(column):
    values = values_of(column)
    assert len(values) == len(column)
    for value, name in zip(column, values, strict=True):
        assert (value is None or math.isnan(value)) == (name == MISSING)
        if name not in (MISSING, OTHER) and " to " in name:
            low, high = map(float, name.split(" to "))
            assert low - 1e-4 * abs(low) <= value <= high + 1e-4 * abs(high)


def test_ranges_have_equally_many_rows():
    names, counts = np.unique(values_of([*np.random.default_rng(0).random(1000)]), return_counts=True)
    assert len(names) == BINS and counts.min() >= 49 and counts.max() <= 51


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (["a", None, "a", ""], ["a", MISSING, "a", MISSING]),
        ([1, 2, True], ["1", "2", "True"]),
        ([["a"], {"b": 1}], ["['a']", "{'b': 1}"]),
    ],
)
def test_values_of_a_column(column, values):
    assert values_of(column) == values


def test_rare_values_are_one():
    assert values_of([f"value {row}" for row in range(100)]).count(OTHER) == 50


@pytest.mark.parametrize(
    ("letter", "script"), [("é", "LATIN"), ("ж", "CYRILLIC"), ("好", "CJK"), ("Ａ", "LATIN"), ("1", "")]
)
def test_scripts(letter, script):
    assert script_of(letter) == script
