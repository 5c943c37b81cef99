"""Vectors of character n-grams, by which any word has a vector, and how they lie in a folder; knows no vocabulary.

subwords.npy     (buckets, d) float32, opened as a memory map
subwords.json    how long the n-grams are
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from nlptransfer.errors import VectorsError
from nlptransfer.files import read_json, write_json
from nlptransfer.storage import storage_errors

SUBWORDS, _SETTINGS = "subwords.npy", "subwords.json"


@dataclass(frozen=True)
class Subwords:
    """Vectors of the character n-grams of words, by their hashes (fastText, Bojanowski et al. 2017)."""

    folder: Path
    """where they lie"""
    min_n: int
    max_n: int

    @cached_property
    def matrix(self) -> np.ndarray:
        """(buckets, dimensions) float32, read only."""
        return cast(np.ndarray, np.load(self.folder / SUBWORDS, mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy opens the map again; a pickled or copied map would be the whole matrix.
        return type(self), (self.folder, self.min_n, self.max_n)

    def ngrams(self, word: str) -> list[int]:
        """Return the bucket of each n-gram of a word."""
        from gensim.models.fasttext import ft_ngram_hashes

        return list(ft_ngram_hashes(word, self.min_n, self.max_n, len(self.matrix)))

    def knows(self, word: str) -> bool:
        """Tell whether a word gets a vector: it has a letter or digit, and is as long as an n-gram."""
        # "n't" is a habit of splitting words, which a vocabulary either has or not.
        return word != "n't" and any(map(str.isalnum, word)) and bool(self.ngrams(word))

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """Return the mean of each word's n-grams, (len(words), dimensions) float32."""
        ngrams = [self.ngrams(word) for word in words]
        return sums(self.matrix, ngrams) / np.array([len(each) for each in ngrams], dtype=np.float32)[:, None]

    def save(self, folder: Path) -> None:
        """Write them into another folder."""
        write_subwords(folder, self.matrix, self.min_n, self.max_n)

    @classmethod
    def open(cls, folder: Path) -> "Subwords":
        """Open what was saved in a folder; files that are missing or do not fit are a VectorsError."""
        try:
            opened = cls(folder, **read_json(folder / _SETTINGS))
            if opened.matrix.ndim != 2 or opened.matrix.dtype != np.float32:
                raise ValueError(f"an array of shape {opened.matrix.shape} of {opened.matrix.dtype}")
            return opened
        except (OSError, ValueError, TypeError) as error:
            expected = f"the n-grams of characters in {SUBWORDS} and {_SETTINGS}"
            raise VectorsError(f"{folder}: expected {expected}, found {type(error).__name__}: {error}") from error


def write_subwords(folder: Path, matrix: np.ndarray, min_n: int, max_n: int) -> Subwords:
    """Save the vectors of n-grams of these lengths in a folder, and open them."""
    with storage_errors(folder):
        np.save(folder / SUBWORDS, matrix)
    write_json(folder / _SETTINGS, {"min_n": min_n, "max_n": max_n})
    return Subwords.open(folder)


def sums(matrix: np.ndarray, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Add up some rows of a (n, d) float32 matrix, (len(rows), d) float32; of the others nothing is read."""
    from scipy.sparse import csr_array

    places = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    ends = np.cumsum([0, *map(len, rows)])
    ones = csr_array((np.ones(len(places), np.float32), places, ends), shape=(len(rows), len(matrix)))
    return cast(np.ndarray, ones @ matrix)
