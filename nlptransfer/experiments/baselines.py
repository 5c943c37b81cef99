"""Baselines that no route should lose to, and that no seed moves: the majority class, and TF-IDF with scikit-learn."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, Labels, Split
from nlptransfer.evaluation import averages, score_predictions, tally, to_probabilities
from nlptransfer.experiments.environment import cost_of, machine, speeds, versions
from nlptransfer.experiments.scoring import calibrate, score_splits
from nlptransfer.models import tfidf
from nlptransfer.results import DataSummary, Fit, RunResult, begin_run, claim, plain

INVERSE_L2 = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse L2 strengths (scikit-learn's C) that validation chooses among."""
MOST_ITERATIONS = 1000
UNSEEN_LOGIT = -30.0
"""Logit of a label that no training row has, or that all have (with the other sign)."""


@dataclass(frozen=True)
class FittedBaseline:
    probabilities: Callable[[Sequence[str]], np.ndarray]
    """of texts, (texts, labels)"""
    thresholds: tuple[float, ...] | None
    """for several labels a row: the probability from which each is given; None: 0.5"""
    held_out: np.ndarray | None
    """(validation rows, labels) probabilities of a fit without these rows; None where the last is one"""
    parameters: int
    size_mb: float
    fit: Fit


def fit_majority(data: Data) -> FittedBaseline:
    """Give every text the most frequent label; of several labels a row the set with the best micro F1 on train."""
    started = time.perf_counter()
    labels, targets = data.labels, data.train.targets
    shares = targets.mean(axis=0) if labels.multi_label else np.bincount(targets, minlength=labels.num_labels)
    row = (shares / (1 if labels.multi_label else shares.sum())).astype(np.float64)
    thresholds = None
    if labels.multi_label:
        thresholds = (_best_shared_threshold(row, targets.astype(np.int64), labels),) * labels.num_labels
    return FittedBaseline(
        probabilities=lambda texts: np.tile(row, (len(texts), 1)),
        thresholds=thresholds,
        held_out=None,
        parameters=len(row),
        size_mb=row.nbytes / 2**20,
        fit=Fit(time.perf_counter() - started, len(data.train), chosen_by="train"),
    )


def _best_shared_threshold(shares: np.ndarray, targets: np.ndarray, labels: Labels) -> float:
    """Find the share from which labels are given to every row, so that micro F1 on these rows is best."""

    def f1(threshold: float) -> float:
        guesses = np.tile((shares >= threshold).astype(np.int64), (len(targets), 1))
        sums = np.asarray(tally(targets, guesses, labels).sum(axis=0))
        return float(averages(sums, len(targets), labels)["f1_micro"])

    return max(sorted(set(shares.tolist()) - {0.0}, reverse=True), key=f1, default=1.0)


def fit_tfidf(data: Data) -> FittedBaseline:
    """Fit a logistic regression on TF-IDF of words and pairs of them, with the L2 of the least loss on validation."""
    started = time.perf_counter()
    labels, train, validation, calibration = data.labels, data.train, data.validation, data.calibration
    vectorizer = tfidf(train.texts)
    features, validation_features = vectorizer.fit_transform(train.texts), vectorizer.transform(validation.texts)
    logits, losses = {}, {}
    for inverse_l2 in INVERSE_L2:
        logits[inverse_l2] = _Regression.fit(features, train, labels, inverse_l2).logits(validation_features)
        probabilities = to_probabilities(logits[inverse_l2], labels)
        losses[inverse_l2] = score_predictions(validation.targets, probabilities, labels, resamples=0)["loss"]
    inverse_l2 = min(losses, key=lambda one: (losses[one], one))

    vectorizer = tfidf(train.texts)
    features = vectorizer.fit_transform([*train.texts, *validation.texts])
    both = Split.joined([train, validation])
    regression = _Regression.fit(features, both, labels, inverse_l2)
    temperature, thresholds = 1.0, None
    if len(calibration):
        raw = regression.logits(vectorizer.transform(calibration.texts))
        temperature, thresholds = calibrate(raw, calibration, labels)
    parameters, words = regression.weight.size + regression.bias.size, vectorizer.vocabulary_
    return FittedBaseline(
        probabilities=lambda texts: to_probabilities(
            regression.logits(vectorizer.transform(texts)) / temperature, labels
        ),
        thresholds=thresholds,
        held_out=to_probabilities(logits[inverse_l2] / temperature, labels),
        parameters=parameters,
        size_mb=(8 * (parameters + len(words)) + sum(len(word.encode()) for word in words)) / 2**20,
        fit=Fit(
            seconds=time.perf_counter() - started,
            examples=len(INVERSE_L2) * len(train) + len(both),
            chosen_by="validation",
            details={
                "fitted_on": "train+validation",
                "inverse_l2": inverse_l2,
                "validation_losses": {f"{one:g}": loss for one, loss in losses.items()},
                "analyzer": vectorizer.analyzer,
                "ngrams": list(vectorizer.ngram_range),
                "features": len(words),
                "temperature": temperature,
            },
        ),
    )


MAJORITY = "majority"
BASELINES: dict[str, Callable[[Data], FittedBaseline]] = {MAJORITY: fit_majority, "tfidf": fit_tfidf}
"""By name, the cheapest first."""


@dataclass(frozen=True)
class _Regression:
    weight: np.ndarray
    """(labels, features)"""
    bias: np.ndarray

    @classmethod
    def fit(cls, features: sparse.csr_matrix, rows: Split, labels: Labels, inverse_l2: float) -> "_Regression":
        weight, bias = np.zeros((labels.num_labels, features.shape[1])), np.full(labels.num_labels, UNSEEN_LOGIT)
        if not labels.multi_label:
            fitted = _logistic(features, rows.targets, rows.weights, inverse_l2)
            if len(fitted.classes_) == 2:
                # scikit-learn has one row for two classes: the logit of the second, where the first's is 0.
                bias[fitted.classes_] = 0.0, fitted.intercept_[0]
                weight[fitted.classes_[1]] = fitted.coef_[0]
            else:
                weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
            return cls(weight, bias)
        for label, column in enumerate(rows.targets.T):
            if column.all():
                bias[label] = -UNSEEN_LOGIT
            elif column.any():
                fitted = _logistic(features, column, rows.weights, inverse_l2)
                weight[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
        return cls(weight, bias)

    def logits(self, features: sparse.csr_matrix) -> np.ndarray:
        return cast(np.ndarray, np.asarray(features @ self.weight.T) + self.bias)


def _logistic(features: sparse.csr_matrix, targets: np.ndarray, weights: np.ndarray | None, inverse_l2: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Products of sparse rows take one thread, and for the little that is left others would only wait.
    with threadpool_limits(1), warnings.catch_warnings():
        # The weakest strengths can want more steps than they are worth; validation judges what they gave.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=inverse_l2, max_iter=MOST_ITERATIONS).fit(features, targets, weights)


def run_baseline(name: str, data: Data, settings: DataSettings, folder: Path) -> RunResult:
    """Fit a baseline, score and save it; return a finished one as it is. It has no classifier."""
    question = {"fingerprints": data.fingerprints(), "route": name, **plain(asdict(settings))}
    if not claim(folder, question, overwrite=False):
        begin_run(folder, question)
        distributed.on_main(lambda: _fit_and_score(name, data, settings, folder, question).save())
    return RunResult.load(folder)


def _fit_and_score(name: str, data: Data, settings: DataSettings, folder: Path, question: dict[str, Any]) -> RunResult:
    fitted = BASELINES[name](data)

    def probabilities_of(split: str, rows: int) -> np.ndarray:
        if split == "validation" and fitted.held_out is not None:
            return fitted.held_out
        return fitted.probabilities(data.splits[split].texts[:rows])

    scores, predictions = score_splits(data, probabilities_of, fitted.thresholds)
    speed = speeds(fitted.probabilities, data.test.texts or data.validation.texts)
    measured = {**speed, "texts_per_second": speed["texts_per_second_64"], "size_mb": round(fitted.size_mb, 3)}
    return RunResult(
        folder=folder,
        data=DataSummary.of(data),
        settings={"data": asdict(settings), "route": {"name": name}},
        question=question,
        command=f"nlptransfer compare {data.name} --routes {name}",
        base=None,
        scores=scores,
        cost=cost_of(fitted.fit, fitted.parameters, fitted.parameters, **measured),
        training=fitted.fit,
        processes=distributed.world_size(),
        machine=machine(),
        versions=versions(),
        thresholds=fitted.thresholds,
        predictions=predictions,
    )
