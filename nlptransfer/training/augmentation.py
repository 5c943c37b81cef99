"""Altered copies of training rows: words replaced by a neighbor of their vector, words swapped, words left out.

For the train split only: rows that choose or score must be ones that somebody wrote. The operations are those of Wei
and Zou 2019, "EDA: Easy Data Augmentation Techniques"; neighbors of word vectors stand for synonyms (Wang and Yang
2015, "That's So Annoying!!!"). A neighbor may also be an opposite, "good" beside "bad": ``augment_similarity`` and a
small share keep these few, and English negations neither come nor go.

A word is a run of letters or a number. In scripts without spaces the vocabulary of the vectors segments runs into
words; where it has no such script, or there are no vectors, a word is a single character.
"""

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from nlptransfer.data import Split
from nlptransfer.settings import Count, Settings, check
from nlptransfer.vectors import WordVectors, build_tokenizer, is_unspaced

logger = logging.getLogger("nlptransfer")

_ATTEMPTS = 5
_FREQUENT = 50_000
"""The most frequent words, among which neighbors are looked for: rarer ones are seldom the better word."""
_CELLS = 1 << 24
"""Cosines that are computed at a time."""
_SAMPLE = 5000
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
    """Return the rows of a train split, then altered copies of them in their order, with the same targets.

    A copy that is equal to a row or to another copy is drawn again a few times, then left out; no copy is empty. The
    same rows, settings, vectors and seed give the same copies on every machine. A value that makes no sense, or
    synonyms without vectors, are a SettingError.
    """
    settings.check()
    synonyms = settings.augment_synonyms
    if not settings.augment_copies or not (synonyms or settings.augment_swaps or settings.augment_deletions):
        return split
    check(vectors is not None or not synonyms, "augment_synonyms", synonyms, "0 where no word vectors are given")
    logger.info(
        "Making altered copies of %s training rows, at most %d of each", f"{len(split):,}", settings.augment_copies
    )
    find_words = word_finder(vectors)
    texts = [_Text.of(text, find_words(text)) for text in split.texts]
    free = {text.words[place] for text in texts for place in text.free}
    neighbors = _neighbors(sorted(free), vectors, settings) if vectors is not None and synonyms else {}
    seen, copies = set(split.texts), dict[tuple[int, int], str]()
    missing = [(row, number) for row in range(len(texts)) for number in range(settings.augment_copies)]
    for attempt in range(_ATTEMPTS):
        for row, number in missing:
            # random() of a seed that is text is the one stream that Python promises to keep.
            draw = random.Random(f"{seed} {row} {number} {attempt}").random
            copy = _altered(texts[row], settings, neighbors, draw)
            if copy not in seen:
                seen.add(copy)
                copies[row, number] = copy
        missing = [place for place in missing if place not in copies]
    places = sorted(copies)
    rows = np.array([row for row, _ in places], dtype=np.int64)
    targets = np.concatenate([split.targets, split.targets[rows]])
    weights = None if split.weights is None else np.concatenate([split.weights, split.weights[rows]])
    return Split([*split.texts, *(copies[place] for place in places)], targets, weights)


def word_finder(vectors: WordVectors | None) -> Callable[[str], list[tuple[int, int]]]:
    """Return a function that finds where each word of a text begins and ends, in their order."""
    pieces = pre_tokenizers.Split(Regex(rf"(?:{_SIGN}\p{{M}}*)+|{_SPACED}"), "removed", invert=True)
    signs = pre_tokenizers.Split(Regex(rf"{_SIGN}\p{{M}}*"), "removed", invert=True)
    words: Tokenizer | None = None
    if vectors is not None and is_unspaced(vectors.words(0, _SAMPLE)):
        words = build_tokenizer(vectors.words())
        # The offsets of words are those in the text as it is.
        words.normalizer = normalizers.Sequence([])

    def find_words(text: str) -> list[tuple[int, int]]:
        runs = pieces.pre_tokenize_str(text)
        if not signs.pre_tokenize_str(text):
            return [span for _, span in runs]
        spans: list[tuple[int, int]] = []
        for piece, (begin, end) in runs:
            parts = [span for _, span in signs.pre_tokenize_str(piece)]
            if parts and words is not None:
                parts = words.encode(piece).offsets
            spans += [(begin + a, begin + b) for a, b in parts] or [(begin, end)]
        return spans

    return find_words


@dataclass(frozen=True)
class _Text:
    words: list[str]
    gaps: list[str]
    """what stands before each word, and after the last"""
    free: list[int]
    """places of the words that are no negation"""

    @classmethod
    def of(cls, text: str, spans: Sequence[tuple[int, int]]) -> "_Text":
        ends = [0, *(end for _, end in spans)]
        begins = [*(begin for begin, _ in spans), len(text)]
        gaps = [text[end:begin] for end, begin in zip(ends, begins, strict=True)]
        words = [text[begin:end] for begin, end in spans]
        return cls(words, gaps, [at for at, word in enumerate(words) if not _NEGATION.fullmatch(word)])


def _altered(text: _Text, settings: Augment, neighbors: Mapping[str, Sequence[str]], draw: Callable[[], float]) -> str:
    words, count = list(text.words), len(text.words)
    known = [place for place in text.free if words[place] in neighbors]
    replaced = _chosen(known, _rounded(settings.augment_synonyms * count, draw), draw)
    pairs = _rounded(settings.augment_swaps * count / 2, draw)
    swapped = _chosen(range(count), 2 * min(pairs, count // 2), draw)
    deleted = _chosen(text.free, min(_rounded(settings.augment_deletions * count, draw), count - 1), draw)
    for place in replaced:
        share, others = draw(), neighbors[words[place]]
        if others:
            words[place] = _cased_as(words[place], others[int(share * len(others))])
    for a, b in zip(swapped[::2], swapped[1::2], strict=True):
        words[a], words[b] = words[b], words[a]
    parts: list[str] = []
    gap = text.gaps[0]
    for place, (word, after) in enumerate(zip(words, text.gaps[1:], strict=True)):
        if place in deleted:
            gap = _closed(gap, after, is_start=not parts)
        else:
            parts += gap, word
            gap = after
    # Words end the copy where they end the text.
    return "".join([*parts, gap if text.gaps[-1] else gap.rstrip()])


def _rounded(number: float, draw: Callable[[], float]) -> int:
    """Round a number up or down by chance, so that short texts too are altered by the share on average."""
    whole = int(number)
    return whole + (draw() < number - whole)


def _chosen(places: Sequence[int], count: int, draw: Callable[[], float]) -> list[int]:
    if count <= 0:
        return []
    order = {place: draw() for place in places}
    return sorted(order, key=order.__getitem__)[:count]


def _closed(before: str, after: str, is_start: bool) -> str:
    """Join what is around a deleted word: one of two white spaces, and none after an opening mark."""
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


def _neighbors(words: Sequence[str], vectors: WordVectors, settings: Augment) -> dict[str, list[str]]:
    rows, lower = vectors.rows(words), vectors.rows([word.lower() for word in words])
    row_of = {word: row for word, row in zip(words, np.where(rows >= 0, rows, lower).tolist(), strict=True) if row >= 0}
    rows = np.unique(np.array([*row_of.values()], dtype=np.int64))
    nearest = nearest_rows(vectors.matrix, rows, settings.augment_neighbors, settings.augment_similarity)
    words_near = {row: vectors.words_at(near) for row, near in zip(rows.tolist(), nearest, strict=True)}
    return {word: [other for other in words_near[row] if _can_replace(other, word)] for word, row in row_of.items()}


def _can_replace(other: str, word: str) -> bool:
    """Tell whether a neighbor is a word of a text, and another one; not a phrase, a mark, a piece or a negation."""
    is_word = other[:1].isalpha() and "_" not in other and not _NEGATION.fullmatch(other)
    return is_word and other.casefold() != word.casefold()


def nearest_rows(matrix: np.ndarray, rows: np.ndarray, count: int, least: float) -> list[np.ndarray]:
    """Find the ``count`` frequent words with the highest cosine, from ``least``, to each row, the nearest first.

    ``matrix`` is (n, d) float32, most frequent word first, and ``rows`` (m,) int64. A row is no neighbor of its own,
    and one of zeros has none; of equally near ones the more frequent comes first.
    """
    from sklearn.preprocessing import normalize

    # In float64 and rounded: a processor's last bits decide nothing.
    units = normalize(np.asarray(matrix[:_FREQUENT], dtype=np.float64))
    step, most = max(1, _CELLS // len(units)), min(count, len(units))
    nearest: list[np.ndarray] = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        queries = normalize(np.asarray(matrix[part], dtype=np.float64))
        cosines = np.round(queries @ units.T, 9)
        frequent = np.flatnonzero(part < len(units))
        cosines[frequent, part[frequent]] = -np.inf
        cosines[~queries.any(axis=1)] = -np.inf
        bounds = np.maximum(np.partition(cosines, -most, axis=1)[:, -most], least)
        for near, bound in zip(cosines, bounds, strict=True):
            candidates = np.flatnonzero(near >= bound)
            nearest.append(candidates[np.argsort(-near[candidates], kind="stable")[:count]])
    return nearest
