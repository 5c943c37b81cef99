"""Split labeled texts without leaks: stratified, what belongs together on one side, the same on every machine.

A seeded hash of texts decides, not rows, platform or library. Rows of one group are one unit, never split: texts that
are the same when folded, or what else is named as a group. The time is linear in rows and labels but for sorting. Does
not know label names.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import compress, pairwise
from operator import lt

import numpy as np

from nlptransfer.data.copies import folded
from nlptransfer.errors import DataError

DISTINCT_TEXTS = "distinct texts"
"""What units are, for messages, if nothing else is named."""


@dataclass(frozen=True, eq=False)
class Units:
    """Groups of rows in an order, each with all its rows, and with the labels that one of these carries."""

    rows: np.ndarray
    """(rows,): indices of rows, unit by unit, in each that of its smallest text first"""
    sizes: np.ndarray
    """(units,): rows of each"""
    labels: np.ndarray
    """(pairs,): ids of labels, unit by unit, each once"""
    counts: np.ndarray
    """(pairs,): rows of the unit that carry the label"""
    breadths: np.ndarray
    """(units,): labels of each"""
    num_labels: int
    are_named: bool = False
    """whether groups were named, which can be large, instead of those of one text"""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_rows(self) -> int:
        return int(self.sizes.sum())

    @property
    def owners(self) -> np.ndarray:
        """(pairs,): the unit of each label."""
        return np.repeat(np.arange(len(self)), self.breadths)

    def take(self, units: np.ndarray) -> "Units":
        """Take units by their places, in that order, or by a mask."""
        places = np.flatnonzero(units) if units.dtype == bool else units
        rows, pairs = _members(self.sizes, places), _members(self.breadths, places)
        counted = self.sizes[places], self.labels[pairs], self.counts[pairs], self.breadths[places]
        return Units(self.rows[rows], *counted, self.num_labels, self.are_named)

    def label_rows(self) -> np.ndarray:
        """Count the rows of each label, (labels,)."""
        return np.bincount(self.labels, self.counts, self.num_labels).astype(np.int64)

    def label_units(self, of: np.ndarray | None = None) -> np.ndarray:
        """Count the units of each label, (labels,), among those where a mask is true."""
        labels = self.labels if of is None else self.labels[of[self.owners]]
        return np.bincount(labels, minlength=self.num_labels)

    def carrying(self, labels: np.ndarray) -> np.ndarray:
        """Tell which units carry one of the labels where a mask (labels,) is true, (units,)."""
        found = np.zeros(len(self), bool)
        found[self.owners[labels[self.labels]]] = True
        return found


def units_of(texts: Sequence[str], targets: np.ndarray, seed: int, groups: np.ndarray | None = None) -> Units:
    """Return groups of rows in the order of the hash of their smallest texts, keyed by ``seed``.

    Args:
        texts: of the rows.
        targets: as in a split.
        seed: of the order.
        groups: (rows,) int64, the same for rows that belong together; None: :func:`text_groups`.
    """
    digests, rows = _digests(texts, seed), np.arange(len(texts))
    # Groups with the same smallest text, which only values of a column have, stay in the order of their numbers.
    _, first, unit = np.unique(text_groups(texts) if groups is None else groups, return_index=True, return_inverse=True)
    are_mixed = np.zeros(len(first), bool)
    are_mixed[unit[(digests != digests[first][unit]).any(axis=1)]] = True
    # The first row of each unit becomes that of its smallest text, whatever the order of the rows.
    for row in sorted(np.flatnonzero(are_mixed[unit]).tolist(), key=texts.__getitem__, reverse=True):
        first[unit[row]] = row
    ranked, place = _order(digests[first]), np.empty(len(first), np.int64)
    place[ranked] = np.arange(len(first))
    unit = place[unit]
    order = np.lexsort((rows != first[ranked][unit], unit))
    unit = unit[order]
    sizes = np.bincount(unit)
    pair_rows, label = np.nonzero(targets[order]) if targets.ndim > 1 else (rows, targets[order])
    num_labels = targets.shape[1] if targets.ndim > 1 else int(targets.max(initial=-1)) + 1
    pairs, counts = unit[pair_rows] * max(num_labels, 1) + label, np.ones(len(label), np.int64)
    if len(sizes) < len(order):
        pairs, counts = np.unique(pairs, return_counts=True)
    breadths = np.bincount(pairs // max(num_labels, 1), minlength=len(sizes))
    return Units(order, sizes, pairs % max(num_labels, 1), counts, breadths, num_labels, groups is not None)


def text_groups(texts: Iterable[str]) -> np.ndarray:
    """Number texts in this process, (texts,) int64 from 0, the same where they are the same when folded."""
    # Two of a million have the same 63 bits in one of 10**7 cases, and are then on one side.
    return np.fromiter(map(hash, map(folded, texts)), np.int64) & np.iinfo(np.int64).max


def value_groups(values: Sequence[str | None], texts: Iterable[str]) -> np.ndarray:
    """Number values, (values,) int64 below 0, the same where they are the same; the text counts where one is None."""
    is_missing = [value is None for value in values]
    groups = _digests((value or "" for value in values), "value")[:, 0].astype(np.int64) | np.iinfo(np.int64).min
    groups[is_missing] = text_groups(compress(texts, is_missing))
    return groups


def shuffle_units(units: Units, texts: Sequence[str], seed: int) -> Units:
    """Return units of ``texts`` in the order of the hash of their smallest texts, keyed by ``seed``."""
    first = units.rows[np.cumsum(units.sizes) - units.sizes]
    return units.take(_order(_digests([texts[row] for row in first.tolist()], seed)))


def _digests(texts: Iterable[str], seed: int | str) -> np.ndarray:
    """Hash texts, (texts, 2) of 64 bits each, which are ordered as the bytes are."""
    keyed, digests = hashlib.blake2b(digest_size=16, key=str(seed).encode()), bytearray()
    for text in texts:
        copy = keyed.copy()
        copy.update(text.encode())
        digests += copy.digest()
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


def _order(digests: np.ndarray) -> np.ndarray:
    return np.lexsort((digests[:, 1], digests[:, 0]))


def _members(sizes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the indices of what belongs to groups of these sizes, group by group in the order of ``places``."""
    chosen = sizes[places]
    starts = (np.cumsum(sizes) - sizes)[places]
    return np.repeat(starts - (np.cumsum(chosen) - chosen), chosen) + np.arange(chosen.sum())


def rare_labels(units: Units, splits: int) -> np.ndarray:
    """Tell which labels have fewer units than there are splits, (labels,): their units stay in train."""
    return units.label_units() < splits


def carve(
    units: Units,
    share: float,
    *,
    of: Units | None = None,
    staying: np.ndarray | None = None,
    least_kept: int = 1,
    least_taken: int = 1,
) -> tuple[Units, Units]:
    """Split ``units`` into (kept, taken), ``share`` (0 to 1) of every label's rows being taken.

    Units are dealt out in their order. The share is of those in ``of`` (None: ``units``), where some were taken before.
    Units with a label of ``staying`` (labels,) are kept, and no share of them is taken. Of any other label
    ``least_kept`` units are kept, and then ``least_taken`` taken, if there are as many whose other labels allow it.
    """
    staying = np.zeros(units.num_labels, bool) if staying is None else staying
    free = np.flatnonzero(~units.carrying(staying))
    dealt = units.take(free)
    whole = dealt if of is None else of.take(~of.carrying(staying))
    wanted = _wanted(whole.label_rows(), share, least_taken)
    taken = _stratify(dealt, wanted, round(share * whole.num_rows))
    if units.are_named:
        _balance(dealt, taken, wanted)
    _move_rarest(dealt, taken, (least_kept, least_taken))
    sides = np.zeros(len(units), bool)
    sides[free] = taken
    return units.take(~sides), units.take(sides)


def subset(units: Units, most: int, least: int, unit_name: str = DISTINCT_TEXTS) -> Units:
    """Return a stratified subset of at most ``most`` rows; that of a smaller ``most`` is part of it.

    One order of the units, cut where the rows are full: first ``least`` units of every label, or all where there are
    fewer (a DataError where there is no room for them), then each unit at its quantile among those of the same rarest
    label.
    """
    if units.num_rows <= most:
        return units
    is_front = _first_of_each_label(units, least)
    if (needed := int(units.sizes[is_front].sum())) > most:
        raise DataError(
            f"max_train_rows leaves {most} rows to train on: expected {needed} or more, to keep {least} {unit_name} "
            f"of each of the {units.num_labels} labels; raise it"
        )
    # The rarest label of each unit, by one number; units without a label are a stratum of their own.
    rarity = np.argsort(np.argsort(units.label_rows(), kind="stable"))
    stratum = np.full(len(units), units.num_labels)
    np.minimum.at(stratum, units.owners, rarity[units.labels])
    order = np.lexsort((~is_front, stratum))
    sizes, groups = units.sizes[order], stratum[order]
    before = np.cumsum(sizes) - sizes
    starts = np.append(True, groups[1:] != groups[:-1])
    before -= np.repeat(before[starts], np.diff(np.append(np.flatnonzero(starts), len(order))))
    place = np.empty(len(units))
    place[order] = before / np.bincount(groups, sizes)[groups]
    place[is_front] = -1.0
    queue = np.argsort(place, kind="stable")
    chosen = np.zeros(len(units), bool)
    chosen[queue[np.cumsum(units.sizes[queue]) <= most]] = True
    return units.take(chosen)


def _first_of_each_label(units: Units, least: int) -> np.ndarray:
    """Tell which units are the first ``least`` of a label, where those that earlier ones bring along count."""
    missing = np.minimum(units.label_units(), least)
    found, remaining = np.zeros(len(units), bool), int(missing.sum())
    labels, missing = units.labels.tolist(), missing.tolist()
    for index, pairs in enumerate(_ranges(units)):
        if not remaining:
            break
        carried = [label for label in labels[pairs.start : pairs.stop] if missing[label] > 0]
        found[index] = bool(carried)
        remaining -= len(carried)
        for label in carried:
            missing[label] -= 1
    return found


def _wanted(label_rows: np.ndarray, share: float, least: int) -> np.ndarray:
    """Return whole rows to take of every label: each share rounded up or down so that their sum is right."""
    exact = {label: share * rows for label, rows in enumerate(label_rows.tolist()) if rows}
    wanted = {label: int(rows + 1e-9) for label, rows in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (round(wanted[label] - exact[label], 9), label))
    for label in by_remainder[: round(sum(exact.values())) - sum(wanted.values())]:
        wanted[label] += 1
    found = np.zeros(len(label_rows), np.int64)
    found[[*wanted]] = [max(rows, least) for rows in wanted.values()]
    return found


def _stratify(units: Units, wanted: np.ndarray, wanted_rows: int) -> np.ndarray:
    """Tell which units are taken, (units,), by iterative stratification into two subsets.

    The label with the fewest units left is dealt out first, each unit to the subset that wants more rows of the label,
    then to the one that wants more rows at all (Sechidis et al. 2011, algorithm 1).
    """
    if (units.sizes == 1).all() and (units.breadths == 1).all():
        return _stratify_single(units.labels, wanted, wanted_rows)
    kept, taken = (units.label_rows() - wanted).tolist(), wanted.tolist()
    want, free_rows = (kept, taken), [units.num_rows - wanted_rows, wanted_rows]
    sizes, breadths, ends = units.sizes.tolist(), units.breadths.tolist(), np.cumsum(units.breadths).tolist()
    labels, counts, carriers, left = (
        units.labels.tolist(),
        units.counts.tolist(),
        _carriers(units),
        units.label_units().tolist(),
    )
    sides = [-1] * len(units)
    queue = [(number, label) for label, number in enumerate(left)]
    heapify(queue)
    while queue:
        number, label = heappop(queue)
        # A label is queued again whenever it has fewer units left; what it had before is out of date.
        if left[label] != number:
            continue
        for index in carriers[label]:
            if sides[index] >= 0:
                continue
            more = taken[label] - kept[label]
            side = 1 if more > 0 or (more == 0 and free_rows[1] > free_rows[0]) else 0
            sides[index] = side
            free_rows[side] -= sizes[index]
            for pair in range(ends[index] - breadths[index], ends[index]):
                other = labels[pair]
                want[side][other] -= counts[pair]
                if other != label:
                    left[other] -= 1
                    heappush(queue, (left[other], other))
        left[label] = -1
    for index in np.flatnonzero(units.breadths == 0).tolist():
        side = int(free_rows[1] > free_rows[0])
        sides[index] = side
        free_rows[side] -= sizes[index]
    return np.array(sides, dtype=bool)


def _stratify_single(labels: np.ndarray, wanted: np.ndarray, wanted_rows: int) -> np.ndarray:
    """Do the same where each unit is one row of one label: the subset that wants more has the first units of a label.

    Once both want as many, units go to them by turns, first to the one that wants more rows at all.
    """
    number = np.bincount(labels, minlength=len(wanted))
    taken = np.minimum(wanted, number)
    kept = number - taken
    ahead = np.abs(taken - kept)
    # How many more rows the taken want than the kept, before each label in the order in which labels are dealt out.
    order, more = np.lexsort((np.arange(len(number)), number)), np.empty_like(number)
    more[order] = 2 * wanted_rows - len(labels) + np.append(0, np.cumsum((kept - taken)[order])[:-1])
    turn = more - (taken - kept) > 0
    by_label = np.argsort(labels, kind="stable")
    label = labels[by_label]
    place = np.arange(len(labels)) - (np.cumsum(number) - number)[label] - ahead[label]
    sides = np.empty(len(labels), bool)
    sides[by_label] = np.where(place < 0, (taken > kept)[label], turn[label] ^ (place % 2 == 1))
    return sides


def _balance(units: Units, taken: np.ndarray, wanted: np.ndarray) -> None:
    """Move unit after unit, always that which brings the rows of all labels nearest to those that are wanted; in place.

    A large unit that is dealt late leaves more to one side than the few after it can make up for.
    """
    labels, counts, owners = units.labels, units.counts, units.owners
    while len(units):
        above = np.bincount(labels, counts * taken[owners], units.num_labels) - wanted
        moved = np.abs(above[labels] + np.where(taken[owners], -counts, counts)) - np.abs(above[labels])
        farther = np.bincount(owners, moved, len(units))
        nearest = int(farther.argmin())
        if farther[nearest] >= 0:
            break
        taken[nearest] = not taken[nearest]


def _move_rarest(units: Units, taken: np.ndarray, least: tuple[int, int]) -> None:
    """Move units until each side, (kept, taken), has its least of every label where it can; in place.

    A unit moves if the other side can spare all of its labels; to the side that is kept it moves anyway.
    """
    counts = [units.label_units(~taken).tolist(), units.label_units(taken).tolist()]
    few = [label for label, both in enumerate(zip(*counts, strict=True)) if any(both) and any(map(lt, both, least))]
    if not few:
        return
    carriers, labels, pairs = _carriers(units), units.labels.tolist(), _ranges(units)

    def move(index: int, side: int) -> None:
        taken[index] = side
        for pair in pairs[index]:
            counts[side][labels[pair]] += 1
            counts[1 - side][labels[pair]] -= 1

    was_forced = False
    for label in few:
        for side, needs_spare in ((0, True), (0, False), (1, True)):
            for index in carriers[label]:
                if counts[side][label] >= least[side]:
                    break
                is_spare = all(counts[1 - side][labels[pair]] > least[1 - side] for pair in pairs[index])
                if taken[index] != side and (is_spare or not needs_spare):
                    move(index, side)
                    was_forced |= not is_spare
    if was_forced:
        # What was moved all the same may have been the last of another label that has units to spare.
        _move_rarest(units, taken, least)


def _ranges(units: Units) -> list[range]:
    """Return the places of each unit's labels."""
    ends = np.cumsum(units.breadths)
    return [*map(range, (ends - units.breadths).tolist(), ends.tolist())]


def _carriers(units: Units) -> list[list[int]]:
    """Return the units of each label, in their order."""
    by_label = units.owners[np.argsort(units.labels, kind="stable")].tolist()
    ends = np.cumsum(units.label_units()).tolist()
    return [by_label[start:end] for start, end in pairwise([0, *ends])]
