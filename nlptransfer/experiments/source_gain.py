"""Did the source help? The same target rows, steps and tuning without it, over several seeds, and what differs."""

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import distributed
from nlptransfer.classifier import note_results
from nlptransfer.data import DataSettings, Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation import Gain, default_metric, higher_is_better, measure, transfer_gain
from nlptransfer.experiments.run import Run, command
from nlptransfer.files import atomic_folder, read_json, write_json
from nlptransfer.results import claim, predictions_on_test
from nlptransfer.training import TrainingSettings, are_few
from nlptransfer.transfer import ON_TARGET, Copy, Direct, Joint

log = logging.getLogger("nlptransfer")

SEEDS = 3
"""Seeds of either side where nothing else is asked for."""
DRAWS_APART = 1000
"""Between the seeds of the draws of rows of two sides of a verdict."""
STEPS_OF_THEIR_OWN = (Joint.name,)
"""Strategies that step over the target's rows more often than a run on these alone would."""
SIDES = "verdict"
"""The folder in a run's with the runs that its verdict rests on."""
Make = Callable[[DataSettings], Run]


@dataclass(frozen=True)
class Pairs:
    """Runs with a source and without, on the same rows under the same seeds."""

    make: Make
    """the run with the source on the rows that these settings give"""
    settings: DataSettings
    training: TrainingSettings
    seeds: int

    def runs(self, folder: Path, *, save_first: bool = False) -> list[tuple[Path, Path]]:
        """Make them in a folder, or find them finished there: the folders with the source and without, by seed.

        Runs without the source are shared by all strategies beside which they have the same steps.

        Args:
            save_first: whether the models of the first seed are saved; with ``keep_checkpoints`` all are.
        """
        found = []
        for number in range(self.seeds):
            save_model = (save_first and number == 0) or self.training.keep_checkpoints
            seed = self.training.seed + number
            own = self.make(self._rows(number))
            own = replace(own, asked=replace(own.asked, seed=seed))
            with_source = folder / f"{own.transfer.name}-{seed}"
            own.go(with_source, save_model=save_model)
            direct = self._direct(own, with_source)
            as_many = own.transfer.name in STEPS_OF_THEIR_OWN and not own.route.is_solved
            without = folder / (f"direct-as-{own.transfer.name}-{seed}" if as_many else f"direct-{seed}")
            direct.go(without, save_model=save_model)
            found.append((with_source, without))
        return found

    def _rows(self, number: int) -> DataSettings:
        if self.settings.max_train_rows is None:
            return self.settings
        # Which of the rows are taken is luck too, and each seed has its own.
        first = self.settings.split_seed if self.settings.rows_seed is None else self.settings.rows_seed
        return replace(self.settings, rows_seed=first + DRAWS_APART * number)

    def _direct(self, own: Run, finished: Path) -> Run:
        """The run without the source, with as many steps on the target's rows and the same tuning."""
        base = own.base
        if own.source is not None and own.source.classifier is not None and base is None:
            base = ((own.source.classifier.record or {}).get("base") or {}).get("name")
        route, asked = own.transfer.at(ON_TARGET, own.route, own.asked)
        if not route.is_solved:
            resolved = route.defaults(own.data)
            stages = read_json(finished / "experiment.json")["settings"]["stages"]
            for stage in ("target", "joint"):
                resolved = {name: stages.get(stage, resolved)[name] for name in resolved}
            asked = replace(asked, **resolved)
            if own.transfer.name in STEPS_OF_THEIR_OWN:
                steps = read_json(finished / "experiment.json")["transfer"]["stages"]["joint"]["step"]
                rows = (
                    asked.gradient_accumulation_steps
                    * (asked.per_device_train_batch_size or 1)
                    * distributed.world_size()
                )
                asked = replace(asked, num_train_epochs=math.ceil(steps / math.ceil(len(own.data.train) / rows)))
        return replace(own, route=route, transfer=Direct(), source=None, asked=asked, base=base)


def seeds_for(run: Run, asked: int | None) -> int:
    """How many seeds tell something: one, where a head is solved on the same rows and no choice is drawn."""
    few = are_few(len(run.data.train), len(run.data.validation))
    if run.route.is_solved and run.data_settings.max_train_rows is None and not few:
        return 1
    return SEEDS if asked is None else asked


def gain_of(pairs: Sequence[tuple[Path, Path]], labels: Labels, metric: str) -> Gain:
    """The gain of finished runs with a source over those without, on test.

    Raises:
        DataError: the data has no test rows.
        SettingError: a metric that needs probabilities.
    """
    with_source, without = ([predictions_on_test(side, labels) for side in sides] for sides in zip(*pairs, strict=True))
    return transfer_gain(predictions_on_test(pairs[0][1], labels, "true"), without, with_source, labels, metric)


def run_with_verdict(run: Run, pairs: Pairs, folder: Path, *, fallback: bool, overwrite: bool) -> None:
    """Make the runs of a verdict, and of the first seed's the run itself: with the source, or as the gate says.

    Args:
        run: with the source, of the first seed.
        pairs: its pairs.
        folder: of the run; those of the verdict are in a folder in it.
        gate: whether the run is the one without the source where that scores better on validation.
        overwrite: whether a run with other settings in that folder is thrown away.
    """
    metric = gain_metric(run)
    question = {**run.question(), "verdict": True, "fallback": fallback, "seeds": pairs.seeds}
    if claim(folder, question, overwrite):
        return
    if distributed.is_main():
        write_json(folder / "experiment.json", {"status": "running", "asked": question})
    distributed.barrier()
    found = pairs.runs(folder / SIDES, save_first=True)
    if distributed.is_main():
        gain = gain_of(found, run.data.labels, metric)
        scores = [
            float(np.mean([validation_score(side, metric) for side in sides])) for sides in zip(*found, strict=True)
        ]
        sign = 1.0 if higher_is_better(metric) else -1.0
        taken = "direct" if fallback and sign * scores[1] >= sign * scores[0] else run.transfer.name
        told = {
            **asdict(gain),
            "validation": {run.transfer.name: scores[0], "direct": scores[1]},
            "fallback": fallback,
            "taken": taken,
        }
        asked = f"{command(run)} --verdict --seeds {pairs.seeds}" + (" --fallback" if fallback else "")
        _take(found[0][taken == "direct"], folder, question, told, asked)
        log.info("%s: %s", run.transfer.name, said(told))
        if not run.asked.keep_checkpoints:
            for side in found[0]:
                shutil.rmtree(side / "model", ignore_errors=True)
    distributed.barrier()


def gain_metric(run: Run) -> str:
    """The score that a gain is measured by.

    Raises:
        DataError: the data has no test rows to measure it on.
        SettingError: the metric needs probabilities.
    """
    if not len(run.data.test):
        raise DataError(
            f"{run.data.name}: expected test rows, by which a gain is measured, found none: "
            "set test_size, or ask for no verdict"
        )
    return measure(run.asked.metric_for_best_model or default_metric(run.data.labels), run.data.labels)


def validation_score(folder: Path, metric: str) -> float:
    """A finished run's score on rows of the target that it has not learned from, test left aside."""
    record, report = read_json(folder / "experiment.json"), read_json(folder / "metrics.json")
    if record.get("transfer", {}).get("name") == Copy.name:
        # It has learned from none of them.
        splits = [report[name] for name in ("train", "validation") if name in report]
        return sum(split["rows"] * split[metric] for split in splits) / sum(split["rows"] for split in splits)
    if record["training"].get("chosen_by") == "cross-validation":
        return float(record["training"]["best_score"])
    return float(report["validation"][metric])


def said(told: Mapping[str, Any]) -> str:
    """A verdict in a line."""
    low, high = told["interval"]
    return (
        f"{told['verdict']}: {told['metric']} {told['with_source']:.3f}, without the source {told['direct']:.3f}, "
        f"gain {told['gain']:+.3f} [{low:+.3f}, {high:+.3f}] over {told['seeds']} "
        f"{'seed' if told['seeds'] == 1 else 'seeds'}"
    )


def _take(side: Path, folder: Path, question: Mapping[str, Any], told: Mapping[str, Any], asked: str) -> None:
    """Make a run of the verdict the run itself.

    Args:
        asked: the command line that asks for the verdict.
    """
    with atomic_folder(folder / "model") as new:
        shutil.copytree(side / "model", new, dirs_exist_ok=True)
        note_results(new, {"verdict": dict(told), "command": asked})
    shutil.copyfile(side / "predictions.parquet", folder / "predictions.parquet")
    report = read_json(side / "metrics.json")
    report["transfer"] = {**report.get("transfer", {}), "gain": dict(told)}
    write_json(folder / "metrics.json", report)
    record = read_json(side / "experiment.json")
    write_json(folder / "experiment.json", {**record, "asked": question, "verdict": dict(told)})
