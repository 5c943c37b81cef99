"""Say what a run was made from and how it went: its data, each stage's fit, its cost, its verdict.

These are plain values. They know neither the files that keep them nor how they come about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from nlptransfer.data import Data, Labels
from nlptransfer.evaluation import Gain


@dataclass(frozen=True)
class DataSummary:
    """A dataset without its rows."""

    name: str
    labels: Labels
    fingerprints: Mapping[str, Mapping[str, Any]]
    """by split: its number of rows and their hash"""
    label_counts: Mapping[str, int] = field(default_factory=dict)
    """training rows of each label"""
    truncated: Mapping[str, float] = field(default_factory=dict)
    """by split, the share of its texts that are not read to their end"""

    @classmethod
    def of(cls, data: Data, truncated: Mapping[str, float] | None = None) -> "DataSummary":
        """Summarize a dataset."""
        counts = label_counts(data.train.targets, data.labels)
        return cls(data.name, data.labels, data.fingerprints(), counts, truncated or {})

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows by split."""
        return {split: found["rows"] for split, found in self.fingerprints.items()}


def label_counts(targets: np.ndarray, labels: Labels) -> dict[str, int]:
    """Count the rows of each label."""
    counts = targets.sum(axis=0) if labels.multi_label else np.bincount(targets, minlength=labels.num_labels)
    return dict(zip(labels.names, (int(count) for count in counts), strict=True))


@dataclass(frozen=True)
class Fit:
    """How one stage was fitted. A field is None where it does not apply."""

    seconds: float = 0.0
    examples: int = 0
    """training texts seen, each epoch anew"""
    step: int | None = None
    """gradient steps taken"""
    best_score: float | None = None
    """on validation rows, or on rows held out by cross-validation"""
    best_epoch: int | None = None
    """the epoch whose weights were kept"""
    history: Sequence[Mapping[str, float]] | None = None
    """by epoch: epoch, loss, learning_rate, score"""
    chosen_by: str | None = None
    """validation or cross-validation, where the L2 penalty of a linear head was chosen"""
    chosen: Mapping[str, Any] | None = None
    """settings of the variant that was kept"""
    curve: Sequence[Mapping[str, Any]] | None = None
    """of each variant: its settings, best_score, evidence, seconds, examples"""
    evidence: Mapping[str, Any] | None = None
    """for the fitted model, where variants are compared without target labels"""
    domains_differ: bool | None = None
    """whether the domains differed before adaptation, where variants are compared without target labels"""
    collapsed: Mapping[str, Any] | None = None
    """learning_rate and history of the attempt that was not kept, where training was restarted at a lower rate"""
    details: Mapping[str, Any] = field(default_factory=dict)
    """whatever else the fit recorded"""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Fit":
        """Take the known keys of a record as fields, all others as details."""
        known = {one.name for one in fields(cls)} - {"details"}
        return cls(
            **{name: value for name, value in record.items() if name in known},
            details={name: value for name, value in record.items() if name not in known},
        )

    def to_record(self) -> dict[str, Any]:
        """Return all that applies, flat."""
        return _without_none(self, "details") | dict(self.details)


@dataclass(frozen=True)
class Cost:
    """What a run took, and what its classifier takes."""

    train_seconds: float
    examples_per_second: float
    """in training"""
    trainable_parameters: int
    total_parameters: int
    peak_memory_mb: float
    texts_per_second: float | None = None
    """in prediction; None where no model was saved"""
    size_mb: float | None = None
    """of the saved model; None where there is none"""
    texts_per_second_1: float | None = None
    """the same, one text at a time: of baselines"""
    texts_per_second_64: float | None = None

    def to_record(self) -> dict[str, float]:
        """Return what was measured."""
        return _without_none(self)


@dataclass(frozen=True)
class Verdict(Gain):
    """Whether the source helped, and which of the two sides the run is."""

    validation: Mapping[str, float]
    """mean validation score by strategy"""
    fallback: bool
    """whether the side without the source was to be taken where it validates better"""
    taken: str
    """the strategy of the side that the run is"""

    def to_record(self) -> dict[str, Any]:
        """Return every field, ready for JSON."""
        return {**asdict(self), "interval": list(self.interval)}


@dataclass(frozen=True)
class TransferSummary:
    """How knowledge reached the target."""

    name: str
    label_free: bool
    settings: Mapping[str, Any]
    source: str | DataSummary | None = None
    """a dataset, or the name of the route of a saved classifier"""
    stages: Mapping[str, Fit] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """by role: the split, and scores before and after the target was learned"""
    distance_from_source: Mapping[str, float] | None = None
    """by layer, the norm of the change of its weights since the source was learned"""
    similarity: Sequence[Mapping[str, Any]] | None = None
    """by layer: proxy_a_distance between the domains, cka_with_source"""


def _without_none(value: Any, *left_out: str) -> dict[str, Any]:
    named = {one.name: getattr(value, one.name) for one in fields(value) if one.name not in left_out}
    return {name: found for name, found in named.items() if found is not None}
