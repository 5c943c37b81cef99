"""A comparison on its way: rungs tuned, timed, trained over seeds, left out where they do not fit; what follows."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import distributed
from nlptransfer.data import Data, data_warnings
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
from nlptransfer.experiments.candidates import Rung, Workshop, costs, labeled_rows, next_rate, without_test
from nlptransfer.experiments.environment import machine, versions, watched_memory
from nlptransfer.files import read_json, write_json
from nlptransfer.results import RunResult

log = logging.getLogger("nlptransfer")

RECORD = "comparison.json"
DECIDED = ("finished", "skipped", "failed")
TOLD = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
"""Training settings of a rung that steps, as the record has them."""
CHOSEN = ("l2_strength", "strength", "analyzer", "ngrams", "chosen")
"""What else a run can choose by itself."""
clock = time.monotonic


class Climb:
    """A comparison on its way. All that is decided is in the record, which is written whenever something is.

    Args:
        folder: claimed for it.
        data: all rows, split.
        subsets: fewer labeled rows of the same, with the same test, by their number.
        rungs: in the order of cost.
        workshop: makes their runs.
        metric: the score that all is judged by, more being better.
        question: what was asked for, as it is recorded.
    """

    def __init__(
        self,
        folder: Path,
        data: Data,
        subsets: Mapping[int, Data],
        rungs: Sequence[Rung],
        workshop: Workshop,
        metric: str,
        question: Mapping[str, Any],
    ) -> None:
        self.folder, self.data, self.subsets = folder, data, subsets
        self.rungs, self.workshop, self.metric, self.asked = rungs, workshop, metric, question
        first = workshop.training.seed
        self.seeds = list(range(first, first + question["seeds"]))
        found = read_json(folder / RECORD) if distributed.is_main() and (folder / RECORD).exists() else None
        self.record: dict[str, Any] = distributed.from_main(found) or self._new_record()
        self.spent_before, self.started = self.record["spent_seconds"], clock()

    def go(self) -> None:
        """Climb all rungs, then say what follows."""
        self._note()
        for rung, told in zip(self.rungs, self.record["rungs"], strict=True):
            if told["status"] not in DECIDED:
                self._guarded(rung, told)
                self._note()
        for size, data in self.subsets.items():
            for rung, told in self._finished():
                self._point(rung, told, size, data)
        self._conclude()
        self.record["status"] = "finished"
        self._note()

    def _new_record(self) -> dict[str, Any]:
        return {
            "status": "running",
            "asked": dict(self.asked),
            "data": {
                "name": self.data.name,
                "labels": list(self.data.labels.names),
                "multi_label": self.data.labels.multi_label,
                "fingerprints": self.data.fingerprints(),
                "rows": {name: len(split) for name, split in self.data.splits.items()},
                "warnings": data_warnings(self.data),
            },
            "metric": self.metric,
            "delta": self.asked["delta"],
            "machine": machine(),
            "versions": versions(),
            "spent_seconds": 0.0,
            "rungs": [
                {"name": rung.name, "route": rung.way.name, "base": rung.described()["base"], **_new_rung()}
                for rung in self.rungs
            ],
            "pairs": [],
            "recommendation": None,
            "curve": [],
            "curve_left_out": [],
            "rows_to_reach": [],
        }

    def _note(self) -> None:
        """Write down what is decided by now, and the time that it took."""
        self.record["spent_seconds"] = round(self.spent_before + clock() - self.started, 3)
        if distributed.is_main():
            write_json(self.folder / RECORD, self.record)
        distributed.barrier()

    def _seconds_left(self) -> float:
        if self.asked["max_minutes"] is None:
            return float("inf")
        left = 60 * self.asked["max_minutes"] - (self.spent_before + clock() - self.started)
        return float(distributed.from_main(left))

    # One rung

    def _guarded(self, rung: Rung, told: dict[str, Any]) -> None:
        try:
            self._climb(rung, told)
        except Exception as error:
            # Of several processes the others may have gone on, and would wait for this one for ever.
            if distributed.world_size() > 1:
                raise
            reason = " ".join(str(error).split()) or "no message"
            told |= {"status": "failed", "reason": f"{type(error).__name__}: {reason}", "test": None, "cost": None}
            meant = isinstance(error, NlpTransferError)
            log.warning("%s failed, the others go on: %s", rung.name, told["reason"], exc_info=not meant)

    def _climb(self, rung: Rung, told: dict[str, Any]) -> None:
        if self._would_not_fit(rung, told):
            return
        if told["settings"] is None:
            told["settings"] = self._tuned(rung, told)
            self._note()
        folders = [self.folder / "rungs" / f"{rung.name}-{seed}" for seed in self.seeds]
        for number, (seed, folder) in enumerate(zip(self.seeds, folders, strict=True)):
            if number == 1 and self._others_would_not_fit(rung, told):
                return self._drop_models(folders[:1])
            started = clock()
            with watched_memory() as memory:
                self.workshop.make(rung, self.data, folder, seed, told["settings"])
            if told["seconds_of_run"] is None:
                told["seconds_of_run"] = round(distributed.from_main(self._seconds(folder, clock() - started)), 3)
                told["peak_memory_mb"] = round(memory[0], 1)
                self._note()
        told |= distributed.from_main(self._results(rung, told, folders) if distributed.is_main() else None)
        log.info("%s: %s %.3f on test", rung.name, self.metric, told["test"]["mean"])
        self._note()
        self._drop_models(folders[1:])

    def _seconds(self, folder: Path, spent: float) -> float:
        """Of a run, which may have been found finished in no time."""
        return max(spent, RunResult.load(folder).cost.train_seconds) if distributed.is_main() else 0.0

    def _would_not_fit(self, rung: Rung, told: dict[str, Any]) -> bool:
        """Whether the rung is left out, by what a few rows take; once decided it stays so."""
        if rung.is_baseline or self.asked["max_minutes"] is None or told["estimated_seconds"] is not None:
            return False
        runs = len(self.seeds) + (self.asked["trials"] if rung.is_tuned and self.asked["trials"] > 1 else 0)
        left = self._seconds_left()
        if left <= 0:
            return self._skip(rung, told, "no time is left of the budget")
        log.info("%s: its time is estimated by a pilot on a few rows", rung.name)
        # What the first finds in no cache the second does, as the runs will: but it is needed only where it matters.
        for name in ("first", "second"):
            folder = self.folder / "pilots" / f"{rung.name}-{name}"
            if distributed.is_main():
                # One that was found finished would tell nothing of the time it took.
                shutil.rmtree(folder, ignore_errors=True)
            distributed.barrier()
            estimate = runs * self.workshop.seconds_of_run(rung, self.data, folder, clock)
            self._drop_models([folder])
            if estimate <= (left := self._seconds_left()):
                break
        told["estimated_seconds"] = round(estimate, 1)
        if estimate > left:
            many = f"{runs} runs would take about {estimate:.0f} s"
            return self._skip(rung, told, f"{many}, and {max(0.0, left):.0f} s are left of the budget")
        self._note()
        return False

    def _others_would_not_fit(self, rung: Rung, told: dict[str, Any]) -> bool:
        """Whether the rung is given up, its first run having taken longer than expected."""
        if rung.is_baseline or "others_fit" in told:
            return False
        needed, left = (len(self.seeds) - 1) * told["seconds_of_run"], self._seconds_left()
        if needed > left:
            first = f"its first run took {told['seconds_of_run']:.0f} s, the others would take {needed:.0f} s"
            return self._skip(rung, told, f"{first}, and {max(0.0, left):.0f} s are left of the budget")
        told["others_fit"] = True
        self._note()
        return False

    def _skip(self, rung: Rung, told: dict[str, Any], reason: str) -> bool:
        told |= {"status": "skipped", "reason": reason}
        log.warning("%s left out: %s", rung.name, reason)
        return True

    def _tuned(self, rung: Rung, told: dict[str, Any]) -> dict[str, Any]:
        """The learning rate that is best on validation; none to be set where there is nothing to try."""
        trials = self.asked["trials"]
        if not rung.is_tuned or trials == 1:
            return {}
        blind, default = without_test(self.data), self.workshop.learning_rate(rung, self.data)
        tried: list[dict[str, Any]] = told["trials"]
        for number in range(trials):
            if number == len(tried):
                past = [(one["settings"]["learning_rate"], one["validation"]) for one in tried]
                rate = distributed.from_main(next_rate(default, past, trials))
                tried.append({"settings": {"learning_rate": rate}, "validation": None})
                self._note()
            elif tried[number]["validation"] is not None or "reason" in tried[number]:
                continue
            self._try(rung, tried[number], blind, self.folder / "trials" / f"{rung.name}-{number}")
            self._note()
        done = [one for one in tried if one["validation"] is not None]
        if not done:
            raise TrainingError(f"{rung.name}: expected a trial that works, found none: {tried[0]['reason']}")
        return dict(max(done, key=lambda one: one["validation"])["settings"])

    def _try(self, rung: Rung, trial: dict[str, Any], data: Data, folder: Path) -> None:
        try:
            self.workshop.make(rung, data, folder, self.seeds[0], trial["settings"])
            trial["validation"] = self._validation(folder)
        except Exception as error:
            if distributed.world_size() > 1:
                raise
            # A rate that is too high for one route must not end it.
            trial["reason"] = f"{type(error).__name__}: {error}"
            log.warning("%s at %s: %s", rung.name, trial["settings"], trial["reason"])
        self._drop_models([folder])

    def _validation(self, folder: Path) -> float:
        return float(
            distributed.from_main(
                RunResult.load(folder).validation_score(self.metric) if distributed.is_main() else 0.0
            )
        )

    def _results(self, rung: Rung, told: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
        first = RunResult.load(folders[0])
        resolved = first.settings.get("training", {})
        settings = {name: resolved[name] for name in TOLD if rung.is_tuned and name in resolved}
        settings |= {name: value for name, value in first.training.to_record().items() if name in CHOSEN}
        return {
            "status": "finished",
            "seeds": self.seeds,
            "runs": [folder.relative_to(self.folder).as_posix() for folder in folders],
            "settings": {**told["settings"], **settings},
            "validation": float(np.mean([RunResult.load(folder).validation_score(self.metric) for folder in folders])),
            "test": self._on_test(folders),
            "cost": costs(rung, folders, self.data) | {"peak_memory_mb": told["peak_memory_mb"]},
        }

    def _drop_models(self, folders: Sequence[Path]) -> None:
        if distributed.is_main() and not self.workshop.training.keep_checkpoints:
            for folder in folders:
                shutil.rmtree(folder / "model", ignore_errors=True)
        distributed.barrier()

    # What follows

    def _finished(self) -> list[tuple[Rung, dict[str, Any]]]:
        rungs = zip(self.rungs, self.record["rungs"], strict=True)
        return [(rung, told) for rung, told in rungs if told["status"] == "finished"]

    def _point(self, rung: Rung, told: Mapping[str, Any], size: int, data: Data) -> None:
        """A rung's score with so many labeled rows, in the settings that it was found best in with all."""
        known = [*self.record["curve"], *self.record["curve_left_out"]]
        if any((one["rung"], one["size"]) == (rung.name, size) for one in known):
            return
        # Fewer rows take no longer than all.
        needed, left = len(self.seeds) * told["seconds_of_run"], self._seconds_left()
        chosen = {"learning_rate": told["settings"]["learning_rate"]} if told["trials"] else {}
        point = {"rung": rung.name, "size": size}
        folders = [self.folder / "curve" / str(size) / f"{rung.name}-{seed}" for seed in self.seeds]
        try:
            if needed > left and not rung.is_baseline:
                reason = f"it could take {needed:.0f} s, and {max(0.0, left):.0f} s are left of the budget"
                self.record["curve_left_out"].append({**point, "reason": reason})
                return
            for seed, folder in zip(self.seeds, folders, strict=True):
                self.workshop.make(rung, data, folder, seed, chosen, size)
            test = distributed.from_main(self._on_test(folders) if distributed.is_main() else None)
            self.record["curve"].append({**point, "mean": test["mean"], "interval": test["interval"]})
        except Exception as error:
            if distributed.world_size() > 1:
                raise
            self.record["curve_left_out"].append({**point, "reason": f"{type(error).__name__}: {error}"})
        finally:
            self._drop_models(folders)
            self._note()

    def _on_test(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Mean score over seeds and its interval; of accuracy also Wilson's, of the first seed's model alone."""
        labels, metric, targets = self.data.labels, self.metric, self.data.test.targets
        guesses = [RunResult.load(folder).predictions["test"].predicted for folder in folders]
        found = asdict(score_interval(targets, guesses, labels, metric))
        told = {name: found[name] for name in ("mean", "spread", "interval")}
        told["scores"] = [RunResult.load(folder).scores["test"][metric] for folder in folders]
        if metric == "accuracy":
            right = (guesses[0] == targets).reshape(len(targets), -1).all(axis=1).sum()
            told["wilson"] = list(wilson_interval(int(right), len(targets)))
        return told

    def _conclude(self) -> None:
        """What is different from what, what is recommended, and what rows would be worth."""
        if distributed.is_main():
            rungs = [
                ScoredCandidate(
                    rung.name,
                    [RunResult.load(self.folder / run).predictions["test"].predicted for run in told["runs"]],
                    told["validation"],
                )
                for rung, told in self._finished()
            ]
            self.record["pairs"] = self._pairs(rungs)
            self.record["recommendation"] = self._recommendation(rungs)
            if self.subsets:
                self._close_curve()
        distributed.barrier()

    def _pairs(self, rungs: Sequence[ScoredCandidate]) -> list[dict[str, Any]]:
        """Each rung less each cheaper one. Holm's correction is for the number of pairs."""
        pairs: list[dict[str, Any]] = []
        for other, one in combinations(rungs, 2):
            found = paired(self.data.test.targets, one.predictions, other.predictions, self.data.labels, self.metric)
            told = {"difference": found.difference, "interval": list(found.interval)}
            tests = {"p": found.p_value, "mcnemar_p": found.mcnemar_p_value}
            pairs.append({"one": one.name, "other": other.name, **told, **tests})
        for name, corrected in (("p", "holm_p"), ("mcnemar_p", "mcnemar_holm_p")):
            for pair, value in zip(pairs, holm([pair[name] for pair in pairs]), strict=True):
                pair[corrected] = value
        return pairs

    def _recommendation(self, rungs: Sequence[ScoredCandidate]) -> dict[str, Any]:
        if not any(rung.name != Majority.name for rung in rungs):
            return {"rung": None, "best": None, "sentence": "no route was finished that could be recommended"}
        found = recommended(
            self.data.test.targets,
            rungs,
            self.data.labels,
            self.metric,
            majority=next((rung.name for rung in rungs if rung.name == Majority.name), None),
            delta=self.asked["delta"],
        )
        log.info("%s", found.reason)
        return {"rung": found.candidate, "best": found.best, "sentence": found.reason}

    def _close_curve(self) -> None:
        """End the curve with the scores on all rows, and say what rows the better of two needs to reach the other."""
        rows = labeled_rows(self.data)
        finished = [(rung.name, told["test"]) for rung, told in self._finished()]
        points = [point for point in self.record["curve"] if point["size"] != rows]
        points += [
            {"rung": name, "size": rows, "mean": test["mean"], "interval": test["interval"]} for name, test in finished
        ]
        curves = {
            name: {point["size"]: point["mean"] for point in points if point["rung"] == name} for name, _ in finished
        }
        self.record["curve"], self.record["rows_to_reach"] = points, []
        for pair in combinations(curves, 2):
            one, other = sorted(pair, key=lambda name: -curves[name][rows])
            found = rows_to_reach(curves[one], curves[other])
            self.record["rows_to_reach"].append({"one": one, "other": other, "rows": found})


def _new_rung() -> dict[str, Any]:
    empty: dict[str, Any] = {"seeds": [], "runs": [], "settings": None, "trials": []}
    unknown = ("validation", "test", "cost", "estimated_seconds", "seconds_of_run", "peak_memory_mb")
    return {"status": "waiting", "reason": None, **empty, **dict.fromkeys(unknown)}
