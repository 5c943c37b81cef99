"""N-grams of texts: their weights by the formula, which are kept, and what a folder gives back."""

import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from nlptransfer.errors import RunFolderError
from nlptransfer.models.ngrams import FILE, MOST_WEIGHTS, Ngrams
from nlptransfer.models.rows import FeatureRows, NgramRows, SomeRows

ENGLISH = ["A film, a good film!", "The plot was dull; I left", "good cast", "", "5 of 10"]
CHINESE = ["酒店很好，下次再来", "房间太小了", "很好 很好", "。", "服务不好"]


def terms_of(analyzer: str, text: str) -> list[str]:
    """Cut a text by hand."""
    if analyzer == "word":
        words = re.findall(r"\w+", text.lower())
        return [*words, *map(" ".join, pairwise(words))]
    text = re.sub(r"\s\s+", " ", text.lower())
    return [text[start : start + size] for size in (1, 2, 3) for start in range(len(text) - size + 1)]


def by_hand(analyzer: str, known: list[str], texts: list[str]) -> dict[str, list[float]]:
    """The weights of the n-grams of ``texts`` by term, as those of ``known`` texts are weighted."""
    counted = [Counter(terms_of(analyzer, text)) for text in known]
    with_term = Counter(term for one in counted for term in one)
    idf = {term: 1 + math.log((1 + len(known)) / (1 + count)) for term, count in with_term.items()}
    found: dict[str, list[float]] = {term: [] for term in idf}
    for text in texts:
        counts = Counter(terms_of(analyzer, text))
        weights = {term: (1 + math.log(counts[term])) * idf[term] for term in counts if term in idf}
        length = math.sqrt(sum(value**2 for value in weights.values())) or 1
        for term, values in found.items():
            values.append(weights.get(term, 0) / length)
    return found


def saved(ngrams: Ngrams, folder: Path) -> Ngrams:
    ngrams.save(folder)
    found = Ngrams.open(folder)
    assert found is not None
    return found


@pytest.mark.parametrize(("analyzer", "known"), [("word", ENGLISH), ("char", CHINESE)])
def test_weights_are_those_of_the_formula(analyzer: str, known: list[str]) -> None:
    ngrams = Ngrams.of(known, 2)
    assert ngrams.analyzer == analyzer and len(ngrams) == len(ngrams.terms) == len(ngrams.idf)
    texts = [*known, "A  GOOD\tplot", "房间 很好\n\n好好", "unheard-of", "?!"]
    found, expected = ngrams.features(texts), by_hand(analyzer, known, texts)
    assert found.dtype == np.float32 and found.shape == (len(texts), len(ngrams))
    assert {*ngrams.terms} == {*expected}
    np.testing.assert_allclose(found.toarray().T, [expected[term] for term in ngrams.terms], atol=1e-6)
    assert not found[[-1]].toarray().any() and found[[-1]].nnz == 0


def test_they_are_scikit_learns() -> None:
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit(ENGLISH)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True).fit(CHINESE)
    for known, peer in ((ENGLISH, words), (CHINESE, characters)):
        ngrams = Ngrams.of(known, 3)
        assert [*ngrams.terms] == peer.get_feature_names_out().tolist()
        texts = [*ENGLISH, *CHINESE]
        np.testing.assert_allclose(ngrams.features(texts).toarray(), peer.transform(texts).toarray(), atol=1e-6)


def test_texts_with_few_blanks_are_cut_into_characters() -> None:
    assert Ngrams.of(["word " + "x" * 15], 2).analyzer == "word"
    assert Ngrams.of(["word " + "x" * 16], 2).analyzer == "char"
    # Of all texts together.
    assert Ngrams.of(["a b c d", "酒店很好下次再来"], 2).analyzer == "word"


def test_the_most_frequent_stay_and_fewer_for_many_labels() -> None:
    texts = ["often a often b often", "often now often now", "now"]
    assert Ngrams.of(texts, MOST_WEIGHTS // 3).terms == ("now", "often", "often now")
    assert Ngrams.of(texts, MOST_WEIGHTS).terms == Ngrams.of(texts, 2 * MOST_WEIGHTS).terms == ("often",)
    kept = Ngrams.of(texts, MOST_WEIGHTS // 3)
    # What is left has length 1 again.
    norms = np.linalg.norm(kept.features(texts).toarray(), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


@pytest.mark.parametrize("texts", [[""], ["", " "], ["?! ...", "- -"], []])
def test_texts_without_a_word_have_none(texts: list[str], tmp_path: Path) -> None:
    ngrams = Ngrams.of(texts, 2)
    assert len(ngrams) == 0 and ngrams.features([*texts, "a word"]).shape == (len(texts) + 1, 0)
    assert saved(ngrams, tmp_path).terms == ()


def test_no_texts_have_no_rows() -> None:
    ngrams = Ngrams.of(ENGLISH, 2)
    assert ngrams.features([]).shape == (0, len(ngrams))


# In a folder


@settings(max_examples=60, deadline=None)
@given(known=st.lists(st.text(st.characters(), max_size=12), max_size=6), more=st.text(st.characters(), max_size=12))
def test_a_folder_gives_them_back(known: list[str], more: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved")
    ngrams = Ngrams.of(known, 2)
    again = saved(ngrams, folder)
    assert (again.analyzer, again.terms) == (ngrams.analyzer, ngrams.terms)
    np.testing.assert_array_equal(again.idf, ngrams.idf)
    texts = [*known, more]
    np.testing.assert_array_equal(again.features(texts).toarray(), ngrams.features(texts).toarray())
    assert [*folder.iterdir()] == [folder / FILE]


def test_plain_safetensors_opens_the_file(tmp_path: Path) -> None:
    ngrams = Ngrams.of(CHINESE, 2)
    ngrams.save(tmp_path)
    tensors = load_file(tmp_path / "ngrams.safetensors")
    ends = [0, *tensors["ends"].tolist()]
    assert [tensors["terms"].tobytes()[a:b].decode() for a, b in pairwise(ends)] == [*ngrams.terms]
    np.testing.assert_array_equal(tensors["idf"], ngrams.idf)
    content = (tmp_path / FILE).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"analyzer": "char"}


def test_a_folder_without_the_file_has_none(tmp_path: Path) -> None:
    assert Ngrams.open(tmp_path) is None


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.7, 0.99])
def test_a_file_cut_off_is_named(share: float, tmp_path: Path) -> None:
    Ngrams.of(ENGLISH, 2).save(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunFolderError) as caught:
        Ngrams.open(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / FILE}: expected n-grams and their weights, found ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "damage",
    [
        {"idf": None},
        {"terms": None},
        {"idf": np.ones(2, np.float32)},
        {"ends": np.array([1, 2, 4])},
        {"ends": np.array([1, 2])},
        {"terms": np.array([97, 98, 255], np.uint8)},
        {"terms": np.array([97, 98, 98], np.uint8)},
        {"analyzer": "sentence"},
        {"analyzer": None},
    ],
)
def test_a_damaged_file_is_named(damage: dict[str, object], tmp_path: Path) -> None:
    whole = {"idf": np.ones(3, np.float32), "terms": np.frombuffer(b"abc", np.uint8), "ends": np.array([1, 2, 3])}
    parts = {"analyzer": "char", **whole}
    for content in (parts, parts | damage):
        tensors = {name: content[name] for name in whole if content[name] is not None}
        metadata = {"analyzer": str(content["analyzer"])} if content["analyzer"] else None
        save_file(tensors, tmp_path / FILE, metadata=metadata)  # type: ignore[arg-type]
        if content is parts:
            assert Ngrams.open(tmp_path).terms == ("a", "b", "c")  # type: ignore[union-attr]
            continue
        with pytest.raises(RunFolderError, match=rf"^{re.escape(str(tmp_path / FILE))}: expected n-grams and their"):
            Ngrams.open(tmp_path)


# Rows of them


def test_batches_hold_the_ngrams_of_their_texts() -> None:
    ngrams = Ngrams.of(ENGLISH, 2)
    matrix = ngrams.features(ENGLISH)
    rows = NgramRows(FeatureRows(np.arange(10, dtype=np.float32).reshape(5, 2)), matrix)
    assert len(rows) == 5 and rows.lengths.tolist() == [1] * 5 and rows.windows is None
    for some in ([3, 0], [3], [2, 2, 4, 1], [0, 1, 2, 3, 4]):
        batch = rows.batch(np.array(some))
        assert batch["features"][:, 0].tolist() == [2 * place for place in some]
        ids, weights = batch["ngram_ids"].numpy(), batch["ngram_weights"].numpy()
        assert ids.dtype == np.int64 and weights.dtype == np.float32
        assert ids.shape == weights.shape == (len(some), max(1, max(matrix[[place]].nnz for place in some)))
        dense = np.zeros((len(some), len(ngrams)), np.float32)
        for row in range(len(some)):
            np.add.at(dense[row], ids[row], weights[row])
        np.testing.assert_array_equal(dense, matrix[some].toarray())
    some = SomeRows(rows, np.array([4, 1])).batch(np.array([1]))
    np.testing.assert_array_equal(some["ngram_weights"], rows.batch(np.array([1]))["ngram_weights"])
    assert rows.batch(np.array([], dtype=np.int64))["ngram_ids"].shape == (0, 1)
