"""The corpora in data/: sizes, balance, and that their rows are natural and varied."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from helpers.folders import ROOT

DATA = ROOT / "data"
ROWS = {"films": 360, "gadgets": 360, "headlines": 480, "tickets": 300, "hotels_zh": 240}
CLASSES = {"films": 2, "gadgets": 2, "headlines": 6, "tickets": 7, "hotels_zh": 2}


def read(name: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str, name: str) -> list[str]:
    if name.endswith("_zh"):
        import jieba

        return [word for word in jieba.lcut(text) if word.strip()]
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


@pytest.fixture(scope="module", params=ROWS)
def corpus(request):
    name = request.param
    train, test = read(name, "train"), read(name, "test")
    return name, train, test, [words(row["text"], name) for row in train + test]


def test_sizes_and_labels(corpus):
    name, train, test, _ = corpus
    assert len(train) + len(test) == ROWS[name]
    assert len(test) >= 120
    key = "labels" if name == "tickets" else "label"
    assert all(set(row) == {"text", key} for row in train + test)
    seen = Counter(label for row in train + test for label in (row[key] if key == "labels" else [row[key]]))
    assert len(seen) == CLASSES[name]
    if name == "tickets":
        counts = Counter(len(row["labels"]) for row in train + test)
        assert counts[0] >= 15 and sum(counts[n] for n in counts if n > 1) >= 60
        assert min(seen.values()) >= 20
    else:
        assert max(seen.values()) <= 1.3 * min(seen.values())
    for split in (train, test):
        assert {label for row in split for label in (row[key] if key == "labels" else [row[key]])} == set(seen)


def test_no_two_rows_alike(corpus):
    name, train, test, tokens = corpus
    sets = [frozenset(row) for row in tokens]
    for a, b in combinations(range(len(sets)), 2):
        overlap = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        assert overlap < 0.6, f"{name}: {(train + test)[a]['text']!r} is too like {(train + test)[b]['text']!r}"


def test_no_template(corpus):
    name, _, _, tokens = corpus
    grams = Counter(gram for row in tokens for gram in {tuple(row[i : i + 4]) for i in range(len(row) - 3)})
    common = {" ".join(gram): count for gram, count in grams.items() if count > 0.02 * len(tokens)}
    assert not common, f"{name}: 4-grams in more than 2% of the rows: {common}"


@pytest.mark.parametrize("name", ["films", "gadgets"])
def test_words_alone_neither_solve_nor_miss_the_sentiment(name):
    train, test = read(name, "train"), read(name, "test")
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    accuracy = model.score([row["text"] for row in test], [row["label"] for row in test])
    print(f"{name}: TF-IDF + logistic regression {accuracy:.3f}")
    assert 0.62 <= accuracy <= 0.85
