"""ComparisonRun: candidates tuned, timed, trained over seeds, left out where they do not fit; then what follows.

Every decision is saved at once, so that a comparison can be resumed. This file does not know what the files of a
comparison are.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.errors import NlpTransferError, TrainingError
from nlptransfer.evaluation import (
    ScoredCandidate,
    holm,
    paired,
    recommended,
    rows_to_reach,
    score_interval,
    wilson_interval,
)
from nlptransfer.experiments.baselines import Majority
from nlptransfer.experiments.candidates import Candidate, SharedSettings, labeled_rows, next_rate, without_test
from nlptransfer.experiments.environment import watched_memory
from nlptransfer.results import (
    CANDIDATES,
    CURVE,
    MODEL,
    PILOTS,
    TRIALS,
    CandidateResult,
    CandidateScore,
    ComparisonResult,
    CurvePoint,
    PairDifference,
    RowsToReach,
    RunResult,
    Trial,
    plain,
    remove,
)
from nlptransfer.routes import Route

log = logging.getLogger("nlptransfer")

SHOWN_SETTINGS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
"""Training settings of a candidate that trains by gradient steps, as its result has them."""
CHOSEN_SETTINGS = ("l2", "inverse_l2", "analyzer", "ngrams", "chosen")
"""What else a run can choose by itself."""
clock = time.monotonic


@dataclass(frozen=True)
class Budget:
    """The time that a comparison may take, in seconds, and what it has taken."""

    seconds: float
    """infinite without a limit"""
    spent_before: float
    """by calls that were interrupted"""
    started: float = field(default_factory=lambda: clock())

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self.spent_before + clock() - self.started

    @property
    def left(self) -> float:
        """Seconds from now; all processes ask together."""
        return float(distributed.from_main(self.seconds - self.spent))

    def shortage(self, needed: float) -> str | None:
        """Say what is left, where it is less than needed."""
        left = self.left
        return f"{max(0.0, left):.0f} s are left of the budget" if needed > left else None


class ComparisonRun:
    """Runs a comparison. Every decision is saved at once, so that it can be resumed.

    Args:
        result: nothing yet but what is asked for; or as far as it got.
        data: all rows, split.
        subsets: by their number fewer labeled rows of the same, with the same test.
        candidates: in the order of cost.
        shared: the settings in which they are run.
    """

    def __init__(
        self,
        result: ComparisonResult,
        data: Data,
        subsets: Mapping[int, Data],
        candidates: Sequence[Candidate],
        shared: SharedSettings,
    ) -> None:
        self.result, self.data, self.subsets, self.candidates, self.shared = result, data, subsets, candidates, shared
        self.seeds = tuple(shared.training.seed + number for number in range(result.settings["seeds"]))
        minutes = result.settings["max_minutes"]
        self.budget = Budget(float("inf") if minutes is None else 60 * minutes, result.spent_seconds)

    def run(self) -> ComparisonResult:
        """Run all candidates, then draw the conclusions."""
        self._save()
        for candidate in self.candidates:
            if self.result.candidate(candidate.name).status == "waiting":
                self._try_candidate(candidate)
        finished = [one for one in self.candidates if self.result.candidate(one.name).status == "finished"]
        known = {(point.candidate, point.size) for point in self.result.curve}
        for size, data in self.subsets.items():
            for candidate in finished:
                if (candidate.name, size) not in known:
                    self._save(curve=(*self.result.curve, self._point(candidate, size, data)))
        self._save(**distributed.from_main(self._conclusions() if distributed.is_main() else None), finished=True)
        return self.result

    def _save(self, **changes: Any) -> None:
        """Write down what is decided by now, and the time that it took."""
        self.result = replace(self.result, spent_seconds=round(self.budget.spent, 3), **changes)
        if distributed.is_main():
            self.result.save()
        distributed.barrier()

    def _note(self, name: str, **changes: Any) -> CandidateResult:
        """Write down what is decided of one candidate."""
        known = self.result.candidates
        self._save(candidates=tuple(replace(one, **changes) if one.name == name else one for one in known))
        return self.result.candidate(name)

    def _make(self, candidate: Candidate, data: Data, folder: Path, *rest: Any, **options: Any) -> RunResult:
        keep = self.shared.training.keep_checkpoints
        return self.shared.run(candidate, data, folder, *rest, **{"save_model": keep, **options})

    def _drop_model(self, run: RunResult) -> None:
        if distributed.is_main() and not self.shared.training.keep_checkpoints:
            run.drop_model()
        distributed.barrier()

    # One candidate

    def _try_candidate(self, candidate: Candidate) -> None:
        try:
            self._run_candidate(candidate)
        except Exception as error:
            expected = isinstance(error, NlpTransferError)
            reason = _reason(error)
            self._note(candidate.name, status="failed", reason=reason, test=None, cost=None)
            log.warning("%s failed, the others go on: %s", candidate.name, reason, exc_info=not expected)

    def _run_candidate(self, candidate: Candidate) -> None:
        name = candidate.name
        if reason := self._too_long(candidate):
            return self._skip(name, reason)
        if self.result.candidate(name).settings is None:
            self._note(name, settings=self._tuned(candidate))
        first = self._first_run(candidate)
        if reason := self._others_too_long(candidate):
            self._drop_model(first)
            return self._skip(name, reason)
        others = [self._seed_run(candidate, seed) for seed in self.seeds[1:]]
        runs = tuple(run.without_model() for run in (first, *others))
        known = self.result.candidate(name)
        costs = [run.cost.to_record() for run in runs]
        sizes = {one: costs[0][one] for one in ("trainable_parameters", "total_parameters", "size_mb")}
        # What is frozen is computed in one of the runs, and the others find it in the cache.
        seconds = max(cost["train_seconds"] for cost in costs)
        found = self._note(
            name,
            status="finished",
            seeds=self.seeds,
            runs=tuple(run.folder.relative_to(self.result.folder).as_posix() for run in runs),
            settings={**(known.settings or {}), **_resolved(candidate, first)},
            validation=float(np.mean([run.validation_score(self.result.metric) for run in runs])),
            test=_test_score(runs, self.result.metric),
            cost={"train_seconds": seconds, **sizes, **(known.cost or {})},
        )
        self.result = replace(self.result, made={**self.result.made, name: runs})
        log.info("%s: %s %.3f on test", name, self.result.metric, found.test.mean if found.test else float("nan"))

    def _seed_run(self, candidate: Candidate, seed: int, **options: Any) -> RunResult:
        folder = self.result.folder / CANDIDATES / f"{candidate.name}-{seed}"
        settings = self.result.candidate(candidate.name).settings or {}
        return self._make(candidate, self.data, folder, seed, settings, **options)

    def _first_run(self, candidate: Candidate) -> RunResult:
        """Make the first seed's run, and measure its time, its memory and its speed."""
        started = clock()
        with watched_memory() as memory:
            run = self._seed_run(candidate, self.seeds[0], save_model=True)
        if self.result.candidate(candidate.name).seconds_of_run is None:
            # It may have been found finished, in no time.
            seconds = max(clock() - started, run.cost.train_seconds)
            measured = None
            if distributed.is_main():
                speeds = candidate.speeds(run, self.data.test.texts)
                measured = round(seconds, 3), {"peak_memory_mb": round(memory[0], 1), **speeds}
            seconds_of_run, cost = distributed.from_main(measured)
            self._note(candidate.name, seconds_of_run=seconds_of_run, cost=cost)
        return run.without_model()

    def _too_long(self, candidate: Candidate) -> str | None:
        """Say why a candidate does not fit into the budget, by pilots on a few rows; once found to fit it stays so."""
        known, trials = self.result.candidate(candidate.name), self.result.settings["trials"]
        if candidate.is_baseline or self.budget.seconds == float("inf") or known.estimated_seconds is not None:
            return None
        if self.budget.left <= 0:
            return "no time is left of the budget"
        runs = len(self.seeds) + (trials if candidate.is_tuned and trials > 1 else 0)
        log.info("%s: its time is estimated by a pilot on a few rows", candidate.name)
        # What the first finds in no cache the second does, as the runs will: but it is needed only where it matters.
        for number in ("first", "second"):
            folder = self.result.folder / PILOTS / f"{candidate.name}-{number}"
            if distributed.is_main():
                # One that was found finished would tell nothing of the time it took.
                remove(folder)
            distributed.barrier()
            estimate = runs * self.shared.seconds_of_run(candidate, self.data, folder, clock)
            if distributed.is_main():
                remove(folder / MODEL)
            shortage = self.budget.shortage(estimate)
            if shortage is None:
                break
        self._note(candidate.name, estimated_seconds=round(estimate, 1))
        return shortage and f"{runs} runs would take about {estimate:.0f} s, and {shortage}"

    def _others_too_long(self, candidate: Candidate) -> str | None:
        """Say why the other seeds' runs do not fit into the budget, the first having taken longer than expected."""
        known = self.result.candidate(candidate.name)
        if candidate.is_baseline or known.others_fit or len(self.seeds) == 1:
            return None
        first = known.seconds_of_run or 0.0
        needed = (len(self.seeds) - 1) * first
        if shortage := self.budget.shortage(needed):
            return f"its first run took {first:.0f} s, the others would take {needed:.0f} s, and {shortage}"
        self._note(candidate.name, others_fit=True)
        return None

    def _skip(self, name: str, reason: str) -> None:
        self._note(name, status="skipped", reason=reason, cost=None)
        log.warning("%s left out: %s", name, reason)

    # Tuning

    def _tuned(self, candidate: Candidate) -> Mapping[str, Any]:
        """Choose the learning rate that is best on validation; set none where there is nothing to try."""
        count = self.result.settings["trials"]
        if not candidate.is_tuned or count == 1:
            return {}
        assert isinstance(candidate.method, Route)
        hidden, default = without_test(self.data), self.shared.learning_rate(candidate.method, self.data)
        for number in range(count):
            trials = self.result.candidate(candidate.name).trials
            if number == len(trials):
                past = [(one.settings["learning_rate"], one.validation) for one in trials]
                rate = distributed.from_main(next_rate(default, past, count))
                trials = self._note(candidate.name, trials=(*trials, Trial({"learning_rate": rate}))).trials
            if not trials[number].is_done:
                made = self._trial(candidate, number, trials[number], hidden)
                self._note(candidate.name, trials=(*trials[:number], made, *trials[number + 1 :]))
        trials = self.result.candidate(candidate.name).trials
        scores = {number: one.validation for number, one in enumerate(trials) if one.validation is not None}
        if not scores:
            raise TrainingError(f"{candidate.name}: expected a trial that works, found none: {trials[0].reason}")
        return trials[max(scores, key=lambda number: scores[number])].settings

    def _trial(self, candidate: Candidate, number: int, trial: Trial, data: Data) -> Trial:
        folder = self.result.folder / TRIALS / f"{candidate.name}-{number}"
        try:
            run = self._make(candidate, data, folder, self.seeds[0], trial.settings)
            return replace(trial, validation=run.validation_score(self.result.metric))
        except Exception as error:
            # A rate that is too high for one route must not end it.
            reason = _reason(error)
            log.warning("%s at %s: %s", candidate.name, dict(trial.settings), reason)
            return replace(trial, reason=reason)

    # What follows

    def _point(self, candidate: Candidate, size: int, data: Data) -> CurvePoint:
        """Score a candidate with fewer labeled rows, in the settings that it was found best in with all."""
        known, point = self.result.candidate(candidate.name), CurvePoint(candidate.name, size)
        # Fewer rows take no longer than all.
        needed = len(self.seeds) * (known.seconds_of_run or 0.0)
        shortage = self.budget.shortage(needed)
        if shortage and not candidate.is_baseline:
            return replace(point, reason=f"it could take {needed:.0f} s, and {shortage}")
        chosen = {"learning_rate": (known.settings or {})["learning_rate"]} if known.trials else {}
        folder = self.result.folder / CURVE / str(size)
        try:
            runs = [
                self._make(candidate, data, folder / f"{candidate.name}-{seed}", seed, chosen, rows=size)
                for seed in self.seeds
            ]
            test = _test_score(runs, self.result.metric)
        except Exception as error:
            return replace(point, reason=_reason(error))
        return replace(point, mean=test.mean, interval=test.interval)

    def _conclusions(self) -> dict[str, Any]:
        """Say what differs from what, what is recommended, and what rows would be worth."""
        result, targets, labels = self.result, self.data.test.targets, self.data.labels
        finished = [one for one in result.candidates if one.status == "finished"]
        scored = [
            ScoredCandidate(
                one.name, [run.predictions["test"].predicted for run in result.runs(one.name)], one.validation or 0.0
            )
            for one in finished
        ]
        pairs = _pairs(scored, self.data, result.metric)
        majority = next((one.name for one in scored if one.name == Majority.name), None)
        if len(scored) > (majority is not None):
            delta = result.settings["delta"]
            advice = recommended(targets, scored, labels, result.metric, majority=majority, delta=delta)
            log.info("%s", advice.reason)
            found = {"recommended": advice.candidate, "best": advice.best, "recommendation": advice.reason}
        else:
            found = {"recommendation": "no route was finished that could be recommended"}
        curve = _with_all_rows(result.curve, finished, labeled_rows(self.data)) if self.subsets else ()
        return {"pairs": pairs, "curve": curve, "rows_to_reach": _rows_to_reach(curve, finished), **found}


def _reason(error: Exception) -> str:
    """Describe a failure.

    Raises:
        Exception: of several processes the others may have gone on, and would wait for this one for ever.
    """
    if distributed.world_size() > 1:
        raise error
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _resolved(candidate: Candidate, run: RunResult) -> dict[str, Any]:
    """Return the settings that a run has resolved or chosen."""
    training, chosen = run.settings.get("training", {}), run.training.to_record()
    found = {name: training[name] for name in SHOWN_SETTINGS if candidate.is_tuned and name in training}
    return dict(plain(found | {name: chosen[name] for name in CHOSEN_SETTINGS if name in chosen}))


def _test_score(runs: Sequence[RunResult], metric: str) -> CandidateScore:
    """Average the score over seeds, with its interval; of accuracy also Wilson's, of the first seed's model alone."""
    rows = [run.predictions["test"] for run in runs]
    found = score_interval(rows[0].targets, [one.predicted for one in rows], rows[0].labels, metric)
    wilson = wilson_interval(int(rows[0].right.sum()), len(rows[0])) if metric == "accuracy" else None
    scores = tuple(float(run.scores["test"][metric]) for run in runs)
    return CandidateScore(found.mean, found.spread, found.interval, scores, wilson)


def _pairs(candidates: Sequence[ScoredCandidate], data: Data, metric: str) -> tuple[PairDifference, ...]:
    """Compare each candidate with each cheaper one. Holm's correction is for the number of pairs."""
    names = [(one.name, other.name) for other, one in combinations(candidates, 2)]
    found = [
        paired(data.test.targets, one.predictions, other.predictions, data.labels, metric)
        for other, one in combinations(candidates, 2)
    ]
    p, mcnemar_p = [one.p_value for one in found], [one.mcnemar_p_value for one in found]
    corrected = zip(names, found, holm(p), holm(mcnemar_p), strict=True)
    return tuple(
        PairDifference(*both, one.difference, one.interval, one.p_value, one.mcnemar_p_value, holm_p, mcnemar_holm_p)
        for both, one, holm_p, mcnemar_holm_p in corrected
    )


def _with_all_rows(
    curve: Sequence[CurvePoint], finished: Sequence[CandidateResult], rows: int
) -> tuple[CurvePoint, ...]:
    """End a curve with the scores on all labeled rows."""
    ends = [CurvePoint(one.name, rows, one.test.mean, one.test.interval) for one in finished if one.test is not None]
    return (*curve, *ends)


def _rows_to_reach(curve: Sequence[CurvePoint], finished: Sequence[CandidateResult]) -> tuple[RowsToReach, ...]:
    """Estimate for each pair the rows with which the better of the two reaches the other."""
    curves = {
        one.name: {point.size: point.mean for point in curve if point.candidate == one.name and point.mean is not None}
        for one in finished
    }
    found = []
    for pair in combinations(curves if curve else (), 2):
        one, other = sorted(pair, key=lambda name: -curves[name][max(curves[name])])
        found.append(RowsToReach(one, other, rows_to_reach(curves[one], curves[other])))
    return tuple(found)
