"""Read the source of a transfer. This file knows no training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.classifier import Classifier, is_saved
from nlptransfer.data import Data, DataSettings, Labels, Split, load_data
from nlptransfer.errors import SettingError
from nlptransfer.results import RunResult, Source, same_labels
from nlptransfer.transfer import FromSource, cached_importance_weights


def weighted(source: Source, target: Data, transfer: FromSource, seed: int) -> Source:
    """Give each source row its weight in the loss; ``seed`` is that of the domain classifier."""
    if source.data is None:
        return source
    weights = np.ones(len(source.data.train))  # besides those that the rows have in the data
    sizes = np.array(source.sizes)
    if transfer.temperature != 1 and len(sizes) > 1:
        wanted = sizes ** (1 / transfer.temperature)
        weights *= np.repeat(wanted / wanted.sum() * sizes.sum() / sizes, sizes)
    if transfer.target_like:
        weights *= cached_importance_weights(source.data.train.texts, target.unlabeled or target.train.texts, seed)
    return source if (weights == 1).all() else replace(source, weights=(weights / weights.mean()).astype(np.float32))


def load_source(source: Any, target: Labels | None, settings: DataSettings, transfer: FromSource) -> Source:
    """Read a source: data in any form of :func:`load_data`, a list of several, a saved classifier or its folder.

    It gets the labels of ``target`` where both have the same; None: nobody is to see them. ``settings`` are those of
    the target's data, but for columns and number of rows, which are those of ``transfer``.
    """
    if (saved := saved_classifier(source)) is not None:
        return _of_classifier(saved, settings.label_mapping or {})
    settings = transfer.beside(settings)
    several = isinstance(source, list) and not _are_rows(source)
    parts = [load_data(one, settings, is_target=False) for one in (source if several else [source])]
    if len({part.labels.multi_label for part in parts}) > 1:
        raise SettingError("source: expected one label a row in all of the sources, or lists of labels in all")
    names = dict.fromkeys(name for part in parts for name in part.labels.names)
    labels = Labels(tuple(names), parts[0].labels.multi_label)
    if target is not None and same_labels(labels, target):
        labels = target
    data = _joined([_relabeled(part, labels) for part in parts], labels)
    return Source(data.name, labels, data, sizes=tuple(len(part.train) for part in parts))


def _are_rows(source: list[Any]) -> bool:
    """Tell whether a list has a row in each dict: columns and splits hold texts in lists or name files of theirs."""
    return all(
        isinstance(row, Mapping) and "train" not in row and any(isinstance(cell, str) for cell in row.values())
        for row in source
    )


def saved_classifier(source: Any) -> Classifier | None:
    """Return the classifier that a source is, or that its run has; None where it is data."""
    if isinstance(source, Classifier):
        return source
    if isinstance(source, (str, Path)):
        return Classifier.load(source) if is_saved(source) else None
    return source.classifier if isinstance(source, RunResult) else None


def _of_classifier(saved: Classifier, mapping: dict[str, str]) -> Source:
    names = [mapping.get(name, name) for name in saved.labels.names]
    if len(set(names)) < len(names):
        raise SettingError(
            f"label_mapping={mapping}: expected another name for each label of a saved classifier, "
            f"found {', '.join(names)}: give its training data as the source to have labels put together"
        )
    return Source(saved.route.name, Labels(tuple(names), saved.labels.multi_label), None, saved)


def _relabeled(data: Data, labels: Labels) -> Data:
    """Encode the targets by the ids of labels that contain those of the data."""
    if data.labels == labels:
        return data
    splits: dict[str, Any] = {
        name: replace(split, targets=labels.encode(data.labels.decode(split.targets)))
        for name, split in data.splits.items()
    }
    return replace(data, labels=labels, **splits)


def _joined(parts: Sequence[Data], labels: Labels) -> Data:
    if len(parts) == 1:
        return parts[0]
    splits: dict[str, Any] = {
        # Rows of the same number, or group, but of another source.
        name: replace(Split.joined([part.splits[name] for part in parts]), numbers=None, part="", groups=None)
        for name in parts[0].splits
    }
    renamed = tuple({name for part in parts for name in part.renamed})
    return replace(parts[0], name="+".join(part.name for part in parts), labels=labels, renamed=renamed, **splits)
