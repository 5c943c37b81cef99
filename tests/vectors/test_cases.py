"""Files of word vectors as people have them: each is read, and a classifier trained on it."""

import logging

import numpy as np
import pytest

from helpers.folders import SHARED, needs_shared
from helpers.runs import finetune
from nlptransfer.vectors import UNKNOWN, open_vectors

WORDS = ["the", "kettle", "broke", "love", "it", "again"]
SKIPPED = "1 of the 7 words are not UTF-8, and are left out"
TEXTS = ["the kettle broke again", "love it", "it broke", "love the kettle", "again it broke", "love love it"] * 5
LABELS = ["bad", "good"] * 15

# Words, dimensions, some numbers of the last word, what is logged besides that it is read.
CASES = {
    "blank_line.txt": (WORDS, 8, [1.1665, 0.0084], None),
    "cut_word.txt": (WORDS, 8, [1.1665, 0.0084], f"cut_word.txt: {SKIPPED}"),
    "empty_word_printable.bin": ([""], 1, np.frombuffer(b"\tC\x0b[", "<f4"), None),
    "first_words_have_spaces.txt": ([". . .", "1 2", *WORDS], 8, [1.1665, 0.0084], None),
    "latin1_word.txt": (WORDS, 8, [1.1665, 0.0084], f"latin1_word.txt: {SKIPPED}"),
    "space_in_word.bin": (["new york", *WORDS], 8, None, None),
    "tabs.txt": (WORDS, 8, [1.2537, 0.3662], None),
    "word_of_two_numbers.txt": ([*WORDS, "3 4"], 8, [-0.9248, -0.5677], None),
    "word_tab_numbers.txt": (WORDS, 8, [-1.0108, 0.1821], None),
}

pytestmark = [needs_shared, pytest.mark.usefixtures("own_cache")]


def test_all_are_here():
    assert {path.name for path in (SHARED / "cases" / "vectors").iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_words_dimensions_and_a_classifier(name, caplog, tmp_path):
    caplog.set_level(logging.INFO, "nlptransfer")
    words, dimensions, numbers, line = CASES[name]
    path = SHARED / "cases" / "vectors" / name
    opened = open_vectors(path)
    assert (opened.words(), opened.dimensions) == (words, dimensions)
    if numbers is not None:
        np.testing.assert_array_equal(opened.matrix[-1, : len(numbers)], np.array(numbers, dtype=np.float32))
    assert caplog.messages[1:] == ([line] if line else [])
    run = finetune((TEXTS, LABELS), route="word2vec", head_type="linear", base=str(path), output_dir=tmp_path / "run")
    base, vocabulary = run.classifier.record["base"], run.classifier.tokenizer.get_vocab()
    assert (base["words"], base["dimensions"], base["name"]) == (len(words), dimensions, name)
    assert set(words) <= set(vocabulary) and len(vocabulary) == len(words) + 2
    seen = run.classifier.tokenizer.tokenize("The kettle broke! Again, love it")
    assert set(seen) == ({*WORDS} if "the" in words else {UNKNOWN})
