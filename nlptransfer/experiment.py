"""finetune(): data and a route in, a classifier and the record of its making out."""

import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from nlptransfer import metrics as scores
from nlptransfer import processes
from nlptransfer.batching import FirstRows, predict_logits
from nlptransfer.classifier import Classifier, to_probabilities
from nlptransfer.data import Data, DataSettings, Split, load_data
from nlptransfer.errors import DataError, RunFolderError, SettingError
from nlptransfer.files import atomic_file, read_json, size_mb, write_json
from nlptransfer.objectives import Supervised, class_weights
from nlptransfer.optimization import TrainingSettings
from nlptransfer.route import Built, Route, named_local
from nlptransfer.routes import route_class
from nlptransfer.settings import fields_of, fill
from nlptransfer.solver import choose_strength, solve
from nlptransfer.training import Examples, train

log = logging.getLogger("nlptransfer")

SCORED_TRAINING_ROWS = 2000
"""Training scores are taken on at most so many rows: they are a check, and cost a forward pass."""
COLLAPSED_RATE = 0.25
"""Where all rows came out as the most frequent label, the training begins anew at so much of the learning rate."""
SPEED_SECONDS = 0.3
"""Texts per second are measured for at least so long."""
CHECKPOINTS, RETRIED = "checkpoints", "checkpoints_retried"
WITHOUT_EFFECT = ("progress", "report_to", "save_steps", "keep_checkpoints")
"""Settings that change nothing of what is learnt: a run may be resumed with others."""
PACKAGES = (
    "nlptransfer",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "gensim",
    "tokenizers",
    "numpy",
    "peft",
)


@dataclass(frozen=True)
class Experiment:
    """A finished run, read from its folder.

    Raises:
        RunFolderError: no finished run is there.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not (self.folder / "experiment.json").exists() or self.record["status"] != "finished":
            raise RunFolderError(f"{self.folder}: expected the folder of a finished run")

    @cached_property
    def record(self) -> dict[str, Any]:
        """experiment.json: settings, versions, fingerprints, history."""
        return read_json(self.folder / "experiment.json")

    @cached_property
    def report(self) -> dict[str, Any]:
        """metrics.json: scores by split, and the cost."""
        return read_json(self.folder / "metrics.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores on the test split.

        Raises:
            DataError: the data had none.
        """
        if "test" not in self.report:
            raise DataError(
                f"{self.folder}: expected scores on test, found none, as the data had no test rows: see .report"
            )
        return self.report["test"]

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds, parameters, memory, speed and size."""
        return self.report["cost"]

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier, as it was saved."""
        return Classifier.load(self.folder / "model")


def finetune(
    data: Any,
    *,
    route: str | Route = "word2vec",
    base: str | Path | None = None,
    revision: str | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    further_metrics: Sequence[str] = (),
    **settings: Any,
) -> Experiment:
    """Train a classifier on labelled text, score it, and save it with the record of its making.

    Args:
        data: a hub id; a csv, tsv, jsonl or parquet file, plain or .gz; a folder of split files; a Dataset or
            DatasetDict; a pandas frame; or (texts, labels).
        route: a name of ``ROUTES``, or a route with its settings.
        base: what the route starts from: an encoder (hub id or folder), and for word2vec also a file of word
            vectors. None: all-MiniLM-L6-v2.
        revision: commit, branch or tag of a base on the hub.
        output_dir: the run's folder; by default one under runs/ that is named after the data and the settings.
            The same call resumes a run that was cut off there, and returns a finished one as it is.
        overwrite: whether a run with other settings in that folder is thrown away.
        further_metrics: names of other ``evaluate`` metrics to score with.
        **settings: fields of DataSettings, TrainingSettings and of the route.

    Raises:
        SettingError: an unknown setting or a value that makes no sense.
        DataError, VectorsError, BaseModelError: what cannot be read.
        RunFolderError: the folder holds a run with other settings, or other files.
        TrainingError: the loss is no longer a number.
    """
    kinds = {"data": DataSettings, "training": TrainingSettings}
    if isinstance(route, str):
        filled = fill({**kinds, "route": route_class(route)}, settings)
        chosen: Route = filled["route"]
    else:
        given = {name: getattr(route, name) for name in fields_of(type(route))}
        chosen = fill({"route": type(route)}, given)["route"]
        clash = sorted(set(settings) & set(fields_of(type(route))))
        if clash:
            raise SettingError(
                f"{clash[0]}: give it to {type(route).__name__}({clash[0]}=...), which was passed as the route"
            )
        filled = fill(kinds, settings)
    filled["training"].check()
    chosen.check()
    for name in further_metrics:
        scores.load_metric(name)
    loaded = load_data(data, filled["data"])
    base = None if base is None else str(base)
    run = _Run(loaded, chosen, filled["data"], filled["training"], base, revision, tuple(further_metrics))
    return run.go(output_dir, overwrite)


@dataclass(frozen=True)
class _Run:
    data: Data
    route: Route
    data_settings: DataSettings
    asked: TrainingSettings
    base: str | None
    revision: str | None
    further: tuple[str, ...]

    def go(self, output_dir: str | Path | None, overwrite: bool) -> Experiment:
        # What is wrong with these settings shows before a folder is claimed.
        judge = _judge(self.data, self.asked.metric_for_best_model)
        weights = class_weights(self.asked.class_weights, self.data.labels, self.data.train.targets)
        question = self._question()
        folder = Path(output_dir) if output_dir else Path("runs") / self._name(question)
        if processes.from_main(_claim(folder, question, overwrite) if processes.is_main() else None):
            return Experiment(folder)
        processes.quiet_others()
        log.info("%s: %s -> %s", self.route.name, self.data, folder)
        built = self._build()
        chosen = {name: value for name, value in built.defaults.items() if getattr(self.asked, name) is None}
        settings = replace(self.asked, **chosen)
        record = self._record(question, built, settings)
        if processes.is_main():
            write_json(folder / "experiment.json", {"status": "running", **record})
        built, fitted = self._fit_twice_if_collapsed(built, judge, weights, settings, folder)
        held_out = fitted.pop("validation_logits", None)
        classifier, temperature = self._calibrated(built)
        report, found = self._scores(classifier, None if held_out is None else held_out / temperature)
        if processes.is_main():
            classifier.save_pretrained(folder / "model")
            texts = self.data.test.texts or self.data.validation.texts
            report["cost"] = _cost(classifier, texts, fitted["seconds"], fitted["examples"], folder)
            _write_predictions(folder / "predictions.parquet", self.data, classifier, found)
            write_json(folder / "metrics.json", report)
            write_json(folder / "experiment.json", {"status": "finished", **record, "training": fitted})
            if not settings.keep_checkpoints:
                for checkpoints in (CHECKPOINTS, RETRIED):
                    shutil.rmtree(folder / checkpoints, ignore_errors=True)
        processes.wait()
        return Experiment(folder)

    def _build(self) -> Built:
        seed = self.asked.seed if self.asked.init_seed is None else self.asked.init_seed
        built = self.route.build(self.data, self.base, self.revision, seed)
        built.model.to(processes.state().device)
        return built

    def _question(self) -> dict[str, Any]:
        """All that decides what is learnt; a local base by name and content, not by where it lies."""
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
        }
        return json.loads(json.dumps(question))

    def _name(self, question: Mapping[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.data.name}-{self.route.name}-{digest}"

    def _record(self, question: dict[str, Any], built: Built, settings: TrainingSettings) -> dict[str, Any]:
        return {
            "data": {
                "name": self.data.name,
                "labels": list(self.data.labels.names),
                "multi_label": self.data.labels.multi_label,
                "fingerprints": self.data.fingerprints(),
            },
            "base": built.record,
            "settings": {
                "data": asdict(self.data_settings),
                "route": {"name": self.route.name, **self.route.recorded()},
                "training": asdict(settings),
            },
            "asked": question,
            "processes": processes.count(),
            "versions": {name: version(name) for name in PACKAGES},
        }

    def _fit_twice_if_collapsed(
        self,
        built: Built,
        judge: Callable[[np.ndarray], float],
        weights: np.ndarray | None,
        settings: TrainingSettings,
        folder: Path,
    ) -> tuple[Built, dict[str, Any]]:
        """Train; where the validation score is no better than one label for all rows, once more at a lower rate.

        The better of the two is kept, of equals the second.
        """
        fitted = self._fit(built, judge, weights, settings, folder / CHECKPOINTS)
        score, rate = fitted.get("best_score"), settings.learning_rate
        majority = self._majority_score(judge)
        if score is None or majority is None or rate is None or score > majority:
            return built, fitted
        lower = rate * COLLAPSED_RATE
        log.warning(
            "collapsed: the validation score, %.4f, is no better than one label for all rows; anew from the start, "
            "with learning_rate=%g instead of %g",
            score,
            lower,
            rate,
        )
        anew = self._build()
        again = self._fit(anew, judge, weights, replace(settings, learning_rate=lower), folder / RETRIED)
        kept = (anew, again, fitted, rate) if again["best_score"] >= score else (built, fitted, again, lower)
        model, best, other, others_rate = kept
        both = {name: best[name] + other[name] for name in ("seconds", "examples")}
        return model, {**best, **both, "collapsed": {"learning_rate": others_rate, "history": other["history"]}}

    def _majority_score(self, judge: Callable[[np.ndarray], float]) -> float | None:
        """The validation score of the most frequent label for every row; None where there is nothing to tell."""
        data = self.data
        if not len(data.validation) or data.labels.multi_label or len(set(data.train.targets.tolist())) < 2:
            return None
        counts = np.bincount(data.train.targets, minlength=data.labels.num_labels)
        return judge(np.tile(np.log(counts + 1e-9).astype(np.float32), (len(data.validation), 1)))

    def _fit(
        self,
        built: Built,
        judge: Callable[[np.ndarray], float],
        weights: np.ndarray | None,
        settings: TrainingSettings,
        checkpoints: Path,
    ) -> dict[str, Any]:
        """Train the model in place; returns what is worth recording, the seconds and rows seen among it."""
        data, model = self.data, built.model
        started = time.perf_counter()
        learner, (rows, validation) = self.route.learning(
            model, built.tokenizer, data.train.texts, data.validation.texts
        )
        objective = Supervised(learner, data.labels, weights, settings.label_smoothing)
        inputs = self.route.head_inputs(learner, rows)
        if inputs is not None:
            alone = not self.route.trains_on()
            solved = self._solve(objective, judge, inputs, self.route.head_inputs(learner, validation), model, alone)
            if alone:
                return solved | {"seconds": time.perf_counter() - started, "examples": len(rows) + len(validation)}
        prepared = time.perf_counter() - started
        examples = Examples(rows, data.train.targets), Examples(validation, data.validation.targets)
        report = train(objective, *examples, judge, settings, checkpoints, self.route.paces(model))
        return asdict(replace(report, seconds=report.seconds + prepared))

    def _solve(
        self,
        objective: Supervised,
        judge: Callable[[np.ndarray], float],
        inputs: np.ndarray,
        held_out: Any,
        model: Any,
        alone: bool,
    ) -> dict[str, Any]:
        """Choose the L2 strength on validation; where nothing else learns, solve again with the validation rows."""
        data, head = self.data, self.route.head(model)
        has_bias = head.bias is not None  # decoders have none

        def score(weight: np.ndarray, bias: np.ndarray) -> float:
            return judge(held_out @ weight.T + bias)

        chosen = choose_strength(objective, inputs, data.train.targets, score, has_bias=has_bias)
        found = chosen.weight, chosen.bias
        if alone:
            both = np.concatenate([inputs, held_out]), np.concatenate([data.train.targets, data.validation.targets])
            found = solve(objective, *both, chosen.strength, found, has_bias=has_bias)
        weight, bias = processes.from_main(found)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            if has_bias:
                head.bias.copy_(torch.from_numpy(bias))
        return {
            "solved": "train+validation",
            "l2_strength": chosen.strength,
            "validation_scores": {f"{strength:g}": score for strength, score in chosen.scores.items()},
            # Of the solution that has not seen these rows.
            "validation_logits": held_out @ chosen.weight.T + chosen.bias,
        }

    def _calibrated(self, built: Built) -> tuple[Classifier, float]:
        """The classifier with its thresholds and with its temperature in the last layer, both from calibration rows."""
        data, model = self.data, built.model.eval()
        classifier = Classifier(self.route, model, built.tokenizer, data.labels, record={"base": built.record})
        rows = len(data.calibration)
        if not rows:
            return classifier, 1.0
        logits = classifier.logits(data.calibration.texts, share=True)
        temperature = scores.fit_temperature(logits, data.calibration.targets, data.labels.multi_label)
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
        thresholds = scores.fit_thresholds(probabilities, data.calibration.targets)
        return replace(classifier, thresholds=tuple(thresholds.tolist())), temperature

    def _scores(
        self, classifier: Classifier, held_out: np.ndarray | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Scores by split, and the probabilities of validation and test; test may be empty.

        Args:
            held_out: validation logits, where the classifier itself has learnt from these rows by now.
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
                    split, rows = split.take(range(SCORED_TRAINING_ROWS)), FirstRows(rows, SCORED_TRAINING_ROWS)
                found[name] = to_probabilities(predict_logits(classifier.model, rows, share=True), data.labels)
            report[name] = {"rows": len(split)} | scores.score(
                split.targets, found[name], data.labels, thresholds=classifier.thresholds, metrics=self.further
            )
        del found["train"]
        return report, found


def _claim(folder: Path, question: dict[str, Any], overwrite: bool) -> bool:
    """Make the folder ours; True when a finished run with the same settings is there.

    Raises:
        RunFolderError: it holds a run with other settings, or something that is no run.
    """
    record = folder / "experiment.json"
    if overwrite and record.exists():
        shutil.rmtree(folder)
    if not record.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(
                f"{folder}: expected a new folder or a run's, found other files: name another output_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return False
    saved = read_json(record)
    known = saved["asked"]
    changed = [name for name in {**known, **question} if known.get(name) != question.get(name)]
    if changed:
        name = changed[0]
        raise RunFolderError(
            f"{folder}: holds a run with {name}={known.get(name)!r}, asked for {name}={question.get(name)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else "")
            + ": name another output_dir, or overwrite"
        )
    if saved["status"] == "finished":
        log.info("%s: finished before, with the same settings; returned as it is", folder)
        return True
    return False


def _judge(data: Data, metric: str | None) -> Callable[[np.ndarray], float]:
    name = scores.known_score(metric or scores.default_metric(data.labels), data.labels)
    sign = 1.0 if scores.higher_is_better(name) else -1.0

    def judge(logits: np.ndarray) -> float:
        probabilities = to_probabilities(logits, data.labels)
        return sign * scores.score(data.validation.targets, probabilities, data.labels, resamples=0)[name]

    return judge


def _cost(
    classifier: Classifier, texts: Sequence[str], seconds: float, examples: int, folder: Path
) -> dict[str, float]:
    parameters = [(p.numel(), p.requires_grad) for p in classifier.model.parameters()]
    return {
        "train_seconds": round(seconds, 3),
        "examples_per_second": round(examples / seconds, 1),
        "trainable_parameters": sum(size for size, learnt in parameters if learnt),
        "total_parameters": sum(size for size, _ in parameters),
        "peak_memory_mb": round(_peak_memory_mb(), 1),
        "texts_per_second": round(_texts_per_second(classifier, texts), 1),
        "size_mb": round(size_mb(folder / "model"), 3),
    }


def _texts_per_second(classifier: Classifier, texts: Sequence[str]) -> float:
    count = 64
    while True:
        some = list(islice(cycle(texts), count))
        started = time.perf_counter()
        classifier.probabilities(some)
        if (spent := time.perf_counter() - started) > SPEED_SECONDS:
            return count / spent
        count *= 4


def _peak_memory_mb() -> float:
    """The most memory this process has held, in MiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    # Bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _write_predictions(path: Path, data: Data, classifier: Classifier, found: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"split": [], "id": [], "true": [], "predicted": [], "probabilities": []}
    for name, probabilities in found.items():
        split: Split = getattr(data, name)
        given = scores.predicted(probabilities, data.labels, classifier.thresholds)
        columns["split"] += [name] * len(split)
        columns["id"] += range(len(split))
        columns["true"] += data.labels.decode(split.targets)
        columns["predicted"] += data.labels.decode(given)
        columns["probabilities"] += probabilities.astype(np.float32).tolist()
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
