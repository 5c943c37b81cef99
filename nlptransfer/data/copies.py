"""Find rows that repeat others: exactly, folded, or nearly. Does not know labels, splits, features or scores.

Near copies are candidates by MinHash (Broder 1997) in buckets of two hashes each (Indyk & Motwani 1998), all of which
are compared in full: how much of each stands in the other, in runs of eight bytes or more. Eight bytes of UTF-8 are a
word and a half in English as in Chinese. Time is linear in the rows, and memory: some 600 bytes a row.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RUN = 8
"""Least bytes that two texts have in common: a 64-bit integer."""
SHORT = 40
"""Bytes that say nothing yet: shorter texts have no near copies, as "What is the capital of Peru?" of another land."""
DIFFERENT = 0.15
"""Share of the bytes beyond ``SHORT`` that a copy need not have: one word of twenty, as texts are longer several."""
LONGER = 4.0
"""How many times as long a text may be that has all of another."""
ALIKE = 0.6
"""Least share of common bytes of texts that are no copies, but alike."""
HASHES, BUCKET = 80, 2
NEIGHBORS = 6
"""Rows after it in a bucket that each row is compared with; where there are more, as by a phrase of many, the next."""
_BLOCK = 2**18
"""Bytes of texts that are worked on at a time."""
_ODD = np.uint64(0x9E3779B97F4A7C15)

Kind = Literal["", "exact", "folded", "near"]
KINDS: tuple[Kind, ...] = ("", "exact", "folded", "near")


class _Letters(dict[int, int | None]):
    """What becomes of each letter of a text that is folded, looked up once: None where it is left out."""

    def __missing__(self, letter: int) -> int | None:
        category = unicodedata.category(chr(letter))
        # Emoji are symbols and stay; their variation selectors go, and accents that stand alone (Sk), as "`".
        is_left_out = category[0] in "PZC" or category == "Sk" or 0xFE00 <= letter <= 0xFE0F
        self[letter] = stays = None if is_left_out else letter
        return stays


_LETTERS = _Letters()
_LEFT_OUT = bytes(letter for letter in range(128) if _LETTERS[letter] is None)


def folded(text: str) -> str:
    """Write a text without what copies of it differ in: case, white space, punctuation, compatibility forms (NFKC).

    A text of nothing else stays as it is.
    """
    if text.isascii():
        return text.lower().encode().translate(None, _LEFT_OUT).decode() or text
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", lower.translate(_LETTERS)) or text


@dataclass(frozen=True, eq=False)
class Copies:
    """Which rows copy others; groups are connected: a copy of a copy belongs to them."""

    first: np.ndarray
    """(rows,): place of the first row of the group; the row's own where it has no copy before it"""
    of: np.ndarray
    """(rows,): place of the row that each but the first of a group copies, the most similar one; -1 for none"""
    kinds: np.ndarray
    """(rows,): of what kind the copy is, a place in :data:`KINDS`"""
    similarity: np.ndarray
    """(rows,): share of the bytes of both that they have in common, 1 where folded; 0 for none"""
    alike: np.ndarray
    """(pairs, 2): rows that differ in few words, but are too short to be copies"""
    alike_similarity: np.ndarray
    """(pairs,)"""


def copies_of(texts: Sequence[str]) -> Copies:
    """Group the rows whose texts are copies, exact, folded (:func:`folded`) or near."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers, raw, first_exact = dict[str, int](), dict[str, int](), np.empty(len(texts), np.int64)
    number = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        first_exact[row] = raw.setdefault(text, row)
        is_new = first_exact[row] == row
        number[row] = numbers.setdefault(folded(text), len(numbers)) if is_new else number[first_exact[row]]
    _, first_row = np.unique(number, return_index=True)
    place = np.arange(len(texts))
    first_folded = first_row[number]
    of = np.where(first_exact < place, first_exact, np.where(first_folded < place, first_folded, -1))
    kinds = np.where(first_exact < place, 1, np.where(first_folded < place, 2, 0))
    similarity = (kinds > 0).astype(np.float32)

    one, other, shares, alike, alike_shares = _near([*numbers])
    del numbers, raw
    count = len(first_row)
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    # Distinct texts are numbered by their first rows: the first of a group is the smallest number.
    leader = np.full(count, count)
    np.minimum.at(leader, groups, np.arange(count))
    # Of each text the most similar one, an earlier one of several; the last that is written stays.
    ends, starts = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.lexsort((-ends, np.concatenate([shares, shares]), ends < starts))
    best, best_share = np.full(count, -1), np.zeros(count, np.float32)
    best[starts[order]], best_share[starts[order]] = ends[order], np.concatenate([shares, shares])[order]
    copied = np.flatnonzero(leader[groups] < np.arange(count))
    rows = first_row[copied]
    of[rows], kinds[rows], similarity[rows] = first_row[best[copied]], 3, best_share[copied]
    first = first_row[leader[groups]][number]
    return Copies(first, of, kinds.astype(np.int8), similarity, first_row[alike], alike_shares)


@dataclass(frozen=True, eq=False)
class _Bytes:
    """Texts as bytes, one after the other."""

    windows: np.ndarray
    """(bytes,) uint64: the eight bytes from each place on"""
    sizes: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Bytes":
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        joined = b"".join(encoded) + bytes(RUN)
        windows = np.ndarray(len(joined) - RUN, "<u8", joined, strides=(1,))
        return cls(windows, sizes, np.cumsum(sizes) - sizes)

    def runs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the windows within texts of at least eight bytes: (owner, a place in ``rows``; place in it; value)."""
        counts = self.sizes[rows] - RUN + 1
        owners = np.repeat(np.arange(len(rows)), counts)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owners, places, self.windows[self.starts[rows][owners] + places]

    def common(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the bytes of each text, (pairs,) of one and of the other, that stand in a run which both have."""
        rows, pairs = np.concatenate([one, other]), np.uint64(len(one))
        owners, places, values = self.runs(rows)
        keys = _mixed(values + _ODD * (owners.astype(np.uint64) % pairs))
        order = np.argsort(keys)
        keys, sides = keys[order], np.where(owners < len(one), 1, 2)[order]
        firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        are_common = np.bitwise_or.reduceat(sides, firsts) == 3
        sizes = self.sizes[rows]
        starts = np.cumsum(sizes) - sizes
        steps = np.zeros(sizes.sum() + 1, np.int32)
        at = (starts[owners] + places)[order[np.repeat(are_common, np.diff(firsts, append=len(keys)))]]
        steps[at] += 1
        steps[at + RUN] -= 1
        counts = np.add.reduceat(np.cumsum(steps)[:-1] > 0, starts)
        return counts[: len(one)], counts[len(one) :]


def _near(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare candidates among distinct folded texts.

    Returns the places (copies,) of near copies, one and other, and their similarity; pairs (pairs, 2) that are alike,
    and theirs.
    """
    data = _Bytes.of(texts)
    one, other = _candidates(data)
    similarity, are_copies = np.empty(len(one), np.float32), np.empty(len(one), bool)
    for part in _blocks(data.sizes[one] + data.sizes[other]):
        sizes = data.sizes[one[part]], data.sizes[other[part]]
        common = data.common(one[part], other[part])
        similarity[part] = (common[0] + common[1]) / (sizes[0] + sizes[1])
        are_copies[part] = _are_copies(sizes[0], common[0], sizes[1], common[1])
    are_alike = ~are_copies & (similarity >= ALIKE)
    alike = np.stack([one, other], axis=1)[are_alike]
    return one[are_copies], other[are_copies], similarity[are_copies], alike, similarity[are_alike]


def _are_copies(size: np.ndarray, common: np.ndarray, other_size: np.ndarray, other_common: np.ndarray) -> np.ndarray:
    """Tell which pairs are copies: both have few bytes of their own, or the shorter, a fourth of the longer."""
    own, other_own = size - common, other_size - other_common
    few, other_few = own <= DIFFERENT * (size - SHORT), other_own <= DIFFERENT * (other_size - SHORT)
    # Of a text that stands whole in another, a run of less than eight may be cut off where something was added.
    whole = few & (own < RUN) & (size <= other_size) & (other_size <= LONGER * size)
    other_whole = other_few & (other_own < RUN) & (other_size <= size) & (size <= LONGER * other_size)
    are_copies: np.ndarray = (few & other_few) | whole | other_whole
    return are_copies


def _candidates(data: _Bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of places that share a bucket, and enough of their hashes, ordered."""
    rows = np.flatnonzero(data.sizes >= RUN)
    hashes, sizes = _hashes(data, rows), data.sizes[rows]
    pairs = [np.empty(0, np.int64)]
    for start in range(0, HASHES, BUCKET):
        keys = hashes[:, start].astype(np.uint64) << np.uint64(32) | hashes[:, start + 1]
        _, bucket, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        for step in range(1, NEIGHBORS + 1):
            is_pair = bucket[step:] == bucket[:-step]
            if step > 1:
                is_pair &= counts[bucket[step:]] <= NEIGHBORS + 1
            at = np.flatnonzero(is_pair)
            one, other = order[at], order[at + step]
            enough = _share_enough(hashes, sizes, one, other)
            pairs.append(one[enough] * len(rows) + other[enough])
    one, other = np.divmod(np.unique(np.concatenate(pairs)), max(len(rows), 1))
    return rows[one], rows[other]


def _share_enough(hashes: np.ndarray, sizes: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which pairs may be copies by the Jaccard similarity that their hashes estimate (within .15, mostly).

    Where one stands in the other it is the ratio of their sizes; of texts that differ in few words .55 or more.
    """
    ratio = np.minimum(sizes[one], sizes[other]) / np.maximum(sizes[one], sizes[other])
    least = np.clip(ratio - 0.2, 0.12, 0.45) * HASHES
    blocks = (slice(start, start + 2**14) for start in range(0, len(one), 2**14))
    equal = [(hashes[one[block]] == hashes[other[block]]).sum(axis=1) for block in blocks]
    enough: np.ndarray = np.concatenate([np.empty(0, np.int64), *equal]) >= least
    return enough


def _hashes(data: _Bytes, rows: np.ndarray) -> np.ndarray:
    """Return the least of each hash over the windows of each text, (rows, hashes) uint32."""
    factors = np.random.default_rng(0).integers(2**63, size=HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty((len(rows), HASHES), np.uint32)
    for part in _blocks(data.sizes[rows]):
        _, places, values = data.runs(rows[part])
        values, starts = _mixed(values), np.flatnonzero(places == 0)
        for place, factor in enumerate(factors):
            hashes[part, place] = np.minimum.reduceat(values * factor >> np.uint64(32), starts)
    return hashes


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread integers over 64 bits, each to another (the last steps of MurmurHash3)."""
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: np.ndarray = values ^ values >> np.uint64(33)
    return mixed


def _blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Cut a sequence into slices of about ``_BLOCK`` bytes."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield slice(start, stop)
        start = stop
