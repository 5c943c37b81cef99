"""Traits that tell a label nearly alone: planted ones are named first, and honest data names none."""

import gzip
import json
from typing import Any

import numpy as np
import pytest

from helpers.folders import SHARED, needs_shared
from nlptransfer.data.giveaways import Giveaway, giveaways_of

ROWS = 600


def drawn(seed: int, rows: int = ROWS, labels: int = 2) -> tuple[list[str], np.ndarray]:
    """Texts of words as frequent as in a language, with labels that have nothing to do with them."""
    draw = np.random.default_rng(seed)
    odds = 1 / np.arange(1, 1001)
    words = np.char.add("w", draw.choice(1000, (rows, 12), p=odds / odds.sum()).astype(str))
    return [*map(" ".join, words.tolist())], draw.integers(labels, size=rows)


def planted(seed: int, change: Any, label: int = 1, share: float = 0.3) -> tuple[list[str], np.ndarray]:
    """The same with some rows of a label changed."""
    texts, targets = drawn(seed)
    draw = np.random.default_rng(seed)
    some = np.flatnonzero((targets == label) & (draw.random(len(texts)) < share))
    for row in some:
        texts[row] = change(texts[row], draw)
    return texts, targets


def inserted(word: str) -> Any:
    def change(text: str, draw: np.random.Generator) -> str:
        words = text.split()
        words.insert(draw.integers(len(words) + 1), word)
        return " ".join(words)

    return change


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("word", ["zorblax", "w300"])
def test_a_word_in_a_third_of_a_labels_rows_is_named_first(seed, word):
    texts, targets = planted(seed, inserted(word))
    first = giveaways_of(texts, targets)[0]
    assert (first.kind, first.name, first.label) == ("word", word, 1)
    has = np.array([word in text.split() for text in texts])
    assert first.rows == has.sum() and first.share == has.mean()
    # All rows are judged, by rules of the other half: here both halves have the same.
    assert first.precision == pytest.approx((targets[has] == 1).mean())
    assert first.recall == pytest.approx(has[targets == 1].mean())
    assert first.majority == pytest.approx(np.bincount(targets).max() / len(targets))
    rule = np.where(has, 1, np.bincount(targets[~has]).argmax())
    assert first.accuracy == pytest.approx((rule == targets).mean())
    assert has[first.example] and targets[first.example] == 1
    assert f"the word {word!r}" == str(first)


def test_honest_data_names_nothing():
    found = [giveaways_of(*drawn(seed, 300, labels)) for seed in range(10) for labels in (2, 5)]
    assert sum(map(len, found)) <= 1


def test_a_word_of_few_rows_is_luck():
    texts, targets = drawn(0)
    for row in np.flatnonzero(targets == 1)[:9]:
        texts[row] += " zorblax"
    assert giveaways_of(texts, targets) == []


def test_copies_of_one_text_are_no_trait():
    texts, targets = drawn(0)
    for row in np.flatnonzero(targets == 1)[:100]:
        texts[row] = "The same advertisement, Once More"
    assert giveaways_of(texts, targets) == []


def test_a_likely_word_that_keeps_company_has_a_meaning():
    """Of two words of the same rows and precision, only the one that goes with no other is named."""
    texts, targets = drawn(1, 2000)
    draw = np.random.default_rng(1)
    for word, others in (("waste", (" time", " money")), ("zorblax", ("", ""))):
        has = draw.random(2000) < np.where(targets == 1, 0.3, 0.03)
        for row in np.flatnonzero(has):
            texts[row] += f" {word}" + str(draw.choice(others))
    named = giveaways_of(texts, targets)
    assert [(one.name, one.stands_apart) for one in named] == [("zorblax", True)]


@pytest.mark.parametrize(
    ("change", "trait"),
    [
        (lambda text, _: f"{text} !", "an end with !"),
        (lambda text, _: f'"{text}', 'a start with "'),
        (lambda text, _: f"{text} ", "white space at an end"),
        (lambda text, _: text.upper(), "capitals alone"),
        (lambda text, _: f"{text} <br /> w1", "an HTML tag"),
        (lambda text, draw: f"{text} http://a.b/{draw.integers(10**6)}", "an address"),
        (lambda text, _: text.replace("w", "ц", 2), "letters of the script Cyrillic"),
        (lambda text, _: text.replace(" ", " \u2063 ", 1), "the sign '\\u2063'"),
        (lambda text, draw: " ".join([text] * draw.integers(4, 9)), "characters"),
    ],
)
def test_marks_and_lengths(change, trait):
    found = giveaways_of(*planted(2, change, share=0.5))
    assert found and found[0].label == 1 and found[0].precision > 0.95
    assert any(trait in name for one in found for name in (str(one), *one.alike))


def test_other_columns():
    texts, targets = drawn(3)
    draw = np.random.default_rng(3)
    columns = {
        "stars": [int(target) * 3 + int(draw.integers(1, 3)) for target in targets],
        "price": (targets * 100 + draw.random(ROWS) * 90).tolist(),
        "reply": ["thanks" if target and draw.random() < 0.5 else None for target in targets],
        "id": [*range(ROWS)],
        "noise": draw.choice(["a", "b", None], ROWS).tolist(),
        "list": [[1, 2]] * ROWS,
    }
    found = {one.name: one for one in giveaways_of(texts, targets, columns)}
    assert found.keys() == {"stars", "price", "reply"}
    assert found["stars"].accuracy == found["price"].accuracy == 1.0
    assert {*found["stars"].values} in ({"1", "2"}, {"4", "5"})
    assert found["reply"].values == ("thanks",) and found["reply"].accuracy < 0.9
    assert str(found["reply"]) == "thanks in the column 'reply'"


def test_several_labels():
    texts, single = drawn(4, labels=3)
    targets = np.zeros((ROWS, 4), np.float32)
    targets[np.arange(ROWS), single] = 1
    draw = np.random.default_rng(4)
    targets[draw.random(ROWS) < 0.2, 3] = 1
    for row in np.flatnonzero(targets[:, 3])[::3]:
        texts[row] = inserted("zorblax")(texts[row], draw)
    (found,) = giveaways_of(texts, targets)
    has = np.array(["zorblax" in text for text in texts])
    assert (found.name, found.label) == ("zorblax", 3)
    assert found.accuracy == pytest.approx((has == (targets[:, 3] > 0)).mean())
    assert found.majority == pytest.approx(1 - targets[:, 3].mean())


def test_pairs_of_letters_where_words_are_not_spaced():
    draw = np.random.default_rng(5)
    letters = [chr(0x4E00 + place) for place in range(300)]
    texts = ["".join(draw.choice(letters, 20)) for _ in range(ROWS)]
    targets = draw.integers(2, size=ROWS)
    for row in np.flatnonzero(targets == 0)[::3]:
        place = draw.integers(20)
        texts[row] = texts[row][:place] + "龍龜" + texts[row][place:]
    first = giveaways_of(texts, targets)[0]
    assert (first.name, first.label) == ("龍龜", 0)


def test_little_data():
    assert giveaways_of([], np.zeros(0, np.int64)) == []
    assert giveaways_of(["a text"] * 5, np.array([0, 1, 0, 1, 0])) == []
    found = giveaways_of(*planted(6, inserted("zorblax")), {"missing": [None] * ROWS})
    assert [type(one) for one in found] == [Giveaway]


@needs_shared
def test_real_words_of_a_topic_or_a_feeling_are_no_giveaways():
    with gzip.open(SHARED / "data" / "tweet_emotion" / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(row) for row in file]
    names = sorted({row["label"] for row in rows})
    texts, targets = [row["text"] for row in rows], np.array([names.index(row["label"]) for row in rows])
    assert giveaways_of(texts, targets) == []
    draw = np.random.default_rng(0)
    for row in np.flatnonzero(targets == 2)[::3]:
        texts[row] = inserted("window")(texts[row], draw)
    assert giveaways_of(texts, targets)[0].name == "window"
