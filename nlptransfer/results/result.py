"""The result of a run: its settings, scores, cost, predictions and classifier. It knows no file names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nlptransfer.classifier import Classifier
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.evaluation import default_metric, higher_is_better, metric_name
from nlptransfer.files import named_path
from nlptransfer.results import records
from nlptransfer.results.predictions import Predictions
from nlptransfer.results.summaries import Baseline, Cost, DataSummary, Fit, TransferSummary, Verdict
from nlptransfer.results.tables import INTERVAL, Shown, Table, flat
from nlptransfer.transfer import Copy

_SCORES = {
    "route": ["{route}"],
    ">{metric} (95%)": ["{score:.3f}", INTERVAL],
    ">training (s)": ["{train_seconds:,.1f}"],
    ">texts/s": ["{texts_per_second:,.0f}"],
    ">size (MB)": ["{size_mb:,.1f}"],
}


@dataclass(frozen=True, eq=False, repr=False)
class RunResult(Shown):
    """A finished run, just made or loaded from its folder."""

    folder: Path
    data: DataSummary
    settings: Mapping[str, Mapping[str, Any]]
    """as resolved: data, route, training, augment; of a transfer also stages, the training settings by stage"""
    question: Mapping[str, Any]
    """as asked for: what a repeated call is compared with"""
    command: str
    """that asks for it, with names in place of paths"""
    base: Mapping[str, Any] | None
    """kind, name and revision of what the route started from; None for a baseline"""
    scores: Mapping[str, Mapping[str, Any]]
    """by split: scores with intervals, per_class, rows"""
    cost: Cost
    training: Fit
    """of the last stage, with the seconds and examples of all"""
    processes: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    """of Python and the packages that decide what comes out"""
    transfer: TransferSummary | None = None
    """None without a source and without a further stage"""
    verdict: Verdict | None = None
    """whether the source helped; None where that was not measured"""
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    """majority and tfidf; none without test rows, or where none was asked for"""
    calibration: Mapping[str, Any] | None = None
    """rows and temperature, where probabilities were calibrated"""
    thresholds: tuple[float, ...] | None = None
    """for several labels a row: the probability from which each is given; None: 0.5"""
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    """of validation and test"""
    repeat: str = ""
    """the same command with paths as they were passed; empty where data were passed that are no file"""
    live: Classifier | None = None
    """the classifier in memory, where the run was just made"""

    @classmethod
    def load(cls, folder: str | Path) -> "RunResult":
        """Read a finished run from its folder; a RunFolderError where there is none."""
        return records.read_run(cls, named_path(folder))

    def save(self) -> None:
        """Write all but the classifier into the folder."""
        records.write_run(self)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Scores on the test split; a DataError where the data had none."""
        if "test" not in self.scores:
            raise DataError(
                f"{self.folder}: expected scores on test, found none, as the data had no test rows: see .scores"
            )
        return self.scores["test"]

    @property
    def metric(self) -> str:
        """Name the score that choices were made by."""
        named = self.settings.get("training", {}).get("metric_for_best_model")
        return named or default_metric(self.data.labels)

    @property
    def shown(self) -> Table:
        """The table of its score on test, or else on validation, and those of the baselines."""
        split = "test" if "test" in self.scores else "validation"
        route = self.settings["route"]["name"] + (f" {self.transfer.name}" if self.transfer is not None else "")
        rows = [{"route": route, **self._score(self.scores.get(split, {})), **vars(self.cost)}]
        for name, one in self.baselines.items():
            rows.append({"route": f"baseline: {name}", **self._score(one.scores), "train_seconds": one.seconds})
        return Table(rows, _SCORES, f"{split} {metric_name(self.metric)}")

    def _score(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        return flat({"score": scores.get(self.metric), "interval": scores.get(f"{self.metric}_interval")})

    @property
    def stages(self) -> Mapping[str, Fit]:
        """The fit of each stage of a transfer, by name."""
        return self.transfer.stages if self.transfer is not None else {}

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier; a RunFolderError where it was not saved, and the run was not just made."""
        if self.live is not None:
            return self.live
        if not self.has_model:
            raise RunFolderError(f"{self.folder}: expected a saved model, found none: run it anew with save_model=True")
        return Classifier.load(self.model_folder)

    @property
    def model_folder(self) -> Path:
        """Where the classifier is saved, if it is."""
        return self.folder / records.MODEL

    @property
    def has_model(self) -> bool:
        return self.model_folder.is_dir()

    def without_model(self) -> "RunResult":
        """Return the same result without the classifier in memory."""
        return replace(self, live=None)

    def drop_model(self) -> None:
        records.remove(self.model_folder)

    def validation_score(self, metric: str) -> float:
        """Return the score on target rows that the run has not learned from, without test."""
        if self.transfer is not None and self.transfer.name == Copy.name:
            # It has learned from none of them.
            splits = [self.scores[name] for name in ("train", "validation") if name in self.scores]
            return float(sum(one["rows"] * one[metric] for one in splits) / sum(one["rows"] for one in splits))
        if self.training.chosen_by == "cross-validation" and self.training.best_score is not None:
            # As it was chosen by: the more the better.
            return self.training.best_score if higher_is_better(metric) else -self.training.best_score
        return float(self.scores["validation"][metric])
