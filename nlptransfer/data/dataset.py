"""Hold labeled text as four splits. This file does not know how units are stratified (splitting.py), nor files."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval, MinLen

from nlptransfer.data.labels import Labels, order_names, read_labels
from nlptransfer.data.normalization import Normalization, normalize
from nlptransfer.data.reading import SPLIT_NAMES, WHOLE, Table, clean_text, find_columns, open_source
from nlptransfer.data.spelling import as_mapping, near_twins, spelled_alike
from nlptransfer.data.splitting import Units, carve, rare_labels, shuffle_units, subset, units_of
from nlptransfer.errors import DataError, abridged
from nlptransfer.memo import once
from nlptransfer.settings import Count, Settings, Share, check

logger = logging.getLogger("nlptransfer")

MOST_VALIDATION_ROWS = 5_000
"""A carved validation split has about these at most: more cost time at every evaluation and change no choice."""
MOST_CALIBRATION_ROWS = 2_000
"""A calibration split has about these at most: it fits a temperature and thresholds."""
LEAST_CALIBRATION_ROWS = 20
"""Fewer are not split off; in multi-label data these are, as long as they are at most a fifth of what is left."""


@dataclass(frozen=True)
class DataSettings(Settings):
    """How rows are read and split."""

    text_column: str | None = None
    """Column of the texts; found by its name if None."""
    label_column: str | None = None
    """Column of the labels; found by its name if None."""
    label_delimiter: Annotated[str, MinLen(1)] | None = None
    """What joins the labels of one row of a multi-label column of strings, as "|" in "a|b"."""
    split_seed: int = 0
    """The only seed of the splits that are made here, unless ``rows_seed`` is another."""
    test_size: Share = 0.2
    """Share of all rows that become test where the source has none; 0 for no test, and so no test scores."""
    validation_size: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Share of the training pool that becomes validation where the source has none (at most about 5,000 rows)."""
    calibration_size: Share = 0.05
    """Share of the training pool that becomes calibration (from 20 to about 2,000 rows, or none); 0 for none."""
    max_train_rows: Count | None = None
    """Most labeled rows outside test; all if None. A source's own validation split gets ``validation_size`` of them."""
    rows_seed: int | None = None
    """Seed of which rows ``max_train_rows`` leaves and of how these are split, but for test; None: ``split_seed``."""
    normalization: Normalization = "none"
    """Form of all texts, when they are read and before a prediction: none, nfkc, lower or web (NORMALIZATIONS)."""

    def __post_init__(self) -> None:
        self.check()
        carved = self.validation_size + self.calibration_size
        check(carved < 1, "validation_size + calibration_size", carved, "less than 1, to leave rows to train on")

    @property
    def seed_of_rows(self) -> int:
        """The seed of which rows ``max_train_rows`` leaves."""
        return self.split_seed if self.rows_seed is None else self.rows_seed


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their encoded labels, row by row; a DataError where there are not as many."""

    texts: list[str]
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
        """Take the rows at ``indices`` (or where a boolean mask of n is true), in that order."""
        rows = np.arange(len(self))[np.asarray(list(indices) or np.array([], dtype=np.int64))]
        return Split([self.texts[row] for row in rows], self.targets[rows])

    def fingerprint(self) -> dict[str, Any]:
        """Return the row count and the SHA-256 of texts and targets in order, the same on every machine."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        digest.update(self.targets.astype("<i8" if self.targets.ndim == 1 else "<f4").tobytes())
        return {"rows": len(self), "hash": digest.hexdigest()}


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Labeled text, split once, with identical texts on one side; splits that the source has are kept as they are."""

    name: str
    labels: Labels
    """The labels that occur in training."""
    train: Split
    """Rows to learn from."""
    validation: Split
    """Rows to choose by; never empty."""
    calibration: Split
    """Rows for temperature and thresholds; empty where there are too few to spare."""
    test: Split
    """Rows to be opened once; empty with ``test_size=0``."""
    unlabeled: tuple[str, ...] = ()
    """Texts of the same kind whose labels nobody sees: no split, and never scored."""

    @property
    def splits(self) -> dict[str, Split]:
        """The four splits by name."""
        return {name: getattr(self, name) for name in ("train", "validation", "calibration", "test")}

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Return the row count and the hash of each split by its name, and of the texts without labels if any."""
        return self._fingerprints

    @cached_property
    def _fingerprints(self) -> dict[str, dict[str, Any]]:
        splits = dict(self.splits)
        if self.unlabeled:
            splits["unlabeled"] = Split([*self.unlabeled], np.zeros(len(self.unlabeled), np.int64))
        return {name: split.fingerprint() for name, split in splits.items()}

    def __repr__(self) -> str:
        names = ", ".join(self.labels.names[:8]) + (", ..." if self.labels.num_labels > 8 else "")
        kind = "multi-label, " if self.labels.multi_label else ""
        counts = {name: len(split) for name, split in self.splits.items()} | {"unlabeled": len(self.unlabeled)}
        rows = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count or name in self.splits)
        return f"Data({self.name!r}, {kind}{self.labels.num_labels} labels ({names}), rows: {rows})"


def load_data(source: Any, settings: DataSettings | None = None) -> Data:
    """Read labeled text and split it, stratified (Sechidis et al. 2011), where the source has no splits.

    A test split whose labels are all missing is left alone; texts that splits share with train are counted in the log.

    Args:
        source: a hub id, a csv, tsv, jsonl, json or parquet file (plain or .gz), a folder of such files named train,
            validation (valid, val, dev) and test, a ``datasets`` Dataset or DatasetDict, a pandas DataFrame, a pair
            (texts, labels), or a mapping of split names to any of the last five.

    Raises:
        DataError: rows that cannot be read, mapped to text and label, or split.
    """
    settings = settings or DataSettings()
    if isinstance(source, (str, Path)):
        return once(("data", str(source), str(settings)), lambda: _load(source, settings))
    return _load(source, settings)


def _load(source: Any, settings: DataSettings) -> Data:
    opened = open_source(source)
    if not opened.parts.keys() & {"train", WHOLE}:
        raise DataError(f"{source!s:.200}: expected a train split, found only {', '.join(opened.parts)}")
    tables = {"train" if split == WHOLE else split: opened.table(split) for split in opened.parts}
    columns = find_columns(tables["train"], settings.text_column, settings.label_column)
    rows = {split: _read_rows(table, *columns, settings) for split, table in tables.items()}
    for split, these in list(rows.items()):
        if split != "train" and not these.texts and these.without_label:
            logger.warning("%s: no row of %s has a label: it is left alone", these.where, split)
            del rows[split]
    labels = _labels_of(rows["train"], tables["train"].class_names.get(columns[1]))
    encoded = {split: _encode(these, labels, split) for split, these in rows.items()}
    train = set(encoded["train"].texts)
    for name, part in encoded.items():
        if name != "train" and (shared := sum(text in train for text in part.texts)):
            logger.warning("%d of the %d texts of %s are in train too; they stay", shared, len(part), name)
    splits: dict[str, Any] = _split(encoded, labels, settings)
    return Data(opened.name, labels, **splits)


def load_split(source: Any, labels: Labels, settings: DataSettings | None = None, split: str = "test") -> Split:
    """Read one split whole, to evaluate a classifier on; a DataError where it cannot be read, or has an unknown label.

    Args:
        source: as in :func:`load_data`; a source without splits (a file, a Dataset, ...) is taken whole.
        labels: the classifier's labels; single labels are read as sets of one where it is multi-label.
        settings: its columns, delimiter and normalization are used; a classifier applies its own besides.
    """
    settings = settings or DataSettings()
    opened = open_source(source)
    wanted = WHOLE if WHOLE in opened.parts else SPLIT_NAMES.get(split, split)
    if wanted not in opened.parts:
        raise DataError(f"{source!s:.200}: expected a {wanted} split, found {', '.join(opened.parts)}")
    table = opened.table(wanted)
    columns = find_columns(table, settings.text_column, settings.label_column)
    return _encode(_read_rows(table, *columns, settings), labels, "the data" if wanted == WHOLE else split)


@dataclass(frozen=True)
class _Rows:
    where: str
    texts: list[str]
    names: list[tuple[str, ...]]
    numbers: list[int]
    multi_label: bool
    without_text: int
    without_label: int

    def check(self) -> None:
        if not self.texts:
            raise DataError(
                f"{self.where}: expected rows with a text and a label, found none: "
                f"{self.without_text} rows without text, {self.without_label} without label"
            )


def _read_rows(table: Table, text_column: str, label_column: str, settings: DataSettings) -> _Rows:
    for name in (text_column, label_column):
        if name not in table.columns:
            there = ", ".join(map(repr, table.columns))
            raise DataError(f"{table.where}: expected the column {name!r} as in train, found {there}; rename it")
    of_text, of_label = (f"{table.where}, column {name!r}" for name in (text_column, label_column))
    texts = [clean_text(text, f"{of_text}, row {row}") for row, text in enumerate(table.columns[text_column], 1)]
    texts = normalize(settings.normalization, texts)
    class_names = table.class_names.get(label_column)
    labels = read_labels(table.columns[label_column], of_label, class_names, settings.label_delimiter)
    with_text = [row for row, text in enumerate(texts) if text.strip()]
    usable = [(row, label) for row in with_text if (label := labels[row]) is not None]
    without_text, without_label = len(texts) - len(with_text), len(with_text) - len(usable)
    if without_text or without_label:
        logger.warning("%s: rows dropped: %d without text, %d without label", table.where, without_text, without_label)
    return _Rows(
        table.where,
        texts=[texts[row] for row, _ in usable],
        names=[(label,) if isinstance(label, str) else label for _, label in usable],
        numbers=[row + 1 for row, _ in usable],
        multi_label=any(isinstance(label, tuple) for label in labels),
        without_text=without_text,
        without_label=without_label,
    )


def _labels_of(rows: _Rows, class_names: Sequence[str] | None) -> Labels:
    rows.check()
    counts, sets = Counter[str](), Counter(rows.names)
    for names, count in sets.items():
        counts.update(dict.fromkeys(names, count))
    spelled = dict(zip(counts, counts, strict=True)) if class_names is not None else spelled_alike(counts)
    if len({frozenset(map(spelled.__getitem__, names)) for names in sets}) < 2:
        only = list(rows.names[0]) if rows.multi_label else rows.names[0][0]
        raise DataError(
            f"{rows.where}: expected two labels or more to tell apart, found the same in all {len(rows.texts)} rows: "
            f"{only!r}; check label_column, or add rows of other labels"
        )
    if twins := near_twins(counts) if spelled.keys() == {*spelled.values()} else {}:
        groups = ((most, *others) for most, others in twins.items())
        found = "; ".join(", ".join(f"{name!r} ({counts[name]} rows)" for name in group) for group in groups)
        logger.warning(
            "%s: labels that differ by case, white space or invisible characters alone: %s; "
            "to merge them: label_mapping=%s",
            rows.where,
            found,
            as_mapping(twins),
        )
    return Labels(order_names(spelled.values(), class_names), rows.multi_label)


def _encode(rows: _Rows, labels: Labels, split: str) -> Split:
    rows.check()
    if rows.multi_label and not labels.multi_label:
        raise DataError(f"{rows.where}: expected one label a row as in training, found lists of labels")
    known = {name: labels.known(name) for name in {*chain.from_iterable({*rows.names})}}
    if unknown := {name: list[int]() for name, label in known.items() if label is None}:
        for number, names in zip(rows.numbers, rows.names, strict=True):
            for name in unknown.keys() & {*names}:
                unknown[name].append(number)
        first = sorted(unknown.items(), key=lambda item: item[1])[:5]
        found = ", ".join(f"{name!r} ({len(numbers)} rows, first in row {numbers[0]})" for name, numbers in first)
        raise DataError(
            f"{rows.where}: expected only labels seen in training in {split}, found {found}; known labels: "
            f"{', '.join(labels.names[:30])}; remove these rows, or move some of them to train"
        )
    ids = {name: labels.label2id[label] for name, label in known.items() if label is not None}
    if not labels.multi_label:
        return Split(rows.texts, np.array([ids[name] for (name,) in rows.names], dtype=np.int64))
    targets = np.zeros((len(rows.names), labels.num_labels), dtype=np.float32)
    places = np.repeat(np.arange(len(rows.names)), [len(names) for names in rows.names])
    targets[places, [ids[name] for names in rows.names for name in names]] = 1
    return Split(rows.texts, targets)


def _split(sources: dict[str, Split], labels: Labels, settings: DataSettings) -> dict[str, Split]:
    source, has_validation = sources["train"], "validation" in sources
    units = units_of(source.texts, source.targets, settings.split_seed)
    carve_test = "test" not in sources and settings.test_size > 0
    carved = ["validation"] * (not has_validation) + ["test"] * carve_test
    rare = rare_labels(units, 1 + len(carved))
    least = 1 if has_validation else 2
    made = {"test": source.take([]), **sources}
    if carve_test:
        units, test = carve(units, settings.test_size, staying=rare, least_kept=least)
        made["test"] = _gather(source, test)
    if settings.rows_seed is not None:
        units = shuffle_units(units, source.texts, settings.rows_seed)
    if settings.max_train_rows is not None:
        most = settings.max_train_rows
        if has_validation:
            made["validation"] = _fewer(sources["validation"], max(1, round(most * settings.validation_size)), settings)
            most -= len(made["validation"])
        units = subset(units, most, least)
    pool, size = units, units.num_rows
    if not has_validation:
        share = min(settings.validation_size, MOST_VALIDATION_ROWS / size)
        units, validation = carve(pool, share, staying=rare)
        made["validation"] = _gather(source, validation)
    made["calibration"] = source.take([])
    if rows := _calibration_rows(size, units.num_rows, labels, settings):
        units, calibration = carve(units, rows / size, of=pool, staying=rare, least_taken=0)
        made["calibration"] = _gather(source, calibration)
    if empty := [name for name in carved if not len(made[name])]:
        raise DataError(
            f"expected {1 + len(carved)} distinct texts or more of a label, one each for "
            f"{', '.join(['train', *carved])}, found fewer of each of the {labels.num_labels} labels, which leaves "
            f"{' and '.join(empty)} empty; add rows, or give a {' and a '.join(carved)} split of your own"
        )
    made["train"] = _gather(source, units)
    _warn_of_unjudged(made, labels)
    return made


def _warn_of_unjudged(splits: Mapping[str, Split], labels: Labels) -> None:
    """Log once which labels have no row in validation, in test, or in both."""
    has_rows = {name: labels.count(splits[name].targets) > 0 for name in ("validation", "test") if len(splits[name])}
    rows, unjudged = labels.count(splits["train"].targets), defaultdict[str, list[str]](list)
    for label in np.flatnonzero(~np.all([*has_rows.values()], axis=0)):
        where = " and ".join(name for name, has in has_rows.items() if not has[label])
        unjudged[where].append(f"{labels.names[label]!r} ({rows[label]})")
    found = (
        f"no row of {where} judges {len(names)} of {labels.num_labels} labels (training rows): {abridged(names, 5)}"
        for where, names in unjudged.items()
    )
    if unjudged:
        logger.warning("%s; their scores there are null, and macro means leave them out", "; ".join(found))


def _gather(split: Split, units: Units) -> Split:
    return split.take(np.sort(units.rows))


def _fewer(split: Split, most: int, settings: DataSettings) -> Split:
    fewer = _gather(split, subset(units_of(split.texts, split.targets, settings.seed_of_rows), most, 0))
    if not len(fewer):
        raise DataError(
            f"max_train_rows={settings.max_train_rows}, validation_size={settings.validation_size}: expected a "
            "validation row or more among these rows, found none; raise one of them"
        )
    return fewer


def _calibration_rows(pool: int, left: int, labels: Labels, settings: DataSettings) -> int:
    rows = min(round(settings.calibration_size * pool), MOST_CALIBRATION_ROWS)
    # A temperature moves no prediction and can wait for more rows; thresholds move most of them and cannot.
    if rows and labels.multi_label and left >= 5 * LEAST_CALIBRATION_ROWS:
        rows = max(rows, LEAST_CALIBRATION_ROWS)
    if 0 < rows < LEAST_CALIBRATION_ROWS:
        logger.info(
            "no calibration split: it would have %d rows, and %d are the least that helps", rows, LEAST_CALIBRATION_ROWS
        )
        return 0
    return rows
