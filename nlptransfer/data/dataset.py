"""Hold labeled text as four splits. This file does not know how units are stratified (splitting.py), nor files."""

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, compress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from nlptransfer.data.columns import Columns, Names, find_columns, groups_of, texts_of, weights_of
from nlptransfer.data.copies import copies_of
from nlptransfer.data.files.folders import SPLIT_NAMES, WHOLE
from nlptransfer.data.files.parsing import FileSettings
from nlptransfer.data.labels import Labels, RowLabels, labels_of_columns, order_names, read_labels
from nlptransfer.data.normalization import Normalization, normalize
from nlptransfer.data.quality import label_warnings
from nlptransfer.data.reading import open_source
from nlptransfer.data.spelling import canonical, spelled_alike
from nlptransfer.data.splitting import (
    DISTINCT_TEXTS,
    Units,
    carve,
    rare_labels,
    shuffle_units,
    subset,
    text_groups,
    units_of,
    value_groups,
)
from nlptransfer.data.table import Table
from nlptransfer.data.texts import CHUNK, held, joined_texts, taken
from nlptransfer.errors import DataError, SettingError, nearest
from nlptransfer.memo import once
from nlptransfer.progress import counted
from nlptransfer.settings import Count, Seed, Settings, Share, check, fill

logger = logging.getLogger("nlptransfer")

MOST_VALIDATION_ROWS = 5_000
"""A carved validation split has about these at most: more cost time at every evaluation and change no choice."""
MOST_CALIBRATION_ROWS = 2_000
"""A calibration split has about these at most: it fits a temperature and thresholds."""
LEAST_CALIBRATION_ROWS = 20
"""Fewer are not split off; in multi-label data these are, as long as they are at most a fifth of what is left."""


@dataclass(frozen=True)
class DataSettings(FileSettings):
    """How rows are read and split."""

    text_column: Names = None
    """Column of the texts, or several that make one text together; found by name, else by content, if None."""
    label_column: Names = None
    """Column of the labels, or several of 0 and 1; found by name, else by content, if None."""
    weight_column: str | None = None
    """Column of the weight, from 0, of each training row in the loss; all 1 if None."""
    label_delimiter: str | None = None
    """What joins the labels of one row, as "|" in "a|b"; "" where a row has one label with such a sign in its name."""
    label_names: tuple[str, ...] | None = None
    """Names of the columns of a matrix of 0 and 1, or of the labels 0, 1, 2, ..."""
    label_mapping: dict[str, str] | None = None
    """Other names of labels: {"Pos": "pos"}; several may become one. In a source's labels too."""
    split_by: Literal["text", "copies"] = "text"
    """What stays on one side: rows whose texts differ in case, white space and punctuation at most (text), or near
    copies too (copies)."""
    group_column: str | None = None
    """Column whose rows of one value stay on one side, as of one customer; rows without a value go by their text."""
    split_seed: Seed = 0
    """The only seed of the splits that are made here, unless ``rows_seed`` is another."""
    test_size: Share = 0.2
    """Share of all rows that become test where the source has none; 0 for no test, and so no test scores."""
    validation_size: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Share of the training pool that becomes validation where the source has none (at most about 5,000 rows)."""
    calibration_size: Share = 0.05
    """Share of the training pool that becomes calibration (from 20 to about 2,000 rows, or none); 0 for none."""
    max_train_rows: Count | None = None
    """Most labeled rows outside test; all if None. A source's own validation split gets ``validation_size`` of them."""
    rows_seed: Seed | None = None
    """Seed of which rows ``max_train_rows`` leaves and of how these are split, but for test; None: ``split_seed``."""
    normalization: Normalization = "none"
    """Form of all texts, when they are read and before a prediction: none, nfkc, lower or web (NORMALIZATIONS)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        carved = self.validation_size + self.calibration_size
        check(carved < 1, "validation_size + calibration_size", carved, "less than 1, to leave rows to train on")
        is_one = self.group_column is None or self.split_by == "text"
        check(is_one, "split_by", self.split_by, "none beside group_column, which alone says what stays on one side")

    @property
    def seed_of_rows(self) -> int:
        """The seed of which rows ``max_train_rows`` leaves."""
        return self.split_seed if self.rows_seed is None else self.rows_seed

    @property
    def unit_name(self) -> str:
        """What rows that stay on one side are, for messages."""
        if self.group_column is not None:
            return f"values of {self.group_column!r}"
        return DISTINCT_TEXTS if self.split_by == "text" else "texts that are no copies"


@dataclass(frozen=True)
class SourceSettings(Settings):
    """How rows of another task are read; all that is not said here is as for the target's rows."""

    max_source_rows: Count | None = None
    """most labeled rows of each source, its validation rows counted"""
    source_text_column: str | list[str] | None = None
    """column of the source's texts; found by its name if None"""
    source_label_column: str | list[str] | None = None
    """column of the source's labels; found by its name if None"""
    source_weight_column: str | None = None
    """column of the weights of the source's training rows; all 1 if None"""
    source_reading: dict[str, Any] | None = None
    """how files of the source are read, where content alone does not say: {"separator": ";", "encoding": "cp1252"}"""

    def beside(self, target: DataSettings) -> DataSettings:
        """Return how rows of the source are read where the target's are read by ``target``."""
        return replace(
            target,
            **asdict(fill({"source_reading": FileSettings}, self.source_reading or {})["source_reading"]),
            text_column=self.source_text_column,
            label_column=self.source_label_column,
            weight_column=self.source_weight_column,
            group_column=None,
            max_train_rows=self.max_source_rows,
            rows_seed=None,
        )


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their encoded labels, row by row; a DataError where there are not as many."""

    texts: Sequence[str]
    """a list; large ones are in a file, which only what reads them one by one, or slices them, keeps out of memory"""
    targets: np.ndarray
    """int64 of shape (n,), or float32 of shape (n, num_labels) in multi-label data."""
    weights: np.ndarray | None = None
    """(n,) float32: how much each row counts in the loss, never in a score; None: all alike."""
    numbers: np.ndarray | None = None
    """(n,) int64: the number of each row, from 1, in the part of the source that it was read from; None: not known."""
    part: str = ""
    """Name of that part: "train" also for what is split off training rows; "" where there is none."""
    groups: np.ndarray | None = None
    """(n,) int64, the same for rows that stay on one side of a split; None: those whose texts are the same, folded."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.targets):
            raise DataError(f"expected a target a text, found {len(self.texts)} texts, {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Split({len(self):,} rows)"

    @classmethod
    def joined(cls, splits: "Sequence[Split]") -> "Split":
        """Return the rows of all of the splits, one after the other; their numbers are known if all are of one part."""
        rows = cls(joined_texts([split.texts for split in splits]), np.concatenate([split.targets for split in splits]))
        if any(split.weights is not None for split in splits):
            rows = replace(rows, weights=np.concatenate([split.row_weights() for split in splits]))
        if any(split.groups is not None for split in splits):
            rows = replace(rows, groups=np.concatenate([split.row_groups() for split in splits]))
        known = [split.numbers for split in splits if split.numbers is not None]
        if len({split.part for split in splits}) > 1 or len(known) < len(splits):
            return rows
        return replace(rows, numbers=np.concatenate(known), part=splits[0].part)

    def row_weights(self) -> np.ndarray:
        """Return the weight of each row, (n,) float32."""
        return np.ones(len(self), np.float32) if self.weights is None else self.weights

    def row_groups(self) -> np.ndarray:
        """Return what is the same for rows that stay on one side of a split, (n,) int64."""
        return text_groups(self.texts) if self.groups is None else self.groups

    def take(self, indices: Iterable[int] | np.ndarray) -> "Split":
        """Take the rows at ``indices`` (or where a boolean mask of n is true), in that order."""
        places = indices if isinstance(indices, np.ndarray) else np.array([*indices], np.int64)
        rows = np.arange(len(self))[places]
        of_rows = {"weights": self.weights, "numbers": self.numbers, "groups": self.groups}
        others: dict[str, Any] = {name: None if values is None else values[rows] for name, values in of_rows.items()}
        return replace(self, texts=taken(self.texts, rows), targets=self.targets[rows], **others)

    def fingerprint(self) -> dict[str, Any]:
        """Return the row count and the SHA-256 of texts and targets in order, the same on every machine."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        digest.update(self.targets.astype("<i8" if self.targets.ndim == 1 else "<f4").tobytes())
        if self.weights is not None:
            digest.update(self.weights.astype("<f4").tobytes())
        return {"rows": len(self), "hash": digest.hexdigest()}


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Labeled text, split once, with equal texts on one side; splits that the source has are kept as they are."""

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
    columns: Columns | None = None
    """What was read of the training rows."""
    renamed: tuple[str, ...] = ()
    """Labels of ``label_mapping`` that occur here."""
    warnings: tuple[str, ...] = ()
    """What makes scores less than they seem: what reading says of the labels, or all that was looked for."""

    @property
    def written_labels(self) -> set[str]:
        """The labels as they are written in the rows, and as they are after ``label_mapping``."""
        return {*self.labels.names, *self.renamed}

    @property
    def splits(self) -> dict[str, Split]:
        """The four splits by name."""
        return {name: getattr(self, name) for name in ("train", "validation", "calibration", "test")}

    def with_warnings(self, warnings: Iterable[str]) -> "Data":
        """Return the same rows, which are hashed once, with these warnings."""
        made = replace(self, warnings=tuple(warnings))
        vars(made)["_fingerprints"] = self._fingerprints
        return made

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


def load_data(source: Any, settings: DataSettings | None = None, *, is_target: bool = True, **options: Any) -> Data:
    """Read labeled text and split it, stratified (Sechidis et al. 2011), where the source has no splits.

    A test split whose labels are all missing is left alone; texts that it shares with train stay.

    Args:
        source: a hub id, a file of rows (csv, tsv, JSON, parquet, ...; compressed or not), a folder of such files
            named train, validation (valid, val, dev) and test, a ``datasets`` Dataset or DatasetDict, a pandas or
            polars DataFrame, an Arrow table, a list of dicts, a dict of columns, a pair (texts, labels), or a mapping
            of split names to any of the last seven.
        settings: how rows are read and split; or its fields one by one, as ``options``.
        is_target: whether every label that ``label_mapping`` names must occur here, as it is of no other task.

    Raises:
        DataError: rows that cannot be read, mapped to text and label, or split.
        SettingError: an unknown option, or a value that makes no sense for it.
    """
    settings = data_settings(settings, options)
    data: Data
    if isinstance(source, (str, Path)):
        data = once(("data", str(source), str(settings)), lambda: _load(source, settings))
    else:
        data = _load(source, settings)
    if is_target:
        check_mapping(settings.label_mapping, data.written_labels, f"{data.name} has")
    return data


def data_settings(settings: DataSettings | None, options: Mapping[str, Any]) -> DataSettings:
    """Return settings, or those that the options make; a SettingError for both."""
    check(settings is None or not options, "settings", settings, f"none beside {', '.join(options)}")
    made: DataSettings = settings or fill({"data": DataSettings}, options)["data"]
    return made


def check_mapping(mapping: Mapping[str, str] | None, names: Collection[str], where: str) -> None:
    """Raise a SettingError where a mapping has a label that does not occur."""
    if unknown := [name for name in mapping or () if name not in names]:
        raise SettingError(f"label_mapping: {where} no label {unknown[0]!r}: {nearest(unknown[0], names)}")


def _load(source: Any, settings: DataSettings) -> Data:
    opened = open_source(source, settings)
    if not opened.parts.keys() & {"train", WHOLE}:
        raise DataError(f"{source!s:.200}: expected a train split, found only {', '.join(opened.parts)}")
    tables = {"train" if split == WHOLE else split: opened.table(split) for split in opened.parts}
    named = settings.text_column, settings.label_column, settings.weight_column, settings.group_column
    columns = find_columns(tables["train"], *named)
    rows = {
        split: _read_rows(table, columns if split == "train" else columns.held_out(table), settings)
        for split, table in tables.items()
    }
    for split, these in list(rows.items()):
        if split != "train" and not these.texts and these.without_label:
            logger.warning("%s: no row of %s has a label, so it is not used", these.where, split)
            del rows[split]
    class_names = settings.label_names or tables["train"].class_names.get(columns.label[0])
    labels = _labels_of(rows["train"], class_names)
    encoded = {split: _encode(these, labels, split) for split, these in rows.items()}
    if settings.split_by == "copies":
        encoded = _grouped_by_copies(encoded)
    splits: dict[str, Any] = _split(encoded, labels, settings)
    splits["train"] = _without_weightless(splits["train"])
    spelled = {canonical(name) for these in rows.values() for name in these.written}
    renamed = tuple(name for name in settings.label_mapping or () if canonical(name) in spelled)
    warnings = tuple(label_warnings(labels, splits, labels.count(encoded["train"].targets)))
    for warning in warnings:
        logger.warning("%s: %s", opened.name, warning)
    return Data(opened.name, labels, **splits, columns=columns, renamed=renamed, warnings=warnings)


def load_split(
    source: Any,
    labels: Labels,
    settings: DataSettings | None = None,
    split: str = "test",
    known: Sequence[str] = (),
) -> Split:
    """Read one split whole, to evaluate a classifier on; a DataError where it cannot be read, or has an unknown label.

    Args:
        source: as in :func:`load_data`; a source without splits (a file, a Dataset, ...) is taken whole.
        labels: the classifier's labels; single labels are read as sets of one where it is multi-label.
        settings: how rows are read; the form of the texts is applied by a classifier besides.
        known: text columns that are taken where the settings name none, and the source has them.
    """
    settings = settings or DataSettings()
    opened = open_source(source, settings)
    wanted = WHOLE if WHOLE in opened.parts else SPLIT_NAMES.get(split, split)
    if wanted not in opened.parts:
        raise DataError(f"{source!s:.200}: expected a {wanted} split, found {', '.join(opened.parts)}")
    table = opened.table(wanted)
    columns = find_columns(table, settings.text_column, settings.label_column, known=known)
    rows = _encode(_read_rows(table, columns, settings), labels, "the data" if wanted == WHOLE else split)
    return replace(rows, part="train" if wanted == WHOLE else wanted)


@dataclass(frozen=True)
class _Rows:
    where: str
    texts: Sequence[str]
    labels: RowLabels
    """none of them missing"""
    numbers: np.ndarray
    """(rows,) of the source, from 1"""
    weights: np.ndarray | None
    groups: np.ndarray | None
    multi_label: bool
    without_text: int
    without_label: int
    written: set[str]
    """labels before ``label_mapping``"""

    def check(self) -> None:
        if not self.texts:
            raise DataError(
                f"{self.where}: expected rows with a text and a label, found none: "
                f"{self.without_text} rows without text, {self.without_label} without label"
            )


def _read_rows(table: Table, columns: Columns, settings: DataSettings) -> _Rows:
    has_text = np.zeros(len(table), bool)

    def parts() -> Iterator[list[str]]:
        for start in range(0, len(table), CHUNK):
            some = normalize(settings.normalization, texts_of(table.part(start, start + CHUNK), columns.text))
            has_text[start : start + CHUNK] = [*map(bool, map(str.strip, some))]
            yield some

    texts = held(counted(parts(), f"texts of {table.where}", len(table)))
    labels = _read_labels(table, columns.label, settings)
    usable = has_text & labels.is_present()
    without_text, without_label = int((~has_text).sum()), int((has_text & ~usable).sum())
    if without_text or without_label:
        logger.warning(
            "%s: left out are %d rows without text and %d without label", table.where, without_text, without_label
        )
        texts = taken(texts, np.flatnonzero(usable))
    groups = None if columns.group is None else [*compress(groups_of(table, columns.group), usable.tolist())]
    return _Rows(
        table.where,
        texts=texts,
        labels=labels.take(usable).mapped(settings.label_mapping or {}),
        numbers=np.flatnonzero(usable) + 1,
        weights=None if columns.weight is None else weights_of(table, columns.weight)[usable],
        groups=None if groups is None else value_groups(groups, texts),
        multi_label=labels.multi_label,
        without_text=without_text,
        without_label=without_label,
        written={*chain.from_iterable(labels.names)},
    )


def _read_labels(table: Table, names: Sequence[str], settings: DataSettings) -> RowLabels:
    if len(names) > 1:
        return labels_of_columns({name: table.column(name) for name in names}, table.where)
    values, where = table.column(names[0]), f"{table.where}, column {names[0]!r}"
    class_names = table.class_names.get(names[0])
    return read_labels(values, where, class_names, settings.label_delimiter, settings.label_names)


def _grouped_by_copies(parts: Mapping[str, Split]) -> dict[str, Split]:
    groups = copies_of([text for part in parts.values() for text in part.texts]).first
    ends = np.cumsum([len(part) for part in parts.values()])
    return {
        name: replace(part, groups=groups[end - len(part) : end])
        for (name, part), end in zip(parts.items(), ends.tolist(), strict=True)
    }


def _without_weightless(train: Split) -> Split:
    """Leave out training rows of weight 0, of which nothing is learned."""
    if train.weights is None or train.weights.all():
        return train
    logger.info("%d training rows have the weight 0, and are left out", int((train.weights == 0).sum()))
    return train.take(train.weights > 0)


def _labels_of(rows: _Rows, class_names: Sequence[str] | None) -> Labels:
    rows.check()
    counts = rows.labels.counts()
    spelled = dict(zip(counts, counts, strict=True)) if class_names is not None else spelled_alike(counts)
    if len({frozenset(map(spelled.__getitem__, names)) for names in rows.labels.names}) < 2:
        only = next(iter(rows.labels))
        raise DataError(
            f"{rows.where}: expected two labels or more to tell apart, found the same in all {len(rows.texts)} rows: "
            f"{[*only] if isinstance(only, tuple) else only!r}; check label_column, or add rows of other labels"
        )
    return Labels(order_names(spelled.values(), class_names), rows.multi_label)


def _encode(rows: _Rows, labels: Labels, split: str) -> Split:
    rows.check()
    if rows.multi_label and not labels.multi_label:
        raise DataError(f"{rows.where}: expected one label a row as in training, found lists of labels")
    names, codes = rows.labels.names, rows.labels.codes
    known = {name: labels.known(name) for name in dict.fromkeys(chain.from_iterable(names))}
    if unknown := [name for name, label in known.items() if label is None]:
        numbers = {name: rows.numbers[np.isin(codes, [at for at, each in enumerate(names) if name in each])]
                   for name in unknown[:5]}  # fmt: skip
        found = ", ".join(f"{name!r} ({len(some)} rows, first in row {some[0]})" for name, some in numbers.items())
        raise DataError(
            f"{rows.where}: expected only labels seen in training in {split}, found {found}; known labels: "
            f"{', '.join(labels.names[:30])}; remove these rows, or move some of them to train"
        )
    ids = {name: labels.label2id[label] for name, label in known.items() if label is not None}
    if not labels.multi_label:
        targets = np.array([ids[name] for (name,) in names], np.int64)[codes]
        return Split(rows.texts, targets, rows.weights, rows.numbers, split, rows.groups)
    sets = np.zeros((len(names), labels.num_labels), np.float32)
    for row, of_row in zip(sets, names, strict=True):
        row[[ids[name] for name in of_row]] = 1
    return Split(rows.texts, sets[codes], rows.weights, rows.numbers, split, rows.groups)


def folds_of(data: Data, count: int, seed: int = 0) -> list[Data]:
    """Split train and validation rows into folds, stratified by labels, each once the validation rows of the others.

    What stays on one side of a split is in one fold; a label with a single text, or group, is always learned.
    Calibration and test rows stay.
    """
    rows = Split.joined([data.train, data.validation])
    left = units_of(rows.texts, rows.targets, seed, rows.groups)
    rare = rare_labels(left, 2)
    parts = []
    for remaining in range(min(count, len(left)), 1, -1):
        left, part = carve(left, 1 / remaining, staying=rare, least_taken=0)
        parts.append(part.rows)
    parts.append(left.take(~left.carrying(rare)).rows)
    return [
        replace(data, train=rows.take(np.setdiff1d(np.arange(len(rows)), part)), validation=rows.take(np.sort(part)))
        for part in parts
        if len(part)
    ]


def _split(sources: dict[str, Split], labels: Labels, settings: DataSettings) -> dict[str, Split]:
    source, has_validation = sources["train"], "validation" in sources
    units = units_of(source.texts, source.targets, settings.split_seed, source.groups)
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
        units = subset(units, most, least, settings.unit_name)
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
            f"expected {1 + len(carved)} {settings.unit_name} or more of a label, one each for "
            f"{', '.join(['train', *carved])}, found fewer of each of the {labels.num_labels} labels, which leaves "
            f"{' and '.join(empty)} empty; add rows, or give a {' and a '.join(carved)} split of your own"
        )
    made["train"] = _gather(source, units)
    return made


def _gather(split: Split, units: Units) -> Split:
    return split.take(np.sort(units.rows))


def _fewer(split: Split, most: int, settings: DataSettings) -> Split:
    units = units_of(split.texts, split.targets, settings.seed_of_rows, split.groups)
    fewer = _gather(split, subset(units, most, 0))
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
            "No rows are set aside to calibrate probabilities: it would be %d, and %d are the least that help",
            rows,
            LEAST_CALIBRATION_ROWS,
        )
        return 0
    return rows
