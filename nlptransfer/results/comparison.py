"""The result of a comparison: its candidates, their differences, a recommendation, a curve. It knows no file names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nlptransfer.classifier import Classifier
from nlptransfer.errors import RunFolderError
from nlptransfer.results import records
from nlptransfer.results.candidates import CandidateResult, CurvePoint, PairDifference, RowsToReach
from nlptransfer.results.result import RunResult
from nlptransfer.results.summaries import DataSummary


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """A comparison, finished or on its way."""

    folder: Path
    data: DataSummary
    settings: Mapping[str, Any]
    """as asked for: what a repeated call is compared with"""
    metric: str
    """the score that candidates are compared by"""
    warnings: tuple[str, ...]
    """of the data"""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    """of Python and the packages that decide what comes out"""
    candidates: tuple[CandidateResult, ...]
    """in the order of cost"""
    finished: bool = False
    spent_seconds: float = 0.0
    """interrupted calls included"""
    pairs: tuple[PairDifference, ...] = ()
    """each candidate less each cheaper one"""
    recommended: str | None = None
    """the cheapest candidate that is not worse than the best by more than delta; None where none beats the majority"""
    best: str | None = None
    """the candidate with the best score on validation; None where none was finished"""
    recommendation: str | None = None
    """one sentence with the figures"""
    curve: tuple[CurvePoint, ...] = ()
    rows_to_reach: tuple[RowsToReach, ...] = ()
    made: Mapping[str, tuple[RunResult, ...]] = field(default_factory=dict, repr=False)
    """results of the runs of finished candidates, where they were just made"""

    @classmethod
    def load(cls, folder: str | Path) -> "ComparisonResult":
        """Read a finished comparison from its folder.

        Raises:
            RunFolderError: no finished comparison is there.
        """
        found = cls.load_any(folder) if records.is_comparison(Path(folder)) else None
        if found is None or not found.finished:
            raise RunFolderError(f"{folder}: expected the folder of a finished comparison")
        return found

    @classmethod
    def load_any(cls, folder: str | Path) -> "ComparisonResult":
        """Read a comparison from its folder, finished or not."""
        return cls(folder=Path(folder), **records.read_comparison(Path(folder)))

    def save(self) -> None:
        """Write all but the runs into the folder."""
        records.write_comparison(self)

    def candidate(self, name: str) -> CandidateResult:
        """Return the candidate of that name."""
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
            low, high = one.test.interval if one.test else (None, None)
            mean, spread = (one.test.mean, one.test.spread) if one.test else (None, None)
            rows.append({**row, "score": mean, "low": low, "high": high, "spread": spread, **(one.cost or {})})
        return rows

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of the recommended candidate, of its first seed.

        Raises:
            RunFolderError: the recommended candidate is a baseline, which has none, or there is none.
        """
        first = self.first_run(self.recommended) if self.recommended is not None else None
        if first is None or not first.has_model:
            raise RunFolderError(
                f"{self.folder}: expected a classifier of the recommended candidate, found none of {self.recommended}: "
                f"take that of another, in {records.CANDIDATES}/"
            )
        return first.classifier
