"""ComparisonRun: candidates are tuned, timed, trained over seeds, or left out; then conclusions are drawn."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, cast

import numpy as np

from nlptransfer import distributed
from nlptransfer.data import Data, folds_of
from nlptransfer.errors import NlpTransferError, TrainingError
from nlptransfer.evaluation import (
    LEAST_SEEDS,
    ScoredCandidate,
    averages,
    higher_is_better,
    holm,
    metric_name,
    paired,
    recommended,
    rows_to_reach,
    score_interval,
    tally,
    wilson_interval,
)
from nlptransfer.experiments.baselines import MAJORITY
from nlptransfer.experiments.candidates import Candidate, SharedSettings, labeled_rows, without_test
from nlptransfer.experiments.environment import watched_memory
from nlptransfer.experiments.tuning import Space
from nlptransfer.progress import progress_bar
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
    to_record,
)
from nlptransfer.routes import Route

log = logging.getLogger("nlptransfer")

TRAINING_SETTINGS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
"""Shown of a candidate that trains by gradient steps."""
CHOSEN_SETTINGS = ("l2", "inverse_l2", "analyzer", "ngrams", "chosen")
"""What a run can choose by itself."""
FEW_ROWS = 100
"""With fewer rows in all candidates are cross-validated, as their validation rows would be next to none."""
FOLDS = 5
clock = time.monotonic


@dataclass(frozen=True)
class Budget:
    """The time that a comparison may take, in seconds."""

    limit: float
    """infinite without one"""
    started: float
    """time of the clock; later by what interrupted calls have spent"""

    @property
    def spent(self) -> float:
        return clock() - self.started

    @property
    def left(self) -> float:
        """Seconds from now; all processes ask together."""
        return float(distributed.from_main(self.limit - self.spent))

    def shortage(self, needed: float) -> str | None:
        """Say what is left, where it is less than needed."""
        left = self.left
        return f"{max(0.0, left):.0f} s are left of the budget" if needed > left else None


@dataclass
class ComparisonRun:
    """Runs a comparison. Every decision is saved at once, so that it can be resumed."""

    result: ComparisonResult
    data: Data
    subsets: Mapping[int, Data]
    """by their number, fewer labeled rows with the same test"""
    candidates: Sequence[Candidate]
    shared: SharedSettings

    def __post_init__(self) -> None:
        settings = self.result.settings
        self.seeds = tuple(self.shared.training.seed + number for number in range(settings["seeds"]))
        limit = float("inf") if settings["max_minutes"] is None else 60 * settings["max_minutes"]
        self.budget = Budget(limit, clock() - self.result.spent_seconds)
        hidden, few = without_test(self.data), sum(map(len, self.data.splits.values())) < FEW_ROWS
        # By validation rows, or by each of the folds in turn.
        self.chosen_on = folds_of(hidden, FOLDS, self.shared.data.split_seed) if few else [hidden]

    @property
    def crossed(self) -> bool:
        return len(self.chosen_on) > 1

    def run(self) -> ComparisonResult:
        self._save()
        with progress_bar("comparing", len(self.candidates), "candidates") as bar:
            for candidate in self.candidates:
                bar.say(f"comparing: {candidate.name}")
                if self.result.candidate(candidate.name).status == "waiting":
                    self._try_candidate(candidate)
                bar.advance()
        finished = [one for one in self.candidates if self.result.candidate(one.name).status == "finished"]
        known = {(point.candidate, point.size) for point in self.result.curve}
        for size, data in self.subsets.items():
            for candidate in finished:
                if (candidate.name, size) not in known:
                    self._save(curve=(*self.result.curve, self._point(candidate, size, data)))
        self._save(**distributed.from_main(self._conclusions() if distributed.is_main() else None), finished=True)
        return self.result

    def _save(self, **changes: Any) -> None:
        self.result = replace(self.result, spent_seconds=round(self.budget.spent, 3), **changes)
        distributed.on_main(self.result.save)

    def _note(self, name: str, **changes: Any) -> CandidateResult:
        known = self.result.candidates
        self._save(candidates=tuple(replace(one, **changes) if one.name == name else one for one in known))
        return self.result.candidate(name)

    def _try_candidate(self, candidate: Candidate) -> None:
        try:
            reason = self._run_candidate(candidate)
        except Exception as error:
            reason = _reason(error)
            self._note(candidate.name, status="failed", reason=reason, test=None, cost=None)
            unexpected = not isinstance(error, NlpTransferError)
            log.warning("%s has failed, and the others go on: %s", candidate.name, reason, exc_info=unexpected)
        else:
            if reason is not None:
                self._note(candidate.name, status="skipped", reason=reason, cost=None)
                log.warning("%s is left out: %s", candidate.name, reason)

    def _run_candidate(self, candidate: Candidate) -> str | None:
        """Tune and run a candidate; return why it is left out, where it is."""
        name, metric = candidate.name, self.result.metric
        if reason := self._too_long(candidate):
            return reason
        if self.result.candidate(name).settings is None:
            self._note(name, settings=self._tuned(candidate))
        first = self._first_run(candidate)
        if reason := self._others_too_long(candidate):
            if not self.shared.training.keep_checkpoints:
                distributed.on_main(first.drop_model)
            return reason
        runs = (first, *(self._seed_run(candidate, seed).without_model() for seed in self.seeds[1:]))
        known, cost = self.result.candidate(name), to_record(first.cost)
        sizes = {one: cost[one] for one in ("trainable_parameters", "total_parameters", "size_mb")}
        # What is frozen is computed in one of the runs, and the others find it in the cache.
        seconds = max(run.cost.train_seconds for run in runs)
        test = _test_score(runs, metric)
        self._note(
            name,
            status="finished",
            seeds=self.seeds,
            runs=tuple(run.folder.relative_to(self.result.folder).as_posix() for run in runs),
            settings={**(known.settings or {}), **_resolved(candidate, first)},
            validation=self._validation(candidate, runs),
            test=test,
            cost={"train_seconds": seconds, **sizes, **(known.cost or {})},
        )
        self.result = replace(self.result, made={**self.result.made, name: runs})
        log.info("%s: %s %.3f on the test rows", name, metric_name(metric), test.mean)
        return None

    def _seed_run(self, candidate: Candidate, seed: int, *, save_model: bool = False) -> RunResult:
        folder = self.result.folder / CANDIDATES / f"{candidate.name}-{seed}"
        settings = self.result.candidate(candidate.name).settings or {}
        return self.shared.run(candidate, self.data, folder, seed, settings, save_model=save_model)

    def _validation(self, candidate: Candidate, runs: Sequence[RunResult]) -> float:
        """Return the score on validation rows, mean over seeds; of few rows that of cross-validation by one seed."""
        if not self.crossed:
            return float(np.mean([run.validation_score(self.result.metric) for run in runs]))
        known = self.result.candidate(candidate.name)
        by_trial = [one.validation for one in known.trials if one.settings == known.settings]
        return by_trial[0] if by_trial and by_trial[0] is not None else self._chosen_by(candidate, "", known.settings)

    def _chosen_by(self, candidate: Candidate, name: str, settings: Mapping[str, Any] | None) -> float:
        """Score a candidate by runs without test, on all rows that they hold out."""
        metric, runs = self.result.metric, []
        for number, data in enumerate(self.chosen_on):
            parts = [candidate.name, name, f"fold-{number}" if self.crossed else ""]
            folder = self.result.folder / TRIALS / "-".join(filter(None, parts))
            runs.append(self.shared.run(candidate, data, folder, self.seeds[0], settings or {}))
        if not self.crossed:
            return runs[0].validation_score(metric)
        held_out = [run.predictions["validation"] for run in runs]
        rows, labels = sum(map(len, held_out)), self.data.labels
        tables = [tally(np.asarray(one.targets, int), np.asarray(one.predicted, int), labels) for one in held_out]
        return float(averages(np.sum([table.sum(axis=0) for table in tables], axis=0), rows, labels)[metric])

    def _first_run(self, candidate: Candidate) -> RunResult:
        started = clock()
        with watched_memory() as memory:
            run = self._seed_run(candidate, self.seeds[0], save_model=True)
        if self.result.candidate(candidate.name).seconds_of_run is None:
            # It may have been found finished, in no time.
            seconds = round(max(clock() - started, run.cost.train_seconds), 3)
            speeds = candidate.speeds(run, self.data.test.texts) if distributed.is_main() else {}
            measured = {"seconds_of_run": seconds, "cost": {"peak_memory_mb": round(memory[0], 1), **speeds}}
            self._note(candidate.name, **distributed.from_main(measured))
        return run.without_model()

    def _too_long(self, candidate: Candidate) -> str | None:
        """Say why a candidate does not fit into the budget, by pilots on a few rows; this is decided once."""
        known, trials = self.result.candidate(candidate.name), self.result.settings["trials"]
        if candidate.is_baseline or self.budget.limit == float("inf") or known.estimated_seconds is not None:
            return None
        if self.budget.left <= 0:
            return "no time is left of the budget"
        tried = trials if candidate.is_tuned and trials > 1 else int(self.crossed)
        runs = len(self.seeds) + tried * len(self.chosen_on)
        log.info("%s: a short run on a few rows tells how long it will take", candidate.name)
        # What the first finds in no cache the second does, as the runs will: but it is needed only where it matters.
        for number in ("first", "second"):
            folder = self.result.folder / PILOTS / f"{candidate.name}-{number}"
            # One that was found finished would tell nothing of the time it took.
            distributed.on_main(partial(remove, folder))
            estimate = runs * self.shared.seconds_of_run(candidate, self.data, folder, clock)
            distributed.on_main(partial(remove, folder / MODEL))
            shortage = self.budget.shortage(estimate)
            if shortage is None:
                break
        self._note(candidate.name, estimated_seconds=round(estimate, 1))
        return shortage and f"{runs} runs would take about {estimate:.0f} s, and {shortage}"

    def _others_too_long(self, candidate: Candidate) -> str | None:
        known = self.result.candidate(candidate.name)
        others = len(self.seeds) - 1 + (len(self.chosen_on) if self.crossed and not known.trials else 0)
        if candidate.is_baseline or known.others_fit or not others:
            return None
        first = known.seconds_of_run or 0.0
        needed = others * first
        if shortage := self.budget.shortage(needed):
            return f"its first run took {first:.0f} s, the others would take {needed:.0f} s, and {shortage}"
        self._note(candidate.name, others_fit=True)
        return None

    def _tuned(self, candidate: Candidate) -> Mapping[str, Any]:
        """Choose the settings that are best on validation; none where there is nothing to try."""
        count = self.result.settings["trials"]
        if not candidate.is_tuned or count == 1:
            return {}
        route = cast(Route, candidate.route)
        sign = 1 if higher_is_better(self.result.metric) else -1
        space = Space.of(route, self.shared.training, self.data)
        trials = self.result.candidate(candidate.name).trials
        for number in range(count):
            if number == len(trials):
                past = [(one.settings, None if one.validation is None else sign * one.validation) for one in trials]
                settings = distributed.from_main(space.next(past, count))
                if trials and (shortage := self._shortage(candidate, space.length(settings))):
                    log.info("%s: only %d settings are tried, as %s", candidate.name, number, shortage)
                    break
                trials = self._note(candidate.name, trials=(*trials, Trial(settings))).trials
            if not trials[number].is_done:
                made = self._trial(candidate, number, trials[number])
                trials = self._note(candidate.name, trials=(*trials[:number], made)).trials
        scored = [(sign * one.validation, one.settings) for one in trials if one.validation is not None]
        if not scored:
            raise TrainingError(f"{candidate.name}: expected a trial that works, found none: {trials[0].reason}")
        return max(scored, key=lambda one: one[0])[1]

    def _shortage(self, candidate: Candidate, length: float) -> str | None:
        """Say what is left of the budget, where a trial of so many times the default length, and the runs by it, may
        not fit."""
        estimate = self.result.candidate(candidate.name).estimated_seconds
        if estimate is None:
            return None
        a_run = estimate / (len(self.seeds) + self.result.settings["trials"] * len(self.chosen_on))
        return self.budget.shortage(length * a_run * (len(self.chosen_on) + len(self.seeds)))

    def _trial(self, candidate: Candidate, number: int, trial: Trial) -> Trial:
        try:
            return replace(trial, validation=self._chosen_by(candidate, str(number), trial.settings))
        except Exception as error:
            # A rate that is too high for one route must not end it.
            reason = _reason(error)
            named = ", ".join(f"{setting}={value}" for setting, value in trial.settings.items())
            log.warning("%s does not work with %s: %s", candidate.name, named, reason)
            return replace(trial, reason=reason)

    def _point(self, candidate: Candidate, size: int, data: Data) -> CurvePoint:
        """Score a candidate with fewer labeled rows, in the settings that were best with all."""
        known, point = self.result.candidate(candidate.name), CurvePoint(candidate.name, size)
        # Fewer rows take no longer than all.
        needed = len(self.seeds) * (known.seconds_of_run or 0.0)
        shortage = self.budget.shortage(needed)
        if shortage and not candidate.is_baseline:
            return replace(point, reason=f"it could take {needed:.0f} s, and {shortage}")
        tried = {name for trial in known.trials for name in trial.settings}
        chosen = {name: value for name, value in (known.settings or {}).items() if name in tried}
        folder = self.result.folder / CURVE / str(size)
        try:
            runs = [
                self.shared.run(candidate, data, folder / f"{candidate.name}-{seed}", seed, chosen, rows=size)
                for seed in self.seeds
            ]
            test = _test_score(runs, self.result.metric)
        except Exception as error:
            return replace(point, reason=_reason(error))
        return replace(point, mean=test.mean, interval=test.interval)

    def _conclusions(self) -> dict[str, Any]:
        result, data = self.result, self.data
        finished = [one for one in result.candidates if one.status == "finished"]
        scored = []
        for one in finished:
            predictions = [run.predictions["test"].predicted for run in result.runs(one.name)]
            has_interval = one.test is not None and one.test.interval is not None
            scored.append(ScoredCandidate(one.name, predictions, one.validation or 0.0, has_interval))
        majority = next((one.name for one in scored if one.name == MAJORITY), None)
        advised: dict[str, Any] = {"recommendation": "no route was finished that could be recommended"}
        if len(scored) > (majority is not None):
            options = {"majority": majority, "delta": result.settings["delta"]}
            advice = recommended(data.test.targets, scored, data.labels, result.metric, **options)
            rows = sum(len(one.validation) for one in self.chosen_on)
            by = f"cross-validation of {rows:,}" if self.crossed else f"{rows:,} validation"
            sentence = f"{advice.reason} (decided by {by} and {len(data.test):,} test rows)"
            advised = {"recommended": advice.candidate, "best": advice.best, "recommendation": sentence}
        curve = result.curve
        if self.subsets:
            # It ends with the scores on all labeled rows.
            rows, tests = labeled_rows(data), [(one.name, one.test) for one in finished if one.test is not None]
            curve += tuple(CurvePoint(name, rows, test.mean, test.interval) for name, test in tests)
        return {
            "pairs": _pairs([one for one in scored if one.has_interval], data, result.metric),
            "curve": curve,
            "rows_to_reach": _rows_to_reach(curve, finished, result.metric),
            **advised,
        }


def _reason(error: Exception) -> str:
    """Describe a failure; raise it in one of several processes, as the others might wait for this one for ever."""
    if distributed.world_size() > 1:
        raise error
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _resolved(candidate: Candidate, run: RunResult) -> dict[str, Any]:
    training, chosen = run.settings.get("training", {}), to_record(run.training)
    resolved = {name: training[name] for name in TRAINING_SETTINGS if candidate.is_tuned and name in training}
    return dict(plain(resolved | {name: chosen[name] for name in CHOSEN_SETTINGS if name in chosen}))


def _test_score(runs: Sequence[RunResult], metric: str) -> CandidateScore:
    """Average the score over seeds, with its interval where they are enough; of accuracy also that of one model.

    That is Wilson's, of the first seed's. A seed moves what was trained, and not what was fitted.
    """
    rows = [run.predictions["test"] for run in runs]
    score = score_interval(rows[0].targets, [one.predicted for one in rows], rows[0].labels, metric)
    wilson = wilson_interval(int(rows[0].right.sum()), len(rows[0])) if metric == "accuracy" else None
    scores = tuple(float(run.scores["test"][metric]) for run in runs)
    is_sure = len(runs) >= LEAST_SEEDS or all(run.training.history is None for run in runs)
    return CandidateScore(score.mean, score.spread, score.interval if is_sure else None, scores, wilson)


def _pairs(candidates: Sequence[ScoredCandidate], data: Data, metric: str) -> tuple[PairDifference, ...]:
    """Compare each candidate with each cheaper one. Holm's correction is for the number of pairs."""
    both = [(one, other) for other, one in combinations(candidates, 2)]
    differences = [
        paired(data.test.targets, one.predictions, other.predictions, data.labels, metric) for one, other in both
    ]
    corrected = holm([one.p_value for one in differences]), holm([one.mcnemar_p_value for one in differences])
    return tuple(
        PairDifference(one.name, other.name, each.difference, each.interval, each.p_value, each.mcnemar_p_value, *p)
        for (one, other), each, *p in zip(both, differences, *corrected, strict=True)
    )


def _rows_to_reach(
    curve: Sequence[CurvePoint], finished: Sequence[CandidateResult], metric: str
) -> tuple[RowsToReach, ...]:
    sign = 1 if higher_is_better(metric) else -1
    curves: dict[str, dict[int, float]] = {one.name: {} for one in finished}
    for point in curve:
        if point.candidate in curves and point.mean is not None:
            curves[point.candidate][point.size] = sign * point.mean
    pairs = [
        sorted(pair, key=lambda name: -curves[name][max(curves[name])])
        for pair in combinations(curves if curve else (), 2)
    ]
    return tuple(RowsToReach(one, other, rows_to_reach(curves[one], curves[other])) for one, other in pairs)
