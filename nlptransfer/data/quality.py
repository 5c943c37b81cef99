"""Warn of what makes scores on data less than they seem: copies, conflicts, labels, drift. Does not know the scores."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nlptransfer.data.drift import drifting_words
from nlptransfer.data.labels import Labels
from nlptransfer.data.spelling import as_mapping, near_twins
from nlptransfer.data.splitting import text_groups
from nlptransfer.errors import abridged

if TYPE_CHECKING:
    from nlptransfer.data.dataset import Data, Split

IMBALANCE = 10
"""Least ratio of the rows of the most frequent label to those of the rarest that is warned of."""
FEW_OF_A_LABEL = 10
"""Labels with fewer training rows than this are named."""
LITTLE = 0.01
"""Share of rows below which copies and conflicts are said last, and of copies within train nothing at all."""
NAMED = 5
"""Labels, or words, named in one sentence."""
_TOO_GOOD = "scores on them are too good"
_CHOICE_LEAKS = (
    ("validation", "train", "choices made by them are too hopeful"),
    ("test", "validation", "choices have seen them"),
)
"""The split of the texts, where they are too, and what comes of it."""
_MORE_ROWS = "add rows of them, or merge labels by label_mapping"
_CLEAN = "nlptransfer audit DATA --clean-to FILE --drop"
_Warning = tuple[float, str]
"""Share of the rows that a warning is of, and the warning."""


def data_warnings(data: "Data", source: "Data | None" = None) -> list[str]:
    """Return a sentence on each thing that makes scores on this data less than they seem, the most harmful first.

    Texts are copies if they differ in case, white space and punctuation at most, also those of another task that is
    learned from, the ``source``. Labels of test are looked at to count conflicts alone.
    """
    if not len(data.train):
        return [*data.warnings]
    keys = {name: text_groups(split.texts) for name, split in data.splits.items()}
    # What was split off training rows lies where they do.
    parts = {name: "train" if data.splits[name].part == data.train.part else name for name in keys if name != "test"}
    seen = {part: np.concatenate([keys[name] for name in keys if parts.get(name) == part]) for part in parts.values()}
    if source is not None:
        seen["the source"] = text_groups(source.train.texts)
    warnings = [
        *_leaks(keys, seen, [("test", name, _TOO_GOOD) for name in ("train", "the source")]),
        *_conflicts(data, keys),
        *((1.0, warning) for warning in data.warnings),
        *_leaks(keys, seen, _CHOICE_LEAKS if "validation" in seen else ()),
        *_shared_groups(data),
        *_drift(data),
        *_imbalance(data),
        *_repeated(keys["train"]),
    ]
    return [warning for _, warning in sorted(warnings, key=lambda one: one[0] < LITTLE)]


def label_warnings(labels: Labels, splits: "Mapping[str, Split]", counts: np.ndarray) -> list[str]:
    """Return a sentence on labels that are nearly one, and on those that no row of validation or test has.

    Of ``splits`` it needs train, validation and test; ``counts`` (labels,) are all rows to learn from.
    """
    warnings, rows = [], {labels.names[label]: int(counts[label]) for label in np.argsort(-counts, kind="stable")}
    if twins := near_twins(rows):
        groups = ((most, *others) for most, others in twins.items())
        found = "; ".join(", ".join(f"{name!r} ({rows[name]} rows)" for name in group) for group in groups)
        warnings.append(
            f"labels that differ by case, white space or invisible characters alone: {found}; to merge them: "
            f"label_mapping={as_mapping(twins)}"
        )
    has_rows = {name: labels.count(splits[name].targets) > 0 for name in ("validation", "test") if len(splits[name])}
    learned, unjudged = labels.count(splits["train"].targets), defaultdict[str, list[str]](list)
    for label in np.flatnonzero(~np.all([*has_rows.values()], axis=0)):
        where = " and ".join(name for name, has in has_rows.items() if not has[label])
        unjudged[where].append(f"{labels.names[label]!r} ({learned[label]})")
    if unjudged:
        found = "; ".join(
            f"no row of {where} judges {len(names)} of {labels.num_labels} labels (training rows): {abridged(names, 5)}"
            for where, names in unjudged.items()
        )
        warnings.append(f"{found}; their scores there are null, and macro means leave them out: {_MORE_ROWS}")
    return warnings


def _leaks(
    keys: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray], leaks: Iterable[tuple[str, str, str]]
) -> Iterator[_Warning]:
    for name, where, what in leaks:
        if shared := int(np.isin(keys[name], seen.get(where, ())).sum()):
            share, counted = _counted(shared, len(keys[name]), f"{name} texts")
            advice = "leave them out" if where == "the source" else f"to leave them out of {where}: {_CLEAN} copies"
            yield share, f"leak: {counted} in {where} too, case and punctuation aside: {what}; {advice}"


def _shared_groups(data: "Data") -> Iterator[_Warning]:
    """Find near copies of train, or values of its group column, in a test split that the source has."""
    train, test = data.train.groups, data.test.groups
    if train is None or test is None or data.test.part == data.train.part:
        return
    if shared := int(np.isin(test, train).sum()):
        column = None if data.columns is None else data.columns.group
        what, advice = "near copies of training rows", f"to leave these out: {_CLEAN} copies"
        if column is not None:
            what, advice = f"of values of {column!r} that train has too", "leave them out of one of both"
        share, counted = _counted(shared, len(test), "test rows")
        yield share, f"leak: {counted} {what}: {_TOO_GOOD}; {advice}"


def _conflicts(data: "Data", keys: Mapping[str, np.ndarray]) -> Iterator[_Warning]:
    targets = [split.targets for split in data.splits.values()]
    if data.labels.multi_label:
        targets = [np.array([hash((row > 0).tobytes()) for row in each], np.int64) for each in targets]
    labels = np.concatenate(targets)
    _, first, text = np.unique(np.concatenate([*keys.values()]), return_index=True, return_inverse=True)
    conflicting = np.zeros(len(first), bool)
    conflicting[text[labels != labels[first][text]]] = True
    if count := int(conflicting.sum()):
        share, counted = _counted(int(conflicting[text].sum()), len(text), "rows")
        texts = f"{count:,} {'text' if count == 1 else 'texts'}"
        yield (
            share,
            f"conflicting labels: {counted} of texts that have different labels in different rows ({texts}); to leave "
            f"them out: {_CLEAN} conflicts",
        )


def _drift(data: "Data") -> Iterator[_Warning]:
    """Find words that more texts of test have than of train, or fewer, beyond chance."""
    if not (words := drifting_words(data.train.texts, data.test.texts)):
        return
    named = [f"{one.word!r} ({one.second:.1%} and {one.first:.1%})" for one in words]
    count = "1 word is" if len(words) == 1 else f"{len(words):,} words are"
    is_carved = data.test.part == data.train.part
    advice = "" if is_carved else "; if these matter, leave the test split out, and test_size splits one off train"
    yield (
        1.0,
        f"drift: {count} in another share of the test texts than of the training texts, beyond chance: "
        f"{abridged(named, NAMED)}: scores on test say less of texts like those of train{advice}",
    )


def few_rows(counts: np.ndarray) -> tuple[bool, list[int]]:
    """Tell whether labels with these (labels,) training rows are out of balance, and which have few rows."""
    order = np.argsort(counts, kind="stable").tolist()
    is_imbalanced = counts[order[-1]] >= IMBALANCE * max(1, counts[order[0]])
    return bool(is_imbalanced), [label for label in order if counts[label] < FEW_OF_A_LABEL]


def _imbalance(data: "Data") -> Iterator[_Warning]:
    names, counts = data.labels.names, data.labels.count(data.train.targets)
    is_imbalanced, few = few_rows(counts)
    if is_imbalanced:
        rarest, most = int(counts.argmin()), int(counts.argmax())
        yield (
            1.0,
            f"imbalance: {names[most]!r} has {int(counts[most]):,} of the {len(data.train):,} training rows, "
            f"{names[rarest]!r} {int(counts[rarest]):,}: look at macro F1 and at the scores per class",
        )
    if few:
        named = abridged([f"{names[label]!r} ({int(counts[label])})" for label in few], NAMED)
        yield 1.0, f"few rows: fewer than {FEW_OF_A_LABEL} training rows of {named}: {_MORE_ROWS}"


def _repeated(keys: np.ndarray) -> Iterator[_Warning]:
    repeated = len(keys) - len(np.unique(keys))
    share, counted = _counted(repeated, len(keys), "training texts")
    if share >= LITTLE:
        yield share, f"copies: {counted} copies of others: these count more; to leave one of each: {_CLEAN} copies"


def _counted(count: int, all_: int, what: str) -> tuple[float, str]:
    return count / all_, f"{count:,} of the {all_:,} {what} ({percentage(count, all_)}) are"


def percentage(count: int, all_: int) -> str:
    """Write a share in percent, of one of many as "under 0.1%"."""
    share = count / all_
    return f"{share:.1%}" if share >= 0.0005 or not count else "under 0.1%"
