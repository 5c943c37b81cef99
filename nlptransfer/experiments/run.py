"""One run: data, a route and a strategy in; a trained, calibrated and scored classifier in a folder out."""

import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nlptransfer import distributed
from nlptransfer.classifier import Classifier, note_results
from nlptransfer.data import Data, DataSettings, Split
from nlptransfer.evaluation import default_metric, fit_temperature, fit_thresholds, score_predictions, to_probabilities
from nlptransfer.experiments.environment import machine, peak_memory_mb, texts_per_second, versions
from nlptransfer.experiments.source import Source
from nlptransfer.experiments.stages import CHECKPOINTS, Course, Learned
from nlptransfer.experiments.task import Task
from nlptransfer.files import no_empty_folder, size_mb, write_json
from nlptransfer.memo import once
from nlptransfer.models import SomeRows, predict_logits, reorder
from nlptransfer.results import WITHOUT_EFFECT, claim, described, write_predictions
from nlptransfer.routes import Built, Route, named_local
from nlptransfer.settings import as_text
from nlptransfer.training import SOURCE, TARGET, UNLABELED, Augment, TrainingSettings, augment
from nlptransfer.transfer import Direct, Sides, Transfer, pretrained_base
from nlptransfer.vectors import vectors_for

log = logging.getLogger("nlptransfer")

SCORED_TRAINING_ROWS = 2000
"""Training scores are taken on at most so many rows: they are a check, and cost a forward pass."""
VERIFIED_TEXTS = 8
"""Training texts on which the saved classifier is compared with the live one."""
TRUNCATED_WARNING = 0.05
"""Share of training texts that are not read whole, from which the log says so."""


@dataclass(frozen=True)
class Run:
    """All that decides what is learned."""

    data: Data
    route: Route
    data_settings: DataSettings
    asked: TrainingSettings
    base: str | None = None
    revision: str | None = None
    further: tuple[str, ...] = ()
    transfer: Transfer = field(default_factory=Direct)
    source: Source | None = None
    augment: Augment = field(default_factory=Augment)
    unlabeled: str | None = None
    """what the further texts without labels are called"""

    def go(self, folder: Path, overwrite: bool = False, *, save_model: bool = True) -> None:
        """Train and write the folder; go on with what was cut off there, and leave a finished run as it is."""
        # What is wrong with these settings shows before a folder is claimed.
        names = self.data.labels.names
        sides = Sides(names, names, agree=True, has_rows=True) if self.source is None else self.source.sides(self.data)
        self.transfer.check_fits(self.route, sides)
        tasks = self._tasks()
        # Some settings are refused only when the base is known.
        with no_empty_folder(folder):
            if claim(folder, self.question(), overwrite):
                return
            distributed.quiet_others()
            log.info("%s: %s -> %s", self.route.name, self.data, folder)
            if self.source is not None:
                log.info("%s from %s", self.transfer.name, self.source.data or self.source.name)
            built, learned_before = self._build()
            agree = self.source is None or self.source.agrees(self.data)
            course = Course(
                self.route, self.transfer, self.asked, self._augmented(tasks), built, folder, agree, learned_before
            )
            truncated = self._truncated(built) if distributed.is_main() else {}
            if distributed.is_main():
                write_json(folder / "experiment.json", {"status": "running", **self._record(built, course, truncated)})
        learned = course.take()
        classifier, temperature = self._calibrated(built)
        held_out = None if learned.held_out is None else learned.held_out / temperature
        report, found = self._scores(classifier, held_out)
        if learned.scores:
            report["transfer"] = learned.scores
            _log_forgetting(learned.scores, default_metric(self.data.labels))
        if distributed.is_main():
            record = self._record(built, course, truncated)
            report["cost"] = _cost(classifier, learned.fitted["seconds"], learned.fitted["examples"])
            if save_model:
                self._save(folder / "model", classifier, record, report)
            self._write(folder, classifier, report, found, learned, record)
        distributed.barrier()

    def name(self) -> str:
        """Of a folder, after the data and the settings."""
        digest = hashlib.sha256(json.dumps(self.question(), sort_keys=True).encode()).hexdigest()[:8]
        way = [] if isinstance(self.transfer, Direct) else [self.transfer.name.replace(" >> ", "-")]
        return "-".join([self.data.name, self.route.name, *way, digest])

    def question(self) -> dict[str, Any]:
        """All that decides what is learned; a local base by name and content, not by where it lies."""
        training = {name: value for name, value in asdict(self.asked).items() if name not in WITHOUT_EFFECT}
        question = {
            "fingerprints": self.data.fingerprints(),
            "route": self.route.name,
            "base": named_local(self.base),
            "revision": self.revision,
            "further_metrics": self.further,
            **asdict(self.data_settings),
            **training,
            **self.route.recorded(),
            **asdict(self.augment),
        }
        if not isinstance(self.transfer, Direct):
            question |= {"transfer": self.transfer.name}
            for part in self.transfer.parts:
                question |= asdict(part)
        if self.source is not None:
            question |= {"source": self.source.fingerprints}
        return json.loads(json.dumps(question))

    def _tasks(self) -> dict[str, Task]:
        free = self.transfer.label_free
        tasks = {} if free else {TARGET: Task.of(self.data, self.asked)}
        if self.data.unlabeled:
            tasks[UNLABELED] = Task.unlabeled(self.data)
        if self.source is None or self.source.data is None:
            return tasks
        asked = self.asked
        if not self.source.agrees(self.data) and not isinstance(asked.class_weights, str):
            # Weights by name are of the target's labels.
            asked = replace(asked, class_weights=None)
        return tasks | {SOURCE: Task.of(self.source.data, asked, self.source.weights)}

    def _augmented(self, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """The tasks with altered copies of the target's training rows, where they are asked for."""
        if not self.augment.augment_copies:
            return dict(tasks)
        vectors = None
        if self.augment.augment_synonyms:
            vectors, _ = vectors_for(self.data.train.texts, self.base, self.revision)
        seed = self.asked.seed if self.asked.data_seed is None else self.asked.data_seed
        train = augment(self.data.train, self.augment, seed, vectors)
        log.info("%d altered copies of %d training texts", len(train) - len(self.data.train), len(self.data.train))
        own = tasks[TARGET]
        return {**tasks, TARGET: replace(own, data=replace(own.data, train=train), has_copies=True)}

    def _build(self) -> tuple[Built, bool]:
        """The model that the first stage begins with, and whether it has learned the source already."""
        seed = self.asked.seed if self.asked.init_seed is None else self.asked.init_seed
        source = self.source
        if source is not None and source.classifier is not None:
            saved = source.classifier
            built = Built(deepcopy(saved.model), saved.tokenizer, (saved.record or {}).get("base", {}))
            agree = source.agrees(self.data)
            labels = self.data.labels if agree else source.labels
            reorder(built.model, self.route.head(built.model), source.labels, labels)
            return built, True
        first: Data = self.data
        beside: Sequence[str] = self.data.unlabeled
        if source is not None and source.data is not None:
            first, beside = source.data, [*self.data.train.texts, *self.data.unlabeled]
            labeled = next(stage for stage in self.transfer.stages if stage.learns != "language")
            if labeled.roles[0] == TARGET and not self.transfer.label_free:
                first, beside = self.data, [*source.data.train.texts, *self.data.unlabeled]
        others = [] if source is None or source.data is None else [source.data]
        base, revision = pretrained_base(self.transfer, self.route, self.base, self.revision, self.data, others, seed)
        built = self.route.build(first, base, revision, seed, beside)
        built.model.to(distributed.state().device)
        return built, False

    def _truncated(self, built: Built) -> dict[str, float]:
        """By split, the share of its texts that have tokens which are not read."""
        splits = {name: split.texts for name, split in self.data.splits.items() if len(split)}
        route, tokenizer = self.route, built.tokenizer
        found = {
            name: once((str(route), tokenizer, tuple(texts)), partial(route.truncated, tokenizer, texts)) / len(texts)
            for name, texts in splits.items()
        }
        if found.get("train", 0.0) > TRUNCATED_WARNING:
            log.warning(
                "%.0f%% of the training texts have more than %d tokens and are not read whole: long_text=windows reads "
                "all of a text, head_tail its end too, a larger max_length more of it at once",
                100 * found["train"],
                built.tokenizer.model_max_length,
            )
        return found

    def _record(self, built: Built, course: Course, truncated: Mapping[str, float]) -> dict[str, Any]:
        settings = course.settings
        record: dict[str, Any] = {
            "data": described(self.data) | {"truncated": truncated},
            "base": built.record,
            "settings": {
                "data": asdict(self.data_settings),
                "route": {"name": self.route.name, **self.route.recorded()},
                "training": asdict(list(settings.values())[-1] if settings else self.asked),
                "augment": asdict(self.augment),
            },
            "asked": self.question(),
            "processes": distributed.world_size(),
            "machine": machine(),
            "versions": versions(),
        }
        if not isinstance(self.transfer, Direct):
            record["transfer"] = {"name": self.transfer.name, "label_free": self.transfer.label_free}
            for part in self.transfer.parts:
                record["transfer"] |= asdict(part)
            record["settings"]["stages"] = {name: asdict(one) for name, one in settings.items()}
        if self.source is not None:
            data = self.source.data
            record["transfer"]["source"] = {"name": self.source.name} if data is None else described(data)
        return record

    def _save(self, model: Path, classifier: Classifier, record: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        """Save the classifier, and measure what it is to use."""
        seen = self.data.train.texts or self.data.unlabeled
        classifier.save_pretrained(model, seen[:VERIFIED_TEXTS])
        note_results(model, self._results(record, report))
        texts = self.data.test.texts or self.data.validation.texts or self.data.unlabeled
        report["cost"]["texts_per_second"] = round(texts_per_second(classifier, texts), 1)
        report["cost"]["size_mb"] = round(size_mb(model), 3)
        note_results(model, {"cost": report["cost"]})

    def _write(
        self,
        folder: Path,
        classifier: Classifier,
        report: dict[str, Any],
        found: Mapping[str, np.ndarray],
        learned: Learned,
        record: dict[str, Any],
    ) -> None:
        write_predictions(folder / "predictions.parquet", self.data, classifier.thresholds, found)
        write_json(folder / "metrics.json", report)
        if "transfer" in record:
            record["transfer"] |= {"stages": learned.stages, **learned.record}
        write_json(folder / "experiment.json", {"status": "finished", **record, "training": learned.fitted})
        if not self.asked.keep_checkpoints:
            for checkpoints in folder.glob(f"{CHECKPOINTS}*"):
                shutil.rmtree(checkpoints, ignore_errors=True)

    def _results(self, record: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
        """What others should know of the making of a classifier and its scores: for its model card."""
        data, train = self.data, self.data.train
        given = [name for row in data.labels.decode(train.targets) for name in ([row] if isinstance(row, str) else row)]
        results = {
            "data": data.name,
            "rows": {name: len(split) for name, split in data.splits.items()},
            "label_counts": {name: given.count(name) for name in data.labels.names},
            "fingerprints": data.fingerprints(),
            "command": command(self),
            "seed": self.asked.seed,
            "training": record["settings"]["training"],
            "versions": record["versions"],
        }
        if self.source is not None:
            told = record["transfer"]["source"]
            results["transfer"] = {"name": self.transfer.name, "source": {"name": told["name"]}}
        return results | ({"test": report["test"]} if "test" in report else {})

    def _calibrated(self, built: Built) -> tuple[Classifier, float]:
        """The classifier with its thresholds and with its temperature in the last layer, both from calibration rows."""
        data, model = self.data, built.model.eval()
        classifier = Classifier(
            self.route,
            model,
            built.tokenizer,
            data.labels,
            record={"base": built.record},
            normalization=self.data_settings.normalization,
        )
        calibration = self._calibration()
        if calibration is None:
            saved = self.source.classifier if self.source is not None else None
            return replace(classifier, thresholds=saved.thresholds if saved is not None else None), 1.0
        rows = len(calibration)
        if not rows:
            return classifier, 1.0
        logits = classifier.logits(calibration.texts, share=True)
        temperature = fit_temperature(logits, calibration.targets, data.labels.multi_label)
        head = self.route.head(model)
        with torch.no_grad():
            # In the weights, so that whatever loads the folder gives calibrated probabilities.
            for parameter in head.parameters():
                parameter.div_(temperature)
        record = {"base": built.record, "calibration": {"rows": rows, "temperature": temperature}}
        classifier = replace(classifier, record=record)
        if not data.labels.multi_label:
            return classifier, temperature
        probabilities = to_probabilities(logits / temperature, data.labels)
        thresholds = fit_thresholds(probabilities, calibration.targets)
        return replace(classifier, thresholds=tuple(thresholds.tolist())), temperature

    def _calibration(self) -> Split | None:
        """Rows to calibrate by; None where a saved classifier is judged as it is."""
        if not self.transfer.label_free and any(TARGET in stage.roles for stage in self.transfer.stages):
            return self.data.calibration
        # No row of the target's is learned from.
        return self.source.data.calibration if self.source is not None and self.source.data is not None else None

    def _scores(
        self, classifier: Classifier, held_out: np.ndarray | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Scores by split, and the probabilities of validation and test; test may be empty.

        Args:
            held_out: validation logits, where the classifier itself has learned from these rows by now.
        """
        report: dict[str, Any] = {}
        found: dict[str, np.ndarray] = {}
        data, route = self.data, classifier.route
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            if not len(split):
                continue
            if name == "validation" and held_out is not None:
                found[name] = to_probabilities(held_out, data.labels)
            else:
                # All rows of the split, as they were for training: their features are in the cache.
                rows = route.rows(classifier.model, classifier.tokenizer, split.texts, share=True)
                if name == "train" and len(split) > SCORED_TRAINING_ROWS:
                    split, rows = (
                        split.take(range(SCORED_TRAINING_ROWS)),
                        SomeRows(rows, np.arange(SCORED_TRAINING_ROWS)),
                    )
                found[name] = to_probabilities(predict_logits(classifier.model, rows, share=True), data.labels)
            report[name] = {"rows": len(split)} | score_predictions(
                split.targets, found[name], data.labels, thresholds=classifier.thresholds, metrics=self.further
            )
        found.pop("train", None)
        return report, found


def command(run: Run) -> str:
    """The command line that asks for a run, with names in place of paths."""
    words = ["nlptransfer", "finetune", run.data.name, "--route", run.route.name]
    if run.base is not None:
        words += ["--base", Path(run.base).name if Path(run.base).exists() else run.base]
    if run.revision is not None:
        words += ["--revision", run.revision]
    for metric in run.further:
        words += ["--metric", metric]
    if run.source is not None:
        words += ["--source", run.source.name]
    if not isinstance(run.transfer, Direct):
        words += ["--transfer", run.transfer.name]
    if run.unlabeled is not None:
        words += ["--unlabeled", run.unlabeled]
    for settings in (run.data_settings, run.asked, run.route, *run.transfer.parts, run.augment):
        for setting in fields(cast(Any, settings)):
            value = getattr(settings, setting.name)
            if value != setting.default and setting.name not in WITHOUT_EFFECT:
                value = named_local(value) if isinstance(value, str) else value
                words += ["--set", f"{setting.name}={as_text(value)}"]
    return shlex.join(words)


def _log_forgetting(told: Mapping[str, Any], metric: str) -> None:
    for role, found in told.items():
        parts = [f"{when} {found[when][metric]:.4f}" for when in ("before", "after") if metric in found.get(when, {})]
        log.info("%s (%s): %s %s", role, found["split"], metric, ", ".join(parts))


def _cost(classifier: Classifier, seconds: float, examples: int) -> dict[str, float]:
    parameters = [(p.numel(), p.requires_grad) for p in classifier.model.parameters()]
    return {
        "train_seconds": round(seconds, 3),
        "examples_per_second": round(examples / seconds, 1) if seconds else 0.0,
        "trainable_parameters": sum(size for size, learned in parameters if learned),
        "total_parameters": sum(size for size, _ in parameters),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }
