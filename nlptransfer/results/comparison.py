"""What a comparison found: candidates, pairs of them, learning curves, and a recommendation. It knows no file names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nlptransfer.classifier import Classifier
from nlptransfer.errors import RunFolderError
from nlptransfer.evaluation import metric_name
from nlptransfer.files import named_path
from nlptransfer.hub import BASELINES
from nlptransfer.results import records
from nlptransfer.results.figures import Point, learning_curve, score_against_cost
from nlptransfer.results.result import RunResult
from nlptransfer.results.summaries import DataSummary
from nlptransfer.results.tables import INTERVAL, OF_CHANGE, Table, Tables, flat

Status = Literal["waiting", "finished", "skipped", "failed"]


_CANDIDATES = {
    "candidate": ["{name}"],
    ">validation": ["{validation:.3f}"],
    ">test {metric} (95%)": ["{score:.3f}", INTERVAL],
    ">spread over seeds": ["{spread:.3f}"],
    ">training (s)": ["{train_seconds:,.1f}"],
    ">size (MB)": ["{size_mb:,.1f}"],
    ">texts/s": ["{texts_per_second_64:,.0f}"],
    "no score because": ["{reason}"],
}
_PAIRS = {
    "candidate": ["{one}"],
    "compared with": ["{other}"],
    ">difference in {metric} (95%)": ["{difference:+.3f}", OF_CHANGE],
    ">p": ["{p:.2g}"],
    ">p (Holm)": ["{holm_p:.2g}"],
    ">McNemar's p": ["{mcnemar_p:.2g}"],
    ">McNemar's p (Holm)": ["{mcnemar_holm_p:.2g}"],
}
_CURVE = {
    "candidate": ["{candidate}"],
    ">labeled rows": ["{size:,}"],
    ">test {metric} (95%)": ["{mean:.3f}", INTERVAL],
    "no score because": ["{reason}"],
}
_ROWS_TO_REACH = {
    "candidate": ["{one}"],
    "is as good as, with all rows": ["{other}"],
    ">with labeled rows": ["{rows:,.0f}"],
}


@dataclass(frozen=True)
class Trial:
    """A run without test rows, by which settings are chosen."""

    settings: Mapping[str, Any]
    validation: float | None = None
    reason: str | None = None

    @property
    def is_done(self) -> bool:
        return self.validation is not None or self.reason is not None


@dataclass(frozen=True)
class CandidateScore:
    """A candidate's score on test."""

    mean: float
    """over seeds"""
    spread: float | None
    """sample standard deviation over seeds; None for one seed"""
    interval: tuple[float, float] | None
    """95%, of the expected score over rows and seeds; None where a seed moves it and there are fewer than three"""
    scores: tuple[float, ...]
    """of each seed"""
    wilson: tuple[float, float] | None = None
    """95%, of the first seed's model alone; None where the score is not the accuracy"""


@dataclass(frozen=True)
class CandidateResult:
    """A route from a base, or a baseline: its settings, scores and costs."""

    name: str
    route: str
    """or baseline"""
    base: str | None = None
    status: Status = "waiting"
    reason: str | None = None
    """why it was skipped or has failed"""
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    """folder of each seed's run, within that of the comparison"""
    settings: Mapping[str, Any] | None = None
    """chosen on validation; None before that"""
    trials: tuple[Trial, ...] = ()
    validation: float | None = None
    """mean over seeds; of few rows that of cross-validation"""
    test: CandidateScore | None = None
    cost: Mapping[str, float] | None = None
    """peak_memory_mb, texts_per_second_1 and _64 of the first run; train_seconds of the slowest; sizes"""
    estimated_seconds: float | None = None
    """of all runs, by a pilot on a few rows"""
    seconds_of_run: float | None = None
    """of the first run"""
    others_fit: bool = False
    """whether the other seeds' runs fit into the budget"""


@dataclass(frozen=True)
class PairDifference:
    """How much one candidate is ahead of another on the same test rows."""

    one: str
    other: str
    difference: float
    interval: tuple[float, float]
    """95%, paired"""
    p: float
    """of no difference, over seeds and rows"""
    mcnemar_p: float
    """exact, of the first seed's models"""
    holm_p: float
    """p corrected for the number of pairs"""
    mcnemar_holm_p: float


@dataclass(frozen=True)
class CurvePoint:
    """A candidate's score on test with fewer labeled rows."""

    candidate: str
    size: int
    mean: float | None = None
    """over seeds; None where it was left out"""
    interval: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class RowsToReach:
    """The labeled rows with which one candidate scores as another does with all."""

    one: str
    other: str
    rows: float | None
    """None where no size reaches it"""


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult(Tables):
    """A comparison, finished or on its way, with the tables candidates, pairs, curve and rows_to_reach."""

    folder: Path
    data: DataSummary
    settings: Mapping[str, Any]
    """as asked for: what a repeated call is compared with"""
    metric: str
    """the score that candidates are compared by"""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    """of Python and the packages that decide what comes out"""
    candidates: tuple[CandidateResult, ...]
    """in the order of cost"""
    finished: bool = False
    repeat: str = ""
    """the command that asks for it; empty where data were passed that are no file"""
    spent_seconds: float = 0.0
    """interrupted calls included"""
    pairs: tuple[PairDifference, ...] = ()
    """each candidate less each cheaper one, of those that have an interval"""
    recommended: str | None = None
    """the cheapest candidate that is not worse than the best by more than delta; None where none beats the majority"""
    best: str | None = None
    """the candidate with the best score on validation; None where none was finished"""
    recommendation: str | None = None
    """one sentence with the figures"""
    curve: tuple[CurvePoint, ...] = ()
    rows_to_reach: tuple[RowsToReach, ...] = ()
    made: Mapping[str, tuple[RunResult, ...]] = field(default_factory=dict)
    """results of the runs of finished candidates, where they were just made"""

    @classmethod
    def load(cls, folder: str | Path) -> "ComparisonResult":
        """Read a finished comparison from its folder; a RunFolderError where there is none."""
        if records.is_comparison(named_path(folder)) and (comparison := cls.load_any(folder)).finished:
            return comparison
        raise RunFolderError(f"{folder}: expected the folder of a finished comparison")

    @classmethod
    def load_any(cls, folder: str | Path) -> "ComparisonResult":
        """Read a comparison, finished or not."""
        return records.read_comparison(cls, named_path(folder))

    def save(self) -> None:
        """Write all but the runs into the folder."""
        records.write_comparison(self)

    @property
    def advice(self) -> str | None:
        """What to do where no trained route is recommended; None where one is, or the comparison has not finished."""
        is_trained = self.recommended is not None and self.candidate(self.recommended).route not in BASELINES
        if is_trained or self.best is None or not self.finished:
            return None
        return (
            "No trained route is shown to be better than a baseline, of which no classifier is saved: label more rows, "
            "or compare other routes and bases (--routes, --bases)."
        )

    def candidate(self, name: str) -> CandidateResult:
        return next(one for one in self.candidates if one.name == name)

    def runs(self, name: str) -> tuple[RunResult, ...]:
        """Return the result of each seed's run of a finished candidate."""
        if name in self.made:
            return self.made[name]
        return tuple(RunResult.load(self.folder / run) for run in self.candidate(name).runs)

    def first_run(self, name: str) -> RunResult:
        """Return the result of the first seed's run of a finished candidate."""
        return self.made[name][0] if name in self.made else RunResult.load(self.folder / self.candidate(name).runs[0])

    @property
    def table(self) -> list[dict[str, Any]]:
        """A flat row per candidate: name, route, base, status, reason, validation, score, low, high, spread, costs."""
        rows = []
        for one in self.candidates:
            row = {name: getattr(one, name) for name in ("name", "route", "base", "status", "reason", "validation")}
            ends = (None, None) if one.test is None or one.test.interval is None else one.test.interval
            test = (None, *ends, None) if one.test is None else (one.test.mean, *ends, one.test.spread)
            rows.append({**row, **dict(zip(("score", "low", "high", "spread"), test, strict=True)), **(one.cost or {})})
        return rows

    @property
    def tables(self) -> dict[str, Table]:
        metric = metric_name(self.metric)
        names = [one.name for one in self.candidates]
        points = {
            one.name: Point(one.cost["train_seconds"], one.test.mean, one.test.interval)
            for one in self.candidates
            if one.cost is not None and one.test is not None
        }
        curves: dict[str, list[Point]] = {}
        for point in sorted(self.curve, key=lambda point: point.size):
            if point.mean is not None:
                curves.setdefault(point.candidate, []).append(Point(point.size, point.mean, point.interval))
        cost = score_against_cost(points, self.recommended, metric, "training seconds") if points else None
        chosen = names.index(self.recommended) if self.recommended is not None else None
        return {
            "candidates": Table(self.table, _CANDIDATES, metric, chosen, cost),
            "pairs": Table([*map(flat, self.pairs)], _PAIRS, metric),
            "curve": Table(
                [*map(flat, self.curve)], _CURVE, metric, plot=learning_curve(curves, metric) if curves else None
            ),
            "rows_to_reach": Table([*map(flat, self.rows_to_reach)], _ROWS_TO_REACH, metric),
        }

    @cached_property
    def classifier(self) -> Classifier:
        """The recommended candidate's classifier, of the first seed; a RunFolderError where none has been saved."""
        if self.recommended is not None and (first := self.first_run(self.recommended)).has_model:
            return first.classifier
        raise RunFolderError(
            f"{self.folder}: expected a classifier of the recommended candidate, found none of {self.recommended}: "
            f"take that of another, in {records.CANDIDATES}/"
        )
