"""Find traits that tell the label nearly alone. Does not know which traits there are (traits.py), nor models."""

import zlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from scipy import sparse

from nlptransfer.data.columns import UNSPACED
from nlptransfer.data.copies import folded
from nlptransfer.data.traits import Trait, lengths_of, traits_of, values_of
from nlptransfer.errors import abridged

SIGNIFICANCE = 0.05
"""Chance that any trait at all is named in data whose labels depend on none."""
SURE, LIKELY = 0.9, 0.6
"""Least precision beyond chance of a give-away, and of a word that stands apart."""
LEAST_RECALL = 0.1
"""Least share of a label's rows that have its give-away."""
HALVED = 0.5
"""Share of the majority's errors that a trait avoids by itself, from which it is a give-away anyhow."""
LEAST_ROWS = 10
"""Rows that a trait has at least."""
MOST_COUNTED = 2**20
"""Traits that are counted at a time."""
MOST_TRAITS, MOST_COUNTS = 100_000, 2**23
"""Most traits that are looked at, the most frequent; and most traits times labels."""
MOST_CANDIDATES, MOST_NAMED = 1000, 50
"""Most traits whose company is looked at, and that are named."""
APART = 0.2
"""How much more precise a word counts that stands apart, in their order."""
ALIKE = 0.8
"""Rows that have both of two traits, as a share of those that have either, from which the traits are one."""
COMPANY_ROWS = 4000
"""Most rows of a label in which the company of a word is looked for."""
LEAST_COMPANY = 30
"""Rows of a label with a word from which its company says something."""
PERMUTATIONS = 200
BLOCK = 10_000
"""Rows whose traits are in memory at a time."""


@dataclass(frozen=True)
class Giveaway:
    """A trait that tells a label nearly alone; but for ``rows`` all figures are of rows that did not choose it."""

    kind: str
    """word, sign, script, form, start, end, length or column"""
    name: str
    """the word, the sign, the column, ..."""
    values: tuple[str, ...]
    """those that point to the label: of a start, an end, a length or a column"""
    label: int
    """the label that it points to"""
    accuracy: float
    """of a rule that knows nothing else; of several labels a row, whether a row has this one"""
    majority: float
    """accuracy of the same answer to all rows"""
    precision: float
    """share of the rows with the trait that have the label"""
    recall: float
    """share of the label's rows that have the trait"""
    rows: int
    """rows with the trait"""
    share: float
    """their share of all rows"""
    stands_apart: bool
    """whether it is a word that keeps no company in the texts of its label, as far as these are enough to tell"""
    example: int
    """a row with trait and label"""
    alike: tuple[str, ...] = ()
    """further traits of nearly the same rows"""

    def __str__(self) -> str:
        return _described(self.kind, self.name, self.values)


def giveaways_of(
    texts: Sequence[str], targets: np.ndarray, columns: Mapping[str, Sequence[Any]] | None = None
) -> list[Giveaway]:
    """Find the traits that tell a label nearly alone, the most suspicious first.

    A trait is a word (an n-gram of Chinese, Japanese, Thai, ...), a sign that is no letter or digit, what a text starts
    and ends with, its form (case, digits, markup, addresses, ...), its scripts, its length, the value of another
    column. Words of honest texts point to labels too: "excellent", "Linux". More than meaning is

    - a trait whose precision beyond chance, (p - q) / (1 - q) where q of all rows have the label, is at least ``SURE``
      in ``LEAST_RECALL`` of the label's rows or more: the words of a language are seldom both so sure and so frequent;
    - a word that is merely ``LIKELY`` but stands apart: what means something keeps company in the texts of its label
      ("waste" with "time"), and what was put there goes with no other word more or less often than chance has it
      (hypergeometric z-scores, Bonferroni);
    - a trait that by itself avoids half of the errors of always answering the most frequent label.

    Rows are halved by their folded texts. A trait must hold in each half with the label that the other half chose, and
    exceed chance there by a binomial test, corrected (Bonferroni) for all that the other half chose. The most precise
    are first; a word that stands apart counts as ``APART`` more precise.

    Args:
        texts: the rows; none of them is empty.
        targets: (rows,) label numbers, or (rows, labels) of 0 and 1.
        columns: further columns of the rows by name, of any values; None where one is missing.
    """
    values = {("length", unit): ranges for unit, ranges in lengths_of(texts).items()}
    values |= {("column", name): values_of(column) for name, column in (columns or {}).items()}
    rows = _Rows(texts, targets, values)
    vocabulary = rows.vocabulary(min(MOST_TRAITS, MOST_COUNTS // rows.width))
    if not vocabulary:
        return []
    matrix = rows.matrix(vocabulary)
    return _named(rows, vocabulary, matrix, _Counts.of(rows, vocabulary, matrix).candidates())


@dataclass(frozen=True, eq=False)
class _Rows:
    texts: Sequence[str]
    targets: np.ndarray
    values: Mapping[tuple[str, str], Sequence[str]]
    """of each row, by kind and name"""

    def traits(self, row: int) -> set[tuple[str, str, str]]:
        traits = traits_of(self.texts[row])
        traits.update((*variable, values[row]) for variable, values in self.values.items())
        return traits

    @property
    def width(self) -> int:
        return self.targets.shape[1] if self.targets.ndim == 2 else int(self.targets.max(initial=0)) + 1

    def labels(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return (rows, labels) float32 of 0 and 1."""
        some = self.targets[rows]
        return (some if some.ndim == 2 else some[:, None] == np.arange(self.width)).astype(np.float32)

    def vocabulary(self, most: int) -> list[Trait]:
        """Return the ``most`` traits that the most rows have, none of fewer than ``LEAST_ROWS``.

        Of very many the rarest are dropped on the way, as lossy counting does (Manku and Motwani 2002).
        """
        counts, floor = Counter[tuple[str, str, str]](), 0
        for row in range(len(self.texts)):
            counts.update(self.traits(row))
            while len(counts) > MOST_COUNTED:
                floor += 1
                counts = Counter({trait: count for trait, count in counts.items() if count > floor})
        return [Trait._make(trait) for trait, count in counts.most_common(most) if count >= LEAST_ROWS]

    def matrix(self, vocabulary: Sequence[Trait]) -> sparse.csr_array:
        """Return which rows have which traits, (rows, traits) int8 of 0 and 1: less memory than the texts have."""
        places, indices, ends = {trait: place for place, trait in enumerate(vocabulary)}, array("i"), array("q", [0])
        for row in range(len(self.texts)):
            indices.extend(places[trait] for trait in self.traits(row) if trait in places)
            ends.append(len(indices))
        shape = len(self.texts), len(vocabulary)
        return sparse.csr_array((np.ones(len(indices), np.int8), np.array(indices), np.array(ends)), shape)

    @property
    def halves(self) -> np.ndarray:
        """Which half each row is in, 0 or 1: copies are in the same."""
        parts = (zlib.crc32(folded(text).encode(errors="replace")) & 1 for text in self.texts)
        return np.fromiter(parts, np.int64, len(self.texts))


@dataclass(frozen=True)
class _Candidate:
    """A variable and a label that it may give away, with counts of rows that did not choose it."""

    traits: np.ndarray
    """places of those that point to the label"""
    label: int
    right: float
    """rows with trait and label"""
    rows: float
    of_label: float
    size: float
    accuracy: float
    majority: float

    @property
    def precision(self) -> float:
        """Precision beyond chance."""
        return float(_beyond(self.right, self.rows, self.of_label / self.size))

    @property
    def is_sure(self) -> bool:
        return self.precision >= SURE or 1 - self.accuracy <= (1 - HALVED) * (1 - self.majority)


@dataclass(frozen=True, eq=False)
class _Counts:
    """How many rows of each half have each trait, and each label besides."""

    variables: sparse.csr_array
    """(variables, traits) of 0 and 1: which traits exclude each other"""
    both: np.ndarray
    """(2, traits, labels)"""
    rows: np.ndarray
    """(2, traits)"""
    labels: np.ndarray
    """(2, labels)"""
    sizes: np.ndarray
    """(2,)"""
    multi_label: bool

    @classmethod
    def of(cls, rows: _Rows, vocabulary: Sequence[Trait], matrix: sparse.csr_array) -> "_Counts":
        halves, count = rows.halves, matrix.shape[0]
        both = np.zeros((2, len(vocabulary), rows.width), np.float32)
        counts, labels = np.zeros(both.shape[:2], np.float32), np.zeros((2, rows.width), np.float32)
        for start in range(0, count, BLOCK):
            for half in (0, 1):
                here = start + np.flatnonzero(halves[start : start + BLOCK] == half)
                has, targets = matrix[here].astype(np.float32), rows.labels(here)
                both[half] += has.T @ targets
                counts[half] += has.sum(axis=0)
                labels[half] += targets.sum(axis=0)
        numbers = {variable: number for number, variable in enumerate(dict.fromkeys(trait[:2] for trait in vocabulary))}
        places = [numbers[trait[:2]] for trait in vocabulary], np.arange(len(vocabulary))
        ones = np.ones(len(vocabulary), np.float32)
        variables = sparse.csr_array((ones, places), (len(numbers), len(vocabulary)))
        return cls(variables, both, counts, labels, np.bincount(halves, minlength=2), rows.targets.ndim == 2)

    def candidates(self) -> list[_Candidate]:
        """Return each variable that is likely in both halves, with the label that it tells most rows of."""
        first, second = self._judged(0, 1), self._judged(1, 0)
        holds = first[0] & second[0]
        right, rows = first[1] + second[1], first[2] + second[2]
        label_rows, size = self.labels.sum(axis=0), float(self.sizes.sum())
        accuracies = None if self.multi_label else self._accuracies()
        found = []
        for variable in np.flatnonzero(holds.any(axis=1)):
            label = int(np.where(holds[variable], right[variable], -1).argmax())
            traits = self.variables[[variable]].indices
            pointing = _beyond(
                self.both[:, traits, label].sum(0), self.rows[:, traits].sum(0), label_rows[label] / size
            )
            wrong = rows[variable, label] - right[variable, label] + label_rows[label] - right[variable, label]
            rare = min(label_rows[label], size - label_rows[label])
            found.append(
                _Candidate(
                    traits=traits[pointing >= min(LIKELY, pointing.max())],
                    label=label,
                    right=float(right[variable, label]),
                    rows=float(rows[variable, label]),
                    of_label=float(label_rows[label]),
                    size=size,
                    accuracy=1 - wrong / size if accuracies is None else float(accuracies[variable]),
                    majority=1 - rare / size if accuracies is None else float(label_rows.max() / size),
                )
            )
        return found

    def _judged(self, learned: int, judged: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose in one half the traits that point to a label, and judge them together in the other.

        Returns:
            (variables, labels): whether they hold, and in the other half the rows with trait and label, and with trait.
        """
        chances = self.labels / np.maximum(self.sizes, 1)[:, None]
        pointing = _beyond(self.both[learned], self.rows[learned][:, None], chances[learned]) >= LIKELY
        counts = [
            (self.variables @ (pointing * self.both[half]), self.variables @ (pointing * self.rows[half][:, None]))
            for half in (learned, judged)
        ]
        holds = [
            (_beyond(right, rows, chances[half]) >= LIKELY) & (right >= np.maximum(LEAST_RECALL * self.labels[half], 1))
            for half, (right, rows) in zip((learned, judged), counts, strict=True)
        ]
        right, rows = counts[1]
        beyond_chance = scipy.stats.binom.sf(right - 1, rows, chances[judged]) * holds[0].sum() <= SIGNIFICANCE
        return holds[0] & holds[1] & beyond_chance, right, rows

    def _accuracies(self) -> np.ndarray:
        """Return the accuracy of each variable by itself: its traits, and none of them, each stand for a label."""
        right = np.zeros(self.variables.shape[0])
        for learned, judged in ((0, 1), (1, 0)):
            best = self.both[learned].argmax(axis=1)
            right += self.variables @ self.both[judged][np.arange(len(best)), best]
            others = [self.labels[half] - self.variables @ self.both[half] for half in (learned, judged)]
            right += others[1][np.arange(len(right)), others[0].argmax(axis=1)]
        accuracies: np.ndarray = right / self.sizes.sum()
        return accuracies


def _beyond(right: Any, rows: Any, chance: Any) -> Any:
    """Return precision beyond chance, shrunk by a row: 1 where all are right, 0 where no more than by chance."""
    return ((right + 0.5) / (rows + 1) - chance) / np.maximum(1 - chance, 1e-9)


def _named(
    rows: _Rows, vocabulary: Sequence[Trait], matrix: sparse.csr_array, found: Sequence[_Candidate]
) -> list[Giveaway]:
    """Leave out what may be meaning, order the others, and join those of the same rows."""
    found = sorted(found, key=lambda one: -one.precision)[:MOST_CANDIDATES]
    if not found:
        return []
    apart = _standing_apart(rows, vocabulary, matrix, found)
    columns = np.repeat(np.arange(len(found)), [len(one.traits) for one in found])
    places = np.concatenate([one.traits for one in found]), columns
    joined = sparse.csr_array((np.ones(len(columns), np.float32), places), (len(vocabulary), len(found)))
    has = sparse.csc_array(matrix @ joined)
    counts, both = has.sum(axis=0), (has.T @ has).toarray()
    # Another column is a matter of its own.
    is_text = np.array([vocabulary[one.traits[0]].kind != "column" for one in found])
    alike = (both >= ALIKE * (counts[:, None] + counts - both)) & is_text & is_text[:, None]

    def name(place: int) -> str:
        traits = [vocabulary[trait] for trait in found[place].traits]
        return _described(traits[0].kind, traits[0].name, [trait.value for trait in traits])

    named, taken = list[Giveaway](), set[int]()
    suspicious = [place for place, one in enumerate(found) if one.is_sure or apart[place]]
    for place in sorted(suspicious, key=lambda place: -found[place].precision - APART * apart[place]):
        if place in taken:
            continue
        others = [other for other in np.flatnonzero(alike[place]).tolist() if other != place and other not in taken]
        taken.update((place, *others))
        one, first, having = found[place], vocabulary[found[place].traits[0]], has[:, [place]].indices
        named.append(
            Giveaway(
                kind=first.kind,
                name=first.name,
                values=tuple(vocabulary[trait].value for trait in one.traits),
                label=one.label,
                accuracy=one.accuracy,
                majority=one.majority,
                precision=one.right / one.rows,
                recall=one.right / one.of_label,
                rows=len(having),
                share=len(having) / len(rows.texts),
                stands_apart=apart[place],
                example=int(having[rows.labels(having)[:, one.label] > 0].min()),
                alike=tuple(map(name, others)),
            )
        )
    return named[:MOST_NAMED]


def _standing_apart(
    rows: _Rows, vocabulary: Sequence[Trait], matrix: sparse.csr_array, found: Sequence[_Candidate]
) -> list[bool]:
    """Tell of each candidate whether it is a word that is in the label's texts whatever other words are there.

    Of a word in too few of them nobody knows; a sure one is taken for one that is.
    """
    words = [place for place, trait in enumerate(vocabulary) if trait.kind == "word"]
    names, columns = [vocabulary[place].name for place in words], {place: column for column, place in enumerate(words)}
    apart = [False] * len(found)
    for label in {one.label for one in found}:
        texts = np.flatnonzero(rows.labels(slice(None))[:, label] > 0)
        if len(texts) > COMPANY_ROWS:
            texts = np.sort(np.random.default_rng(0).choice(texts, COMPANY_ROWS, replace=False))
        has = matrix[texts][:, words].astype(np.float32)
        for place, one in enumerate(found):
            if one.label == label and (column := columns.get(int(one.traits[0]))) is not None:
                enough = one.right >= LEAST_COMPANY
                apart[place] = _keeps_no_company(has, column, names) if enough else one.is_sure
    return apart


def _keeps_no_company(has: sparse.csr_array, column: int, words: Sequence[str]) -> bool:
    """Tell whether the word of a column is in rows (rows, words) regardless of the other words and of their number.

    Correlations, squared, with the number and with each word in enough rows: neither their sum nor the largest is among
    the highest where the rows that have the word are permuted.
    """
    rng, size = np.random.default_rng(0), has.shape[0]
    word = has[:, [column]].toarray()[:, 0]
    if word.all():
        return False
    expected = has.mean(axis=0) * word.sum()
    others = [place for place in np.flatnonzero(expected >= 1).tolist() if not _overlap(words[place], words[column])]
    lengths = sparse.csr_array((has.sum(axis=1) - word)[:, None])
    company = sparse.hstack([has[:, others], lengths], format="csr")
    drawn = np.stack([word, *(rng.permutation(word) for _ in range(PERMUTATIONS))], axis=1)
    mean = company.mean(axis=0)
    spread = (company.multiply(company)).mean(axis=0) - mean**2
    squares = (company.T @ drawn - (mean * word.sum())[:, None]) ** 2 / np.maximum(spread, 1 / size)[:, None]
    ranks = [(scores[1:] >= scores[0]).mean() for scores in (squares.sum(axis=0), squares.max(axis=0))]
    return bool(min(ranks) > SIGNIFICANCE / 2)


def _overlap(one: str, other: str) -> bool:
    """Tell whether two words are the same, or pairs of letters that share one, and so may be parts of one word."""
    return one == other or (not {*one}.isdisjoint(other) and bool(UNSPACED.search(one) and UNSPACED.search(other)))


def _described(kind: str, name: str, values: Sequence[str]) -> str:
    """Say what a trait is, as the part of a sentence."""
    some = abridged(values, 3)
    return {
        "word": f"the word {name!r}",
        "sign": f"the sign {name!r}",
        "script": f"letters of the script {name.title()}",
        "form": name,
        "start": f"a start with {some}",
        "end": f"an end with {some}",
        "length": f"a length of {some} {name}",
        "column": f"{some} in the column {name!r}",
    }[kind]
