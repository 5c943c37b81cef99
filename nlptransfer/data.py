"""Labelled text as four splits without leaks: train, validation, calibration, test.

What the source does not split is split here, by ``split_seed`` alone: the order of the rows, the platform and the
version of any library have no say, for what decides is a hash of each text. Identical texts are one unit.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlptransfer.errors import DataError
from nlptransfer.labels import Labels, Row, order_names, read_labels
from nlptransfer.reading import SPLIT_NAMES, WHOLE, Source, Table, clean_text, find_columns, open_source, read_table
from nlptransfer.settings import check

logger = logging.getLogger("nlptransfer")

MOST_VALIDATION_ROWS = 5_000
"""A carved validation split is no larger: more rows cost time at every evaluation and change no choice."""
MOST_CALIBRATION_ROWS = 2_000
"""A calibration split is no larger: it fits a temperature and thresholds."""
_LEAST_CALIBRATION_ROWS = 20
_UNLABELLED = -1


@dataclass(frozen=True)
class DataSettings:
    """How rows are read and split.

    Raises:
        SettingError: a share outside [0, 1), shares that leave nothing to train on, or less than one training row.
    """

    text_column: str | None = None
    """Column of the texts; found by its name if None."""
    label_column: str | None = None
    """Column of the labels; found by its name if None."""
    label_delimiter: str | None = None
    """What joins the labels of one row of a multi-label column of strings, as "|" in "a|b"."""
    split_seed: int = 0
    """The one number that all splits made here depend on."""
    test_size: float = 0.2
    """Share of all rows that become test where the source has none; 0 for no test."""
    validation_size: float = 0.1
    """Share of the training pool that becomes validation where the source has none (at most 5,000 rows); 0 for none."""
    calibration_size: float = 0.05
    """Share of the training pool that becomes calibration (at most 2,000 rows); 0 for none."""
    max_train_rows: int | None = None
    """Most rows of the training pool, before validation and calibration leave it; all if None."""

    def __post_init__(self) -> None:
        for name in ("test_size", "validation_size", "calibration_size"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "a share from 0 to below 1")
        carved = self.validation_size + self.calibration_size
        check(carved < 1, "validation_size + calibration_size", carved, "less than 1, to leave rows to train on")
        check(
            self.max_train_rows is None or self.max_train_rows > 0, "max_train_rows", self.max_train_rows, "1 or more"
        )
        check(self.label_delimiter != "", "label_delimiter", self.label_delimiter, "one character or more")


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their encoded labels, row by row.

    Raises:
        DataError: not as many targets as texts.
    """

    texts: list[str]
    """n texts."""
    targets: np.ndarray
    """int64 of shape (n,), or float32 of shape (n, num_labels) in multi-label data."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.targets):
            raise DataError(f"expected a target a text, found {len(self.texts)} texts, {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Split({len(self):,} rows)"

    def take(self, indices: Iterable[int] | np.ndarray) -> "Split":
        """The rows at ``indices`` (or where a boolean mask of n is true), in that order."""
        rows = np.arange(len(self))[np.asarray(list(indices) or np.array([], dtype=np.int64))]
        return Split([self.texts[row] for row in rows], self.targets[rows])

    def fingerprint(self) -> dict[str, Any]:
        """Row count and SHA-256 of texts and targets in order, the same on every machine."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        digest.update(self.targets.astype("<i8" if self.targets.ndim == 1 else "<f4").tobytes())
        return {"rows": len(self), "hash": digest.hexdigest()}


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Labelled text, split once."""

    name: str
    """Name of the source."""
    labels: Labels
    """The labels that occur in training."""
    train: Split
    """Rows to learn from."""
    validation: Split
    """Rows to choose by; empty with ``validation_size=0``."""
    calibration: Split
    """Rows for temperature and thresholds; empty where there are too few to spare."""
    test: Split
    """Rows to be opened once; empty with ``test_size=0``."""

    @property
    def splits(self) -> dict[str, Split]:
        """The four splits by name."""
        return {name: getattr(self, name) for name in ("train", "validation", "calibration", "test")}

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Row count and hash of each split, by its name."""
        return {name: split.fingerprint() for name, split in self.splits.items()}

    def __repr__(self) -> str:
        names = ", ".join(self.labels.names[:8]) + (", ..." if self.labels.num_labels > 8 else "")
        kind = "multi-label, " if self.labels.multi_label else ""
        rows = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return f"Data({self.name!r}, {kind}{self.labels.num_labels} labels ({names}), rows: {rows})"


def load_data(source: Any, settings: DataSettings | None = None) -> Data:
    """Read labelled text and split it.

    Args:
        source: a hub id, a csv, tsv, jsonl, json or parquet file (plain or .gz), a folder of such files named train,
            validation (valid, val, dev) and test, a ``datasets`` Dataset or DatasetDict, a pandas DataFrame, a pair
            (texts, labels), or a mapping of split names to any of the last five.
        settings: columns, sizes and the seed of the splits.

    Returns:
        The four splits. Splits that the source has are kept as they are; the others are carved out of its train,
        stratified (Sechidis et al. 2011), with identical texts on one side.

    Raises:
        DataError: rows that cannot be read, mapped to text and label, or split.
    """
    settings = settings or DataSettings()
    found = open_source(source)
    parts = {"train" if split == WHOLE else split: part for split, part in found.parts.items()}
    if "train" not in parts:
        raise DataError(f"{source!s:.200}: expected a train split, found only {', '.join(parts)}")
    tables = {split: read_table(part, _where(found, split)) for split, part in parts.items()}
    text_column, label_column = find_columns(tables["train"], settings.text_column, settings.label_column)
    rows = {split: _read_rows(table, text_column, label_column, settings) for split, table in tables.items()}
    _log_dropped(rows)
    rows = {split: these for split, these in rows.items() if split == "train" or these.labelled(split)}
    labels = _labels_of(rows["train"], tables["train"].class_names.get(label_column))
    given = {split: _encode(these, labels, split) for split, these in rows.items()}
    return Data(found.name, labels, **_split(given, labels, settings))


def load_split(source: Any, labels: Labels, settings: DataSettings | None = None, split: str = "test") -> Split:
    """Read one split to evaluate a saved classifier on; nothing is split or left out.

    Args:
        source: as in :func:`load_data`; a source without splits (a file, a Dataset, ...) is taken whole.
        labels: the classifier's labels; single labels are read as sets of one where it is multi-label.
        settings: its columns and delimiter are used.
        split: which split of a source that has several.

    Raises:
        DataError: no such split, rows that cannot be read, or a label that the classifier does not know.
    """
    settings = settings or DataSettings()
    found = open_source(source)
    wanted = WHOLE if WHOLE in found.parts else SPLIT_NAMES.get(split, split)
    if wanted not in found.parts:
        raise DataError(f"{source!s:.200}: expected a {wanted} split, found {', '.join(found.parts)}")
    table = read_table(found.parts[wanted], _where(found, wanted))
    columns = find_columns(table, settings.text_column, settings.label_column)
    rows = _read_rows(table, *columns, settings)
    _log_dropped({split: rows})
    if not rows.texts:
        raise rows.nothing_usable()
    return _encode(rows, labels, "the data" if wanted == WHOLE else split)


# Rows


@dataclass(frozen=True)
class _Rows:
    """The usable rows of one table."""

    where: str
    texts: list[str]
    names: list[Row]
    numbers: list[int]
    multi_label: bool
    without_text: int
    without_label: int

    def labelled(self, split: str) -> bool:
        """Whether there is a usable row; public test splits often come with their labels hidden."""
        if self.texts:
            return True
        if not self.without_label:
            raise self.nothing_usable()
        logger.warning("%s: no row of %s has a label: it is left alone as if it were not there", self.where, split)
        return False

    def nothing_usable(self) -> DataError:
        return DataError(
            f"{self.where}: expected rows with a text and a label, found none: "
            f"{self.without_text} rows without text, {self.without_label} without label"
        )


def _where(found: Source, split: str) -> str:
    return found.name if split == WHOLE else f"{split} split of {found.name}"


def _read_rows(table: Table, text_column: str, label_column: str, settings: DataSettings) -> _Rows:
    for name in (text_column, label_column):
        if name not in table.columns:
            there = ", ".join(map(repr, table.columns))
            raise DataError(f"{table.where}: expected the column {name!r} as in train, found {there}; rename it")
    where = f"{table.where}, column {text_column!r}"
    texts = [clean_text(text, f"{where}, row {row}") for row, text in enumerate(table.columns[text_column], 1)]
    column = read_labels(
        table.columns[label_column],
        f"{table.where}, column {label_column!r}",
        table.class_names.get(label_column),
        settings.label_delimiter,
    )
    with_text = [row for row, text in enumerate(texts) if text and not text.isspace()]
    kept = [(row, names) for row in with_text if (names := column.rows[row]) is not None]
    return _Rows(
        table.where,
        [texts[row] for row, _ in kept],
        [names for _, names in kept],
        [row + 1 for row, _ in kept],
        column.multi_label,
        len(texts) - len(with_text),
        len(with_text) - len(kept),
    )


def _log_dropped(rows: Mapping[str, _Rows]) -> None:
    dropped = [
        f"{split}: {these.without_text} without text, {these.without_label} without label"
        for split, these in rows.items()
        if these.without_text or these.without_label
    ]
    if dropped:
        logger.warning("rows dropped: %s", "; ".join(dropped))


def _labels_of(rows: _Rows, class_names: Sequence[str] | None) -> Labels:
    if not rows.texts:
        raise rows.nothing_usable()
    distinct = set(rows.names)
    if len(distinct) < 2:
        only = rows.names[0]
        raise DataError(
            f"{rows.where}: expected two labels or more to tell apart, found the same in all {len(rows.texts)} rows: "
            f"{list(only) if isinstance(only, tuple) else only!r}; check label_column, or add rows of other labels"
        )
    names = (name for row in distinct for name in ((row,) if isinstance(row, str) else row))
    return Labels(order_names(names, class_names), rows.multi_label)


def _encode(rows: _Rows, labels: Labels, split: str) -> Split:
    if rows.multi_label and not labels.multi_label:
        raise DataError(f"{rows.where}: expected one label a row as in training, found lists of labels; split the rows")
    sets: list[tuple[str, ...]] = [(row,) if isinstance(row, str) else row for row in rows.names]
    unknown: dict[str, list[int]] = defaultdict(list)
    for number, names in zip(rows.numbers, sets, strict=True):
        for name in names:
            if name not in labels.label2id:
                unknown[name].append(number)
    if unknown:
        found = ", ".join(
            f"{name!r} ({len(numbers)} rows, first in row {numbers[0]})" for name, numbers in list(unknown.items())[:5]
        )
        raise DataError(
            f"{rows.where}: expected only labels seen in training in {split}, found {found}; known labels: "
            f"{', '.join(labels.names[:30])}; remove these rows, or move some of them to train"
        )
    return Split(rows.texts, labels.encode(sets if labels.multi_label else [names[0] for names in sets]))


# Splits


@dataclass(frozen=True, slots=True)
class _Unit:
    """All rows of one text."""

    rows: list[int]
    labels: dict[int, int]
    """How many of the rows carry each label, for the labels that one of them carries."""


def _split(given: Mapping[str, Split], labels: Labels, settings: DataSettings) -> dict[str, Split]:
    source = given["train"]
    sizes = {"validation": settings.validation_size, "test": settings.test_size}
    carved = [split for split, size in sizes.items() if size and split not in given]
    units = _units(source, settings.split_seed)
    _check_enough(units, labels, carved)
    out: dict[str, list[_Unit]] = {"validation": [], "test": [], "calibration": []}
    least = 2 if "validation" in carved else 1
    if "test" in carved:
        units, out["test"] = _carve(units, settings.test_size, labels, least_kept=least)
    if settings.max_train_rows is not None:
        units = _subset(units, settings.max_train_rows, least, labels)
    pool, pool_rows = _label_rows(units), _rows_of(units)
    if "validation" in carved:
        share = min(settings.validation_size, MOST_VALIDATION_ROWS / pool_rows)
        units, out["validation"] = _carve(units, share, labels, most=MOST_VALIDATION_ROWS)
    share = min(settings.calibration_size, MOST_CALIBRATION_ROWS / pool_rows)
    if share and _enough_to_calibrate(round(share * pool_rows), labels):
        units, out["calibration"] = _carve(units, share, labels, 0, 1, MOST_CALIBRATION_ROWS, (pool, pool_rows))
    made = {split: _gather(source, these) for split, these in out.items()}
    return {**made, **given, "train": _gather(source, units)}


def _units(split: Split, seed: int) -> list[_Unit]:
    """The distinct texts in the order of their seeded hash."""
    of_text: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(split.texts):
        of_text[text].append(row)
    carried: list[list[int]] = [[] for _ in split.texts]
    if split.targets.ndim == 1:
        carried = [[label] for label in split.targets.tolist()]
    else:
        for row, label in np.argwhere(split.targets > 0).tolist():
            carried[row].append(label)
    key = str(seed).encode()
    order = sorted(of_text, key=lambda text: hashlib.blake2b(text.encode(), digest_size=16, key=key).digest())
    return [_unit(of_text[text], carried) for text in order]


def _unit(rows: list[int], carried: list[list[int]]) -> _Unit:
    labels: dict[int, int] = {}
    for row in rows:
        for label in carried[row]:
            labels[label] = labels.get(label, 0) + 1
    return _Unit(rows, labels)


def _gather(split: Split, units: list[_Unit]) -> Split:
    return split.take(sorted(row for unit in units for row in unit.rows))


def _rows_of(units: list[_Unit]) -> int:
    return sum(len(unit.rows) for unit in units)


def _label_rows(units: list[_Unit]) -> Counter[int]:
    total: Counter[int] = Counter()
    for unit in units:
        for label, rows in unit.labels.items():
            total[label] += rows
    return total


def _check_enough(units: list[_Unit], labels: Labels, carved: Sequence[str]) -> None:
    texts = Counter(label for unit in units for label in unit.labels)
    few = [label for label in range(labels.num_labels) if texts[label] < 1 + len(carved)]
    if few:
        rows = _label_rows(units)
        found = ", ".join(f"{labels.names[label]!r} ({rows[label]} rows, {texts[label]} distinct)" for label in few[:5])
        raise DataError(
            f"expected {1 + len(carved)} distinct texts or more of every label, one each for "
            f"{', '.join(['train', *carved])}, found too few of {found}; add rows, merge or remove the label, "
            f"or give a {' and a '.join(carved)} split of your own"
        )


def _enough_to_calibrate(rows: int, labels: Labels) -> bool:
    least = max(_LEAST_CALIBRATION_ROWS, 2 * labels.num_labels)
    if rows < least:
        logger.info("no calibration split: it would have %d rows, and %d are the least that helps", rows, least)
    return rows >= least


def _subset(units: list[_Unit], most: int, least: int, labels: Labels) -> list[_Unit]:
    """A stratified subset of at most ``most`` rows; that of a smaller ``most`` is part of it.

    One order of the units, cut where the rows are full: first ``least`` units of every label, then each unit at its
    quantile among those of the same rarest label.
    """
    if _rows_of(units) <= most:
        return units
    total = _label_rows(units)
    rarest = [min(unit.labels, key=lambda label: (total[label], label), default=_UNLABELLED) for unit in units]
    front, seen = [], Counter[int]()
    for index, unit in enumerate(units):
        if any(seen[label] < least for label in unit.labels):
            front.append(index)
            seen.update(unit.labels.keys())
    needed = sum(len(units[index].rows) for index in front)
    if needed > most:
        raise DataError(
            f"max_train_rows={most}: expected {needed} or more, to keep {least} distinct texts of each of the "
            f"{labels.num_labels} labels"
        )
    stratum: Counter[int] = Counter()
    for index, unit in enumerate(units):
        stratum[rarest[index]] += len(unit.rows)
    before: Counter[int] = Counter()
    place = dict.fromkeys(front, -1.0)
    for index in front + sorted(set(range(len(units))) - place.keys()):
        place.setdefault(index, before[rarest[index]] / stratum[rarest[index]])
        before[rarest[index]] += len(units[index].rows)
    chosen, rows = set(), 0
    for index in sorted(place, key=lambda index: (place[index], index)):
        rows += len(units[index].rows)
        if rows > most:
            break
        chosen.add(index)
    return [unit for index, unit in enumerate(units) if index in chosen]


def _carve(
    units: list[_Unit],
    share: float,
    labels: Labels,
    least_taken: int = 1,
    least_kept: int = 1,
    most: int | None = None,
    base: tuple[Counter[int], int] | None = None,
) -> tuple[list[_Unit], list[_Unit]]:
    """Part ``units`` in (kept, taken), ``share`` of every label's rows being taken.

    Args:
        units: in the order in which they are dealt out.
        share: share of ``base`` to take.
        labels: their names, for messages.
        least_taken: units of every label that must be taken.
        least_kept: units of every label that must be kept.
        most: rows to take at most.
        base: rows by label, and rows, that ``share`` refers to; those of ``units`` if None.
    """
    label_rows, rows = base or (_label_rows(units), _rows_of(units))
    wanted = _wanted(label_rows, share, least_taken)
    taken = _stratify(units, wanted, round(share * rows))
    _move_rarest(units, taken, (least_kept, least_taken), labels)
    if most is not None:
        _trim(units, taken, least_taken, most)
    kept = [unit for unit, side in zip(units, taken, strict=True) if not side]
    return kept, [unit for unit, side in zip(units, taken, strict=True) if side]


def _wanted(label_rows: Counter[int], share: float, least: int) -> dict[int, int]:
    """Whole rows to take of every label: each share rounded up or down so that their sum is right."""
    exact = {label: share * rows for label, rows in sorted(label_rows.items())}
    wanted = {label: int(rows + 1e-9) for label, rows in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (round(wanted[label] - exact[label], 9), label))
    for label in by_remainder[: round(sum(exact.values())) - sum(wanted.values())]:
        wanted[label] += 1
    return {label: max(rows, least) for label, rows in wanted.items()}


def _stratify(units: list[_Unit], wanted: Mapping[int, int], wanted_rows: int) -> list[bool]:
    """Iterative stratification into two subsets: which units are taken.

    The label with the fewest units left is dealt out first, each unit to the subset that wants more rows of the label,
    then to the one that wants more rows at all (Sechidis, Tsoumakas, Vlahavas 2011, "On the stratification of
    multi-label data", algorithm 1).
    """
    want_taken = Counter(wanted)
    want_kept = _label_rows(units)
    want_kept.subtract(want_taken)
    free_rows = [_rows_of(units) - wanted_rows, wanted_rows]
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


def _move_rarest(units: list[_Unit], taken: list[bool], least: tuple[int, int], labels: Labels) -> None:
    """Move units until each side, (kept, taken), has its least of every label; in place."""
    counts = [
        Counter(label for unit, at in zip(units, taken, strict=True) if at == side for label in unit.labels)
        for side in (False, True)
    ]
    for label in sorted(counts[0] | counts[1]):
        for side in (False, True):
            for index, unit in enumerate(units) if counts[side][label] < least[side] else ():
                spare = all(counts[not side][other] > least[not side] for other in unit.labels)
                if label in unit.labels and taken[index] != side and spare:
                    taken[index] = side
                    counts[side].update(unit.labels.keys())
                    counts[not side].subtract(unit.labels.keys())
                    if counts[side][label] >= least[side]:
                        break
            if counts[side][label] < least[side]:
                raise DataError(
                    f"expected rows of the label {labels.names[label]!r} in train and in every split carved out of it, "
                    "found too few distinct texts whose other labels can spare them; add rows, or remove the label"
                )


def _trim(units: list[_Unit], taken: list[bool], least: int, most: int) -> None:
    """Give units back, last first, until at most ``most`` rows are taken; in place."""
    rows = sum(len(unit.rows) for unit, side in zip(units, taken, strict=True) if side)
    counts = Counter(label for unit, side in zip(units, taken, strict=True) if side for label in unit.labels)
    for index in reversed(range(len(units))):
        if rows <= most:
            return
        unit = units[index]
        if taken[index] and all(counts[label] > least for label in unit.labels):
            taken[index] = False
            rows -= len(unit.rows)
            counts.subtract(unit.labels.keys())
