"""What a run was made from and how it went, as plain values that can be turned into JSON and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from nlptransfer.data import Data, Labels
from nlptransfer.evaluation import Gain
from nlptransfer.transfer import Evidence

T = TypeVar("T")


def to_record(value: Any) -> Any:
    """Turn a value into what JSON has: a dataclass into its fields but None, and the entries of ``details``."""
    if is_dataclass(value):
        named = {one.name: getattr(value, one.name) for one in fields(value)}
        details = named.pop("details", {})
        return {name: to_record(part) for name, part in named.items() if part is not None} | to_record(details)
    if isinstance(value, Mapping):
        return {name: to_record(part) for name, part in value.items()}
    return [to_record(part) for part in value] if isinstance(value, (list, tuple)) else value


def from_record(kind: type[T], record: Mapping[str, Any]) -> T:
    """Turn what JSON has into a dataclass; entries that it has no field for go into its ``details``, if it has any."""
    hints = get_type_hints(kind)
    values = {name: _as_typed(hints[name], value) for name, value in record.items() if name in hints}
    if "details" in hints:
        values["details"] = {name: value for name, value in record.items() if name not in hints}
    return kind(**values)


def _as_typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _as_typed(kinds[0], value)
    if origin is tuple:
        return tuple(_as_typed(kinds[0], part) for part in value)
    if origin is Mapping:
        return {name: _as_typed(kinds[1], part) for name, part in value.items()}
    is_object = isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping)
    return from_record(hint, value) if is_object else value


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
    warnings: tuple[str, ...] = ()
    """what makes scores on it less than they seem, the most harmful first"""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """text_column, label_column, ... that were read; empty for rows in memory without any"""

    @classmethod
    def of(cls, data: Data, truncated: Mapping[str, float] | None = None) -> "DataSummary":
        counts = label_counts(data.train.targets, data.labels)
        columns = {} if data.columns is None else data.columns.as_settings()
        return cls(data.name, data.labels, data.fingerprints(), counts, truncated or {}, data.warnings, columns)

    @property
    def rows(self) -> dict[str, int]:
        return {split: counted["rows"] for split, counted in self.fingerprints.items()}


def label_counts(targets: np.ndarray, labels: Labels) -> dict[str, int]:
    """Count the rows of each label."""
    return dict(zip(labels.names, labels.count(targets).tolist(), strict=True))


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
    evidence: Evidence | None = None
    """for the fitted model, where variants are compared without target labels"""
    domains_differ: bool | None = None
    """whether the domains differed before adaptation, where variants are compared without target labels"""
    collapsed: tuple[Mapping[str, Any], ...] = ()
    """learning_rate and history of each attempt that was not kept, where nothing was learned and training restarted"""
    details: Mapping[str, Any] = field(default_factory=dict)
    """whatever else the fit recorded"""


@dataclass(frozen=True)
class Cost:
    """What a run took, and what its classifier takes."""

    train_seconds: float
    """with the features of an encoder that is frozen"""
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
    wall_seconds: float | None = None
    """of the call that finished it, from reading the data to the saved model; None where that was not measured"""


@dataclass(frozen=True)
class Baseline:
    """What a simple method scores, to compare a run with."""

    scores: Mapping[str, Any]
    """on test, as those of the run"""
    seconds: float
    """of its fit"""
    rows: int
    """that it learned from"""
    is_sample: bool
    """whether it learned from some of many rows, and was scored on some, to take no longer"""


@dataclass(frozen=True)
class Verdict(Gain):
    """Whether the source helped, and which of the two sides the run is."""

    validation: Mapping[str, float]
    """mean validation score by strategy"""
    fallback: bool
    """whether the side without the source was to be taken where it validates better"""
    taken: str
    """the strategy of the side that the run is"""


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
