"""Split labeled texts without leaks: stratified, identical texts on one side, the same on every machine.

A seeded hash of each text decides, not rows, platform or library. Identical texts are one unit, never split.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nlptransfer.errors import DataError

_UNLABELED = -1


@dataclass(frozen=True, slots=True)
class Unit:
    """All rows of one text, by their indices."""

    rows: list[int]
    labels: dict[int, int]
    """How many of the rows carry each label, for the labels that one of them carries."""


def units_of(texts: Sequence[str], targets: np.ndarray, seed: int) -> list[Unit]:
    """Return the distinct texts in the order of their hash, keyed by ``seed``; targets are as in a split."""
    of_text: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        of_text[text].append(row)
    carried = [np.flatnonzero(row).tolist() for row in targets] if targets.ndim > 1 else targets[:, None].tolist()
    return shuffle_units([_unit(rows, carried) for rows in of_text.values()], texts, seed)


def shuffle_units(units: Sequence[Unit], texts: Sequence[str], seed: int) -> list[Unit]:
    """Return units of ``texts`` in the order of the hash of their texts, keyed by ``seed``."""
    key = str(seed).encode()

    def place(unit: Unit) -> bytes:
        return hashlib.blake2b(texts[unit.rows[0]].encode(), digest_size=16, key=key).digest()

    return sorted(units, key=place)


def _unit(rows: list[int], carried: list[list[int]]) -> Unit:
    # A Counter counts five times as slowly where there is so little to count.
    labels: dict[int, int] = {}
    for row in rows:
        for label in carried[row]:
            labels[label] = labels.get(label, 0) + 1
    return Unit(rows, labels)


def count_rows(units: Sequence[Unit]) -> int:
    return sum(len(unit.rows) for unit in units)


def check_enough(units: Sequence[Unit], names: Sequence[str], carved: Sequence[str]) -> None:
    """Raise a DataError unless every label has a text for train and one for each split of ``carved``."""
    texts = Counter(label for unit in units for label in unit.labels)
    few = [label for label in range(len(names)) if texts[label] < 1 + len(carved)]
    if few:
        rows = _label_rows(units)
        found = ", ".join(f"{names[label]!r} ({rows[label]} rows, {texts[label]} distinct)" for label in few[:5])
        raise DataError(
            f"expected {1 + len(carved)} distinct texts or more of every label, one each for "
            f"{', '.join(['train', *carved])}, found too few of {found}; add rows, merge or remove the label, "
            f"or give a {' and a '.join(carved)} split of your own"
        )


def carve(
    units: list[Unit],
    share: float,
    names: Sequence[str],
    *,
    of: Sequence[Unit] | None = None,
    least_kept: int = 1,
    least_taken: int = 1,
) -> tuple[list[Unit], list[Unit]]:
    """Split ``units`` into (kept, taken), ``share`` (0 to 1) of every label's rows being taken.

    Units are dealt out in their order. The share is of those in ``of`` (None: ``units``), where some were taken before.
    ``least_kept`` and ``least_taken`` units of every label must be on a side, or a DataError names the label.
    """
    whole = units if of is None else of
    wanted = _wanted(_label_rows(whole), share, least_taken)
    taken = _stratify(units, wanted, round(share * count_rows(whole)))
    _move_rarest(units, taken, (least_kept, least_taken), names)
    sides = list(zip(units, taken, strict=True))
    return [unit for unit, side in sides if not side], [unit for unit, side in sides if side]


def subset(units: list[Unit], most: int, least: int, names: Sequence[str]) -> list[Unit]:
    """Return a stratified subset of at most ``most`` rows; that of a smaller ``most`` is part of it.

    One order of the units, cut where the rows are full: first ``least`` units of every label (a DataError where there
    is no room for them), then each unit at its quantile among those of the same rarest label.
    """
    if count_rows(units) <= most:
        return units
    front, seen = [], Counter[int]()
    for index, unit in enumerate(units):
        if any(seen[label] < least for label in unit.labels):
            front.append(index)
            seen.update(unit.labels.keys())
    needed = count_rows([units[index] for index in front])
    if needed > most:
        raise DataError(
            f"max_train_rows leaves {most} rows to train on: expected {needed} or more, to keep {least} distinct texts "
            f"of each of the {len(names)} labels; raise it"
        )
    total = _label_rows(units)
    rarest = [min(unit.labels, key=lambda label: (total[label], label), default=_UNLABELED) for unit in units]
    stratum: Counter[int] = Counter()
    for unit, label in zip(units, rarest, strict=True):
        stratum[label] += len(unit.rows)
    before: Counter[int] = Counter()
    place = dict.fromkeys(front, -1.0)
    for index in front + [index for index in range(len(units)) if index not in place]:
        place.setdefault(index, before[rarest[index]] / stratum[rarest[index]])
        before[rarest[index]] += len(units[index].rows)
    chosen, rows = set(), 0
    for index in sorted(place, key=lambda index: (place[index], index)):
        rows += len(units[index].rows)
        if rows > most:
            break
        chosen.add(index)
    return [unit for index, unit in enumerate(units) if index in chosen]


def _label_rows(units: Sequence[Unit]) -> Counter[int]:
    total: Counter[int] = Counter()
    for unit in units:
        for label, rows in unit.labels.items():
            total[label] += rows
    return total


def _wanted(label_rows: Counter[int], share: float, least: int) -> dict[int, int]:
    """Return whole rows to take of every label: each share rounded up or down so that their sum is right."""
    exact = {label: share * rows for label, rows in sorted(label_rows.items())}
    wanted = {label: int(rows + 1e-9) for label, rows in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (round(wanted[label] - exact[label], 9), label))
    for label in by_remainder[: round(sum(exact.values())) - sum(wanted.values())]:
        wanted[label] += 1
    return {label: max(rows, least) for label, rows in wanted.items()}


def _stratify(units: list[Unit], wanted: Mapping[int, int], wanted_rows: int) -> list[bool]:
    """Tell which units are taken, by iterative stratification into two subsets.

    The label with the fewest units left is dealt out first, each unit to the subset that wants more rows of the label,
    then to the one that wants more rows at all (Sechidis et al. 2011, algorithm 1).
    """
    want_taken = Counter(wanted)
    want_kept = _label_rows(units)
    want_kept.subtract(want_taken)
    free_rows = [count_rows(units) - wanted_rows, wanted_rows]
    carriers: dict[int, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        for label in unit.labels:
            carriers[label].append(index)
    left = {label: len(indices) for label, indices in carriers.items()}
    taken: list[bool | None] = [None] * len(units)

    def deal(index: int, more: int) -> None:
        unit = units[index]
        side = more > 0 or (more == 0 and free_rows[1] > free_rows[0])
        taken[index] = side
        free_rows[side] -= len(unit.rows)
        want = want_taken if side else want_kept
        for label, rows in unit.labels.items():
            want[label] -= rows
            left[label] -= 1

    while left:
        label = min(left, key=lambda label: (left[label], label))
        for index in carriers[label]:
            if taken[index] is None:
                deal(index, want_taken[label] - want_kept[label])
        del left[label]
    for index, unit in enumerate(units):
        if not unit.labels:
            deal(index, free_rows[1] - free_rows[0])
    return [bool(side) for side in taken]


def _move_rarest(units: list[Unit], taken: list[bool], least: tuple[int, int], names: Sequence[str]) -> None:
    """Move units until each side, (kept, taken), has its least of every label; in place."""
    counts = [
        Counter(label for unit, at in zip(units, taken, strict=True) if at == side for label in unit.labels)
        for side in (False, True)
    ]
    for label in sorted(counts[0] | counts[1]):
        for side in (False, True):
            for index, unit in enumerate(units):
                if counts[side][label] >= least[side]:
                    break
                spare = all(counts[not side][other] > least[not side] for other in unit.labels)
                if label in unit.labels and taken[index] != side and spare:
                    taken[index] = side
                    counts[side].update(unit.labels.keys())
                    counts[not side].subtract(unit.labels.keys())
            if counts[side][label] < least[side]:
                raise DataError(
                    f"expected rows of the label {names[label]!r} in train and in every split carved out of it, "
                    "found too few distinct texts whose other labels can spare them; add rows, or remove the label"
                )
