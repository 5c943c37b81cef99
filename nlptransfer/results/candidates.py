"""Say what a comparison found: of each candidate, of pairs of them, and with fewer rows.

These are plain values. They know neither the files that keep them nor how they come about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["waiting", "finished", "skipped", "failed"]


@dataclass(frozen=True)
class Trial:
    """A run without test rows, by which settings are chosen."""

    settings: Mapping[str, Any]
    validation: float | None = None
    reason: str | None = None
    """why it failed"""

    @property
    def is_done(self) -> bool:
        """Whether it was made, or has failed."""
        return self.validation is not None or self.reason is not None


@dataclass(frozen=True)
class CandidateScore:
    """A candidate's score on test."""

    mean: float
    """over seeds"""
    spread: float | None
    """sample standard deviation over seeds; None of one seed"""
    interval: tuple[float, float]
    """95%, over seeds and rows"""
    scores: tuple[float, ...]
    """of each seed"""
    wilson: tuple[float, float] | None = None
    """95%, of the first seed's model alone; None where the score is not the accuracy"""


@dataclass(frozen=True)
class CandidateResult:
    """A route from a base, or a baseline: how it was tuned and timed, and what it scores and costs."""

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
    """chosen on validation; None where that is still to be done"""
    trials: tuple[Trial, ...] = ()
    validation: float | None = None
    """mean over seeds"""
    test: CandidateScore | None = None
    cost: Mapping[str, float] | None = None
    """peak_memory_mb, texts_per_second_1 and _64 of the first run; train_seconds of the slowest; sizes"""
    estimated_seconds: float | None = None
    """of all runs, by a pilot on a few rows"""
    seconds_of_run: float | None = None
    """of the first run"""
    others_fit: bool = False
    """whether the runs of the other seeds were found to fit into the budget"""


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
    """labeled rows"""
    mean: float | None = None
    """over seeds; None where it was left out"""
    interval: tuple[float, float] | None = None
    reason: str | None = None
    """why it was left out"""


@dataclass(frozen=True)
class RowsToReach:
    """The labeled rows with which one candidate scores as another does with all."""

    one: str
    other: str
    rows: float | None
    """None where no size reaches it"""
