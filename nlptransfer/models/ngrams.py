"""TF-IDF of words and pairs of words, or of characters: sparse features, saved in a folder as safetensors.
It knows no labels, nor what learns from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import sparse

from nlptransfer.errors import RunFolderError

NGRAMS = "ngrams"
"""Kind of their features in a memo."""
FILE = "ngrams.safetensors"
BLANKS = 0.05
"""Texts of which fewer characters are blanks are split into characters, not words: Chinese, Japanese, Thai."""
LONGEST = {"word": 2, "char": 3}
"""Words or characters of an n-gram, at most."""
MOST = 100_000
"""N-grams that are kept of texts, the most frequent; also of few labels."""
MOST_WEIGHTS = 2**22
"""N-grams times labels that are kept."""


@dataclass(frozen=True, eq=False)
class Ngrams:
    """N-grams and how much each counts: tf-idf as (1 + ln tf) * idf, of length 1 for each text."""

    analyzer: Literal["word", "char"]
    """what they are made of: words and pairs of words, or 1 to 3 characters"""
    terms: tuple[str, ...]
    idf: np.ndarray
    """(n-grams,) float32: 1 + ln((1 + texts) / (1 + texts with it))"""

    @classmethod
    def of(cls, texts: Sequence[str], labels: int) -> "Ngrams":
        """Take the most frequent n-grams of texts, fewer for many labels; none where the texts have no words."""
        most = max(1, min(MOST, MOST_WEIGHTS // labels))
        vectorizer = tfidf(texts, max_features=most, dtype=np.float32)
        try:
            vectorizer.fit(texts)
        except ValueError:  # scikit-learn calls a vocabulary without words an error
            return cls(vectorizer.analyzer, (), np.zeros(0, dtype=np.float32))
        terms = tuple(vectorizer.get_feature_names_out().tolist())
        return cls(vectorizer.analyzer, terms, vectorizer.idf_.astype(np.float32))

    def __len__(self) -> int:
        return len(self.terms)

    def features(self, texts: Sequence[str]) -> sparse.csr_array:
        """Compute (texts, n-grams) float32; a text without a known one has zeros."""
        if not len(texts) or not self.terms:
            return sparse.csr_array((len(texts), len(self)), dtype=np.float32)
        return sparse.csr_array(self._fitted.transform(texts))

    @cached_property
    def _fitted(self) -> Any:
        vectorizer = _vectorizer(self.analyzer, vocabulary=self.terms, dtype=np.float32)
        vectorizer.idf_ = self.idf
        return vectorizer

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        # Half of a character that UTF-16 writes as two has no UTF-8; texts from the web have such.
        written = [term.encode(errors="surrogatepass") for term in self.terms]
        tensors = {
            "idf": self.idf,
            "terms": np.frombuffer(b"".join(written), dtype=np.uint8),
            "ends": np.cumsum([len(term) for term in written], dtype=np.int64),
        }
        save_file(tensors, folder / FILE, metadata={"analyzer": self.analyzer})

    @classmethod
    def open(cls, folder: Path) -> "Ngrams | None":
        """Read those in a folder; None where there are none, and a RunFolderError where the file is damaged."""
        from safetensors import SafetensorError, safe_open

        if not (folder / FILE).exists():
            return None
        try:
            with safe_open(folder / FILE, framework="numpy") as file:
                analyzer = file.metadata()["analyzer"]
                text, ends, idf = file.get_tensor("terms").tobytes(), file.get_tensor("ends"), file.get_tensor("idf")
            ends = [0, *ends.tolist()]
            terms = tuple(text[start:end].decode(errors="surrogatepass") for start, end in pairwise(ends))
            if analyzer not in LONGEST or len({*terms}) != len(idf) or ends[-1] != len(text):
                raise ValueError(f"{len({*terms})} n-grams of {analyzer!r} with {len(idf)} weights")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{folder / FILE}: expected n-grams and their weights, found {error}") from error
        return cls(analyzer, terms, idf)


def tfidf(texts: Sequence[str], **options: Any) -> Any:
    """Return scikit-learn's vectorizer for texts: of their words and pairs of words, or of characters."""
    blanks = sum(character.isspace() for text in texts for character in text)
    return _vectorizer("word" if blanks >= BLANKS * sum(map(len, texts)) else "char", **options)


def _vectorizer(analyzer: str, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # One character is a word too: "I", "5".
    pattern = r"(?u)\b\w+\b" if analyzer == "word" else None
    ngrams = (1, LONGEST[analyzer])
    return TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, token_pattern=pattern, sublinear_tf=True, **options)
