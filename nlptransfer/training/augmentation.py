"""Altered copies of training rows: words replaced by a neighbor of their vector, words swapped, words left out.

For the train split only: a row that chooses or scores must be one that somebody wrote. Few rows gain most, as a copy
says again what its row says (Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques", which has the operations;
Wang and Yang 2015, "That's So Annoying!!!", which takes neighbors of word vectors for synonyms). Such a neighbor may
also be an opposite, "good" beside "bad": ``augment_similarity`` and a small share keep these few, and English negations
neither come nor go.

A word is a run of letters or a number; what stands between words stays. Of scripts without spaces a word is what the
vocabulary of the vectors makes of the run (as in ``segmentation``); where it has no such script, or there are no
vectors, it is a single character.
"""

import logging
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
from annotated_types import Ge, Interval
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from nlptransfer.data import Split
from nlptransfer.settings import Count, Settings, check
from nlptransfer.vectors import WordVectors, build_tokenizer, is_unspaced

logger = logging.getLogger("nlptransfer")

_ATTEMPTS = 5
_BLOCK = 10_000
"""Copies that are drawn at a time: the neighbors of all their words are found together."""
_AMONG = 50_000
"""Neighbors are looked for among so many words, the most frequent: rarer ones are seldom the better word."""
_CELLS = 1 << 24
_SAMPLE = 5000
_SLACK = 1e-4
_OPENING, _CLOSING = tuple("([{“‘\"'«¿¡"), tuple(".,;:!?…)]}”’»。，、；：！？")
_NEGATION = re.compile(r"no|not|nor|never|none|nobody|nothing|neither|without|cannot|.*n['’]t", re.IGNORECASE)
# Letters of scripts without spaces between words.
_SIGN = r"[\p{Han}\p{Hiragana}\p{Katakana}々ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SPACED = rf"\d+(?:[.,]\d+)*|(?!{_SIGN})[\p{{L}}\p{{N}}](?:(?!{_SIGN})[\p{{L}}\p{{M}}\p{{N}}]|['’](?=\p{{L}}))*"


@dataclass(frozen=True)
class Augment(Settings):
    """How altered copies of training rows are made."""

    augment_copies: Annotated[int, Ge(0)] = 0
    """Altered copies of each training row at most; one that comes out equal to another text is left out."""
    augment_synonyms: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """Share of the words for which a neighbor of their word vector is put, 0 to 1; a word that has none stays."""
    augment_swaps: Annotated[float, Interval(ge=0, le=1)] = 0.05
    """Share of the words that change places with another of the same text, 0 to 1."""
    augment_deletions: Annotated[float, Interval(ge=0, le=1)] = 0.05
    """Share of the words that are left out, 0 to 1; one word of a text stays at least."""
    augment_neighbors: Count = 5
    """How many of the nearest words one is drawn from."""
    augment_similarity: Annotated[float, Interval(ge=-1, le=1)] = 0.6
    """Least cosine of a word and its neighbor, -1 to 1."""


def augment(split: Split, settings: Augment, seed: int, vectors: WordVectors | None) -> Split:
    """Return the rows of a train split, then altered copies of them with the same targets.

    A copy that is equal to a row or to another copy is drawn again a few times, then left out; no copy is empty.

    Args:
        split: n rows to learn from, never those of validation, calibration or test.
        settings: how many copies, and what is altered.
        seed: same rows, settings, vectors and seed, same copies on every machine.
        vectors: where neighbors are looked for; None if ``augment_synonyms`` is 0.

    Returns:
        The n rows as they are, then at most n * ``augment_copies`` more, in the order of their rows.

    Raises:
        SettingError: a value that makes no sense, or synonyms without vectors.
    """
    settings.check()
    synonyms = settings.augment_synonyms
    if not settings.augment_copies or not (synonyms or settings.augment_swaps or settings.augment_deletions):
        return split
    check(vectors is not None or not synonyms, "augment_synonyms", synonyms, "0 where no word vectors are given")
    logger.info("altered copies of %s training rows, %d of each at most", f"{len(split):,}", settings.augment_copies)
    cut = cutter(vectors)
    texts = [_Text.of(text, cut(text)) for text in split.texts]
    neighbors = _Neighbors(vectors if synonyms else None, settings, {word for text in texts for word in text.words})
    copies = _copies(texts, set(split.texts), settings, seed, neighbors)
    places = sorted(copies)
    rows = np.array([row for row, _ in places], dtype=np.int64)
    return Split(
        split.texts + [copies[place] for place in places], np.concatenate([split.targets, split.targets[rows]])
    )


def _copies(
    texts: Sequence["_Text"], seen: set[str], settings: Augment, seed: int, neighbors: "_Neighbors"
) -> dict[tuple[int, int], str]:
    """Make each copy, by its row and number.

    Args:
        seen: the texts that no copy may be equal to; what is made is added.
    """
    made: dict[tuple[int, int], str] = {}
    left = [(row, number) for row in range(len(texts)) for number in range(settings.augment_copies)]
    for attempt in range(_ATTEMPTS):
        places, left = left, []
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            # random() of a seed that is text is the one stream that Python promises to keep.
            streams = [random.Random(f"{seed} {row} {number} {attempt}") for row, number in block]
            drawn = [
                _Changes.draw(texts[row], settings, neighbors, stream.random)
                for (row, _), stream in zip(block, streams, strict=True)
            ]
            words_of = [(texts[row].words, each) for (row, _), each in zip(block, drawn, strict=True)]
            neighbors.find(words[at] for words, each in words_of for at in each.replaced)
            for place, each in zip(block, drawn, strict=True):
                text = each.applied(texts[place[0]], neighbors)
                if text in seen:
                    left.append(place)
                else:
                    seen.add(text)
                    made[place] = text
    return made


# Words


def cutter(vectors: WordVectors | None) -> Callable[[str], list[tuple[int, int]]]:
    """Return a function that finds where each word of a text begins and ends, in their order.

    Args:
        vectors: whose vocabulary segments runs without spaces; None, or one of another script: single characters.
    """
    pieces = pre_tokenizers.Split(Regex(rf"(?:{_SIGN}\p{{M}}*)+|{_SPACED}"), "removed", invert=True)
    signs = pre_tokenizers.Split(Regex(rf"{_SIGN}\p{{M}}*"), "removed", invert=True)
    words: Tokenizer | None = None
    if vectors is not None and is_unspaced(vectors.words(0, _SAMPLE)):
        words = build_tokenizer(vectors.words())
        # Where a word begins and ends is told of the text as it stands.
        words.normalizer = normalizers.Sequence([])

    def cut(text: str) -> list[tuple[int, int]]:
        found = pieces.pre_tokenize_str(text)
        if not signs.pre_tokenize_str(text):
            return [span for _, span in found]
        spans: list[tuple[int, int]] = []
        for piece, (begin, end) in found:
            parts = [span for _, span in signs.pre_tokenize_str(piece)]
            if parts and words is not None:
                parts = words.encode(piece).offsets
            spans += [(begin + a, begin + b) for a, b in parts] or [(begin, end)]
        return spans

    return cut


@dataclass(frozen=True)
class _Text:
    """A text as words and what stands around them."""

    words: list[str]
    """n words."""
    gaps: list[str]
    """n + 1 strings: before each word, and after the last."""
    free: list[int]
    """Places of the words that are no negation."""

    @classmethod
    def of(cls, text: str, spans: Sequence[tuple[int, int]]) -> "_Text":
        ends = [0, *(end for _, end in spans)]
        begins = [*(begin for begin, _ in spans), len(text)]
        gaps = [text[end:begin] for end, begin in zip(ends, begins, strict=True)]
        words = [text[begin:end] for begin, end in spans]
        return cls(words, gaps, [at for at, word in enumerate(words) if not _NEGATION.fullmatch(word)])


@dataclass(frozen=True)
class _Changes:
    """What is altered in one copy."""

    replaced: dict[int, float]
    """places of words, and where in the list of neighbors, from 0 to 1, the other word stands"""
    swapped: list[tuple[int, int]]
    deleted: set[int]

    @classmethod
    def draw(cls, text: _Text, settings: Augment, neighbors: "_Neighbors", draw: Callable[[], float]) -> "_Changes":
        count = len(text.words)
        known = [at for at in text.free if text.words[at] in neighbors.row_of]
        replaced = _chosen(known, _rounded(settings.augment_synonyms * count, draw), draw)
        pairs = _rounded(settings.augment_swaps * count / 2, draw)
        swapped = _chosen(range(count), 2 * min(pairs, count // 2), draw)
        deleted = _chosen(text.free, min(_rounded(settings.augment_deletions * count, draw), count - 1), draw)
        return cls({at: draw() for at in replaced}, list(zip(swapped[::2], swapped[1::2], strict=True)), set(deleted))

    def applied(self, text: _Text, neighbors: "_Neighbors") -> str:
        words = list(text.words)
        for at, share in self.replaced.items():
            if others := neighbors.of[words[at]]:
                words[at] = _cased_as(words[at], others[int(share * len(others))])
        for a, b in self.swapped:
            words[a], words[b] = words[b], words[a]
        parts: list[str] = []
        gap = text.gaps[0]
        for at, (word, after) in enumerate(zip(words, text.gaps[1:], strict=True)):
            if at in self.deleted:
                gap = _closed(gap, after, is_start=not parts)
            else:
                parts += gap, word
                gap = after
        # Words end the copy where they end the text.
        return "".join([*parts, gap if text.gaps[-1] else gap.rstrip()])


def _rounded(number: float, draw: Callable[[], float]) -> int:
    """The number rounded up or down by chance, so that short texts too are altered by the share on average."""
    whole = int(number)
    return whole + (draw() < number - whole)


def _chosen(places: Sequence[int], count: int, draw: Callable[[], float]) -> list[int]:
    """``count`` of the places, or all, in random order."""
    if count <= 0:
        return []
    order = {place: draw() for place in places}
    return sorted(order, key=order.__getitem__)[:count]


def _closed(before: str, after: str, is_start: bool) -> str:
    """What stands around a word that is left out: of two white spaces one, and none after an opening mark."""
    if (is_start and not before) or before[-1:] in _OPENING:
        return before + after.lstrip()
    if after[:1].isspace() or after[:1] in _CLOSING:
        return before.rstrip() + after
    return before + after


def _cased_as(word: str, other: str) -> str:
    if word.islower():
        return other.lower()
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[0].upper() + other[1:] if word[0].isupper() else other


# Neighbors


class _Neighbors:
    """The words that may stand for a word, found once for each that is drawn."""

    def __init__(self, vectors: WordVectors | None, settings: Augment, words: set[str]) -> None:
        self.vectors, self.settings = vectors, settings
        self.row_of: dict[str, int] = {}
        """the row of each word that has a vector, as it is written or in lower case"""
        self.of: dict[str, list[str]] = {}
        if vectors is not None:
            known = sorted(words)
            rows, lower = vectors.rows(known), vectors.rows([word.lower() for word in known])
            rows = np.where(rows >= 0, rows, lower)
            self.row_of = {word: row for word, row in zip(known, rows.tolist(), strict=True) if row >= 0}

    def find(self, words: Iterable[str]) -> None:
        """Look for the neighbors of those words that have not been asked for before."""
        new = sorted(set(words) - self.of.keys())
        if self.vectors is None or not new:
            return
        rows = np.unique([self.row_of[word] for word in new])
        settings = self.settings
        found = nearest_rows(self.vectors.matrix, rows, settings.augment_neighbors, settings.augment_similarity)
        by_row = {row: self.vectors.words_at(each) for row, each in zip(rows.tolist(), found, strict=True)}
        for word in new:
            self.of[word] = [other for other in by_row[self.row_of[word]] if _stands_for(other, word)]


def _stands_for(other: str, word: str) -> bool:
    """Whether a neighbor is a word of a text, and another one; not a phrase, a mark, a piece or a negation."""
    is_word = other[:1].isalpha() and "_" not in other and not _NEGATION.fullmatch(other)
    return is_word and other.casefold() != word.casefold()


def nearest_rows(matrix: np.ndarray, rows: np.ndarray, count: int, least: float) -> list[np.ndarray]:
    """Find the rows whose vectors have the highest cosine with those of ``rows``, for all of these at once.

    Args:
        matrix: (n, d) float32; neighbors are looked for in the first 50,000 rows.
        rows: (m,) int64, the rows to find neighbors of; a row is none of its own, and one of zeros has none.
        count: how many neighbors of each at most.
        least: their least cosine.

    Returns:
        m arrays of rows, the nearest first; of equally near ones the more frequent first.
    """
    units = _unit(np.asarray(matrix[:_AMONG], dtype=np.float32))
    step, most = max(1, _CELLS // len(units)), min(count, len(units))
    found: list[np.ndarray] = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        cosines = _unit(np.asarray(matrix[part], dtype=np.float32)) @ units.T
        inside = np.flatnonzero(part < len(units))
        cosines[inside, part[inside]] = -np.inf
        bounds = np.maximum(np.partition(cosines, -most, axis=1)[:, -most], least) - _SLACK
        for row, near, bound in zip(part.tolist(), cosines, bounds, strict=True):
            candidates = np.flatnonzero(near >= bound) if matrix[row].any() else np.array([], dtype=np.int64)
            # In float64 and rounded: a processor's last bits decide nothing.
            query, others = (_unit(np.asarray(matrix[at], dtype=np.float64)) for at in ([row], candidates))
            exact = np.round(others @ query[0], 9)
            order = np.argsort(-exact, kind="stable")[:count]
            found.append(candidates[order[exact[order] >= least]])
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast(np.ndarray, np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0))
