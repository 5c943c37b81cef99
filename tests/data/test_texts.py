"""Texts in a mapped file are as the list of them, whatever is taken of it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer import mapped
from nlptransfer.data import texts as module
from nlptransfer.data.texts import MappedTexts, held, joined_texts, taken

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=12)


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MEMORY", 4)
        patch.setattr(module, "CHUNK", 3)
        yield


@settings(max_examples=40)
@given(TEXTS, st.data())
def test_as_a_list(texts: list[str], data: st.DataObject) -> None:
    of_file = MappedTexts.of([texts[:2], texts[2:]])
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)), np.int64)
    some, expected = taken(of_file, rows), taken(texts, rows)
    assert isinstance(some, MappedTexts) and len(some) == len(expected)
    assert [*some] == some[:] == expected == [some[place] for place in range(-len(rows), 0)]
    assert pickle.loads(pickle.dumps(some)) == expected
    cut = data.draw(st.slices(len(texts)))
    assert of_file[cut] == texts[cut]
    assert some == taken(of_file, rows) and hash(some) == hash(taken(of_file, rows)) and some != expected
    assert (some == of_file) == (rows.tolist() == [*range(len(texts))])
    with pytest.raises(IndexError):
        of_file[len(texts)]


@settings(max_examples=40)
@given(TEXTS, TEXTS)
def test_what_is_joined_or_held_is_the_same_in_a_file(one: list[str], other: list[str]) -> None:
    first, second = held([one]), held([other])
    assert isinstance(first, MappedTexts) == (sum(map(len, one)) > 4)
    assert [*joined_texts([first, second])] == [*joined_texts([one, other])] == one + other
    assert joined_texts([[], first]) is first
    again = joined_texts([first, taken(first, np.array([0]))])
    assert [*again] == [*one, one[0]]
