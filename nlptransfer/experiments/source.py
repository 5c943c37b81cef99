"""What knowledge is taken from: rows of another task, of several, or a classifier that was saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nlptransfer.classifier import RECORD, Classifier
from nlptransfer.data import Data, DataSettings, Labels, Split, load_data
from nlptransfer.errors import SettingError, nearest
from nlptransfer.models import hash_of_modules
from nlptransfer.transfer import FromSource, Sides, kept_odds


@dataclass(frozen=True)
class Source:
    """The source of a transfer, in the label names of the target."""

    name: str
    labels: Labels
    """those of the target, in its order, where both have the same"""
    data: Data | None
    """its rows; None: ``classifier`` has learned from them"""
    classifier: Classifier | None = None
    weights: np.ndarray | None = None
    """(training rows,) float32, mean 1: what each of them counts; None: all 1"""
    sizes: tuple[int, ...] = ()
    """training rows of each of several sources, in their order"""

    def weighed(self, target: Data, transfer: FromSource, seed: int) -> "Source":
        """With what each row counts for a target.

        Args:
            seed: of the domain classifier.
        """
        if self.data is None:
            return self
        return replace(self, weights=_weights(self.sizes, self.data, target, transfer, seed))

    def sides(self, target: Data) -> Sides:
        """What a strategy has to fit."""
        return Sides(self.labels.names, target.labels.names, self.agrees(target), self.data is not None)

    def agrees(self, target: Data) -> bool:
        """Whether the labels are the target's."""
        return _alike(self.labels, target.labels)

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        """What it is by its content, on every machine."""
        if self.data is not None:
            return self.data.fingerprints()
        assert self.classifier is not None
        return {"classifier": hash_of_modules([self.classifier.model])}


def load_source(given: Any, target: Labels | None, settings: DataSettings, transfer: FromSource) -> Source:
    """Read a source and put it into the target's terms.

    Args:
        given: data in any form of :func:`load_data`, a list of several such, a saved classifier or its folder.
        target: the labels of what is transferred to; None where nobody is to see them.
        settings: of the target's data; how many rows are taken and from which columns says the transfer.

    Raises:
        DataError: rows that cannot be read.
        SettingError: a label mapping that names no label, or sources of different kinds.
    """
    if (saved := saved_classifier(given)) is not None:
        return _of_classifier(saved, transfer)
    own = replace(
        settings,
        text_column=transfer.source_text_column,
        label_column=transfer.source_label_column,
        max_train_rows=transfer.max_source_rows,
        rows_seed=None,
    )
    parts = [load_data(one, own) for one in (given if isinstance(given, list) else [given])]
    mapping = _checked(transfer.label_mapping, [name for part in parts for name in part.labels.names])
    parts = [_mapped(part, mapping) for part in parts]
    if len({part.labels.multi_label for part in parts}) > 1:
        raise SettingError("source: expected one label a row in all of the sources, or lists of labels in all")
    names = tuple(dict.fromkeys(name for part in parts for name in part.labels.names))
    found = Labels(names, parts[0].labels.multi_label)
    labels = target if target is not None and _alike(found, target) else found
    sizes = tuple(len(part.train) for part in parts)
    data = _joined([_relabeled(part, labels) for part in parts], labels)
    return Source(data.name, labels, data, sizes=sizes)


def saved_classifier(given: Any) -> Classifier | None:
    """The classifier that was saved, or that a finished run has; None where something else is given."""
    if isinstance(given, Classifier):
        return given
    if isinstance(given, (str, Path)):
        folder = Path(given)
        found = (folder / RECORD).exists() or (folder / "model" / RECORD).exists()
        return Classifier.load(folder) if found else None
    # A finished run.
    own = getattr(given, "classifier", None)
    return own if isinstance(own, Classifier) else None


def _of_classifier(saved: Classifier, transfer: FromSource) -> Source:
    mapping = _checked(transfer.label_mapping, saved.labels.names)
    names = [mapping.get(name, name) for name in saved.labels.names]
    if len(set(names)) < len(names):
        raise SettingError(
            f"label_mapping={transfer.label_mapping}: expected another name for each label of a saved classifier, "
            f"found {', '.join(names)}: give its training data as the source to have labels put together"
        )
    labels = Labels(tuple(names), saved.labels.multi_label)
    return Source(saved.route.name, labels, None, saved)


def _checked(mapping: Mapping[str, str] | None, names: Sequence[str]) -> Mapping[str, str]:
    for name in mapping or {}:
        if name not in names:
            raise SettingError(f"label_mapping: the source has no label {name!r}: {nearest(name, names)}")
    return mapping or {}


def _alike(one: Labels, other: Labels) -> bool:
    return set(one.names) == set(other.names) and one.multi_label == other.multi_label


def _mapped(data: Data, mapping: Mapping[str, str]) -> Data:
    """With the target's names; several labels may become one."""
    names = tuple(dict.fromkeys(mapping.get(name, name) for name in data.labels.names))
    return _relabeled(data, Labels(names, data.labels.multi_label), mapping)


def _relabeled(data: Data, labels: Labels, mapping: Mapping[str, str] = MappingProxyType({})) -> Data:
    """With targets as other labels number them."""
    if data.labels == labels:
        return data

    def split(old: Split) -> Split:
        rows: Sequence[Any] = data.labels.decode(old.targets)
        if data.labels.multi_label:
            rows = [tuple(dict.fromkeys(mapping.get(name, name) for name in row)) for row in rows]
        else:
            rows = [mapping.get(name, name) for name in rows]
        return Split(old.texts, labels.encode(rows))

    return data.with_splits(labels, {name: split(old) for name, old in data.splits.items()})


def _joined(parts: Sequence[Data], labels: Labels) -> Data:
    if len(parts) == 1:
        return parts[0]
    splits = {
        name: Split(
            [text for part in parts for text in part.splits[name].texts],
            np.concatenate([part.splits[name].targets for part in parts]),
        )
        for name in parts[0].splits
    }
    return replace(parts[0].with_splits(labels, splits), name="+".join(part.name for part in parts))


def _weights(sizes: Sequence[int], data: Data, target: Data, transfer: FromSource, seed: int) -> np.ndarray | None:
    weights = np.ones(len(data.train))
    if transfer.temperature != 1 and len(sizes) > 1:
        wanted = np.array(sizes) ** (1 / transfer.temperature)
        weights *= np.repeat(wanted / wanted.sum() * sum(sizes) / np.array(sizes), sizes)
    if transfer.target_like:
        weights *= kept_odds(data.train.texts, target.unlabeled or target.train.texts, seed)
    return None if (weights == 1).all() else (weights / weights.mean()).astype(np.float32)
