"""Baselines that no route should lose to, and that no seed moves: the majority class, and TF-IDF with scikit-learn."""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, Labels, Split
from nlptransfer.evaluation import averages, score_predictions, tally, to_probabilities
from nlptransfer.experiments.environment import cost_of, machine, speeds, versions
from nlptransfer.experiments.sampling import some_rows
from nlptransfer.experiments.scoring import calibrate, score_splits
from nlptransfer.models import tfidf
from nlptransfer.results import Baseline, DataSummary, Fit, RunResult, begin_run, claim, plain

log = logging.getLogger("nlptransfer")

INVERSE_L2 = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse L2 strengths (scikit-learn's C) that validation chooses among."""
MOST_ITERATIONS = 1000
QUICK_INVERSE_L2, QUICK_ITERATIONS = 10.0, 10
"""Those of a fit in a second or two, as good as others on validation rows of English and Chinese data."""
QUICK_ROWS, QUICK_CHARACTERS = 20_000, 2000
"""Most rows of a split, and characters of a text, that such a fit reads."""
QUICK_BYTES, QUICK_BYTES_OF_LABELS = 500_000, 10_000_000
"""Most bytes of all texts of a split that it reads, also times the number of labels, each of which is fitted."""
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


def fit_tfidf(
    data: Data, inverse_l2s: Sequence[float] = INVERSE_L2, most_iterations: int = MOST_ITERATIONS
) -> FittedBaseline:
    """Fit a logistic regression for each label on TF-IDF of words and pairs of them.

    Its L2 is that of the least loss on validation, where there are several to choose from.
    """
    started = time.perf_counter()
    labels, train, validation, calibration = data.labels, data.train, data.validation, data.calibration
    logits, losses = {}, {}
    if len(inverse_l2s) > 1:
        vectorizer = tfidf(train.texts)
        features, validation_features = vectorizer.fit_transform(train.texts), vectorizer.transform(validation.texts)
        for inverse_l2 in inverse_l2s:
            fitted = _Regression.fit(features, train, labels, inverse_l2, most_iterations)
            logits[inverse_l2] = fitted.logits(validation_features)
            probabilities = to_probabilities(logits[inverse_l2], labels)
            losses[inverse_l2] = score_predictions(validation.targets, probabilities, labels, resamples=0)["loss"]
    inverse_l2 = min(inverse_l2s, key=lambda one: (losses.get(one, 0.0), one))

    vectorizer = tfidf(train.texts)
    features = vectorizer.fit_transform([*train.texts, *validation.texts])
    both = Split.joined([train, validation])
    regression = _Regression.fit(features, both, labels, inverse_l2, most_iterations)
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
        held_out=to_probabilities(logits[inverse_l2] / temperature, labels) if logits else None,
        parameters=parameters,
        size_mb=(8 * (parameters + len(words)) + sum(len(word.encode()) for word in words)) / 2**20,
        fit=Fit(
            seconds=time.perf_counter() - started,
            examples=len(losses) * len(train) + len(both),
            chosen_by="validation" if losses else None,
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


MAJORITY, TFIDF = "majority", "tfidf"
BASELINES: dict[str, Callable[[Data], FittedBaseline]] = {MAJORITY: fit_majority, TFIDF: fit_tfidf}
"""By name, the cheapest first."""


@dataclass(frozen=True)
class _Regression:
    weight: np.ndarray
    """(labels, features)"""
    bias: np.ndarray

    @classmethod
    def fit(
        cls, features: sparse.csr_matrix, rows: Split, labels: Labels, inverse_l2: float, most_iterations: int
    ) -> "_Regression":
        weight, bias = np.zeros((labels.num_labels, features.shape[1])), np.full(labels.num_labels, UNSEEN_LOGIT)
        known = np.arange(labels.num_labels) if labels.multi_label else np.unique(rows.targets)
        if not labels.multi_label and len(known) == 2:
            # Where the first's logit is 0, the second's is enough.
            bias[known[0]], known = 0.0, known[1:]
        for label in known:
            column = rows.targets[:, label] if labels.multi_label else rows.targets == label
            if column.all():
                bias[label] = -UNSEEN_LOGIT
            elif column.any():
                fitted = _logistic(features, column, rows.weights, inverse_l2, most_iterations)
                weight[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
        return cls(weight, bias)

    def logits(self, features: sparse.csr_matrix) -> np.ndarray:
        return cast(np.ndarray, np.asarray(features @ self.weight.T) + self.bias)


def _logistic(
    features: sparse.csr_matrix,
    targets: np.ndarray,
    weights: np.ndarray | None,
    inverse_l2: float,
    most_iterations: int,
) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Products of sparse rows take one thread, and for the little that is left others would only wait.
    with threadpool_limits(1), warnings.catch_warnings():
        # The weakest strengths can want more steps than they are worth; validation judges what they gave.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Of few rows with many features each, this solver takes a tenth of the time of the others.
        solver: dict[str, Any] = {"solver": "liblinear", "dual": True, "random_state": 0}
        return LogisticRegression(C=inverse_l2, max_iter=most_iterations, **solver).fit(features, targets, weights)


def quick_baselines(data: Data) -> dict[str, Baseline]:
    """Score each baseline on test, in a second or two: of many rows some, and of long texts the beginning."""
    if not len(data.train) or not len(data.test):
        return {}
    most = min(QUICK_BYTES, QUICK_BYTES_OF_LABELS // data.labels.num_labels)
    train, test = _quick_rows(data.train, most), _quick_rows(data.test, QUICK_BYTES)
    few = replace(data, train=train, validation=data.validation.take([]), test=test)
    few = replace(few, calibration=_quick_rows(data.calibration, QUICK_BYTES)) if len(data.calibration) else few
    quick = partial(fit_tfidf, inverse_l2s=(QUICK_INVERSE_L2,), most_iterations=QUICK_ITERATIONS)
    is_sample = len(train) < len(data.train) or len(test) < len(data.test)
    found, fits = dict[str, Baseline](), BASELINES | {TFIDF: quick}
    for name, fit in fits.items():
        try:
            fitted = fit(few)
        except ValueError as error:  # scikit-learn calls a vocabulary without words an error
            log.info("no baseline %s: %s", name, error)
            continue
        probabilities = fitted.probabilities(test.texts)
        scores = score_predictions(test.targets, probabilities, data.labels, thresholds=fitted.thresholds)
        seconds = round(fitted.fit.seconds, 3)
        found[name] = Baseline({"rows": len(test)} | scores, seconds, len(train), is_sample)
    return found


def _quick_rows(split: Split, most_bytes: int) -> Split:
    few = some_rows(split, QUICK_ROWS)
    few = replace(few, texts=[text[:QUICK_CHARACTERS] for text in few.texts])
    size = sum(len(text.encode()) for text in few.texts)
    return few if size <= most_bytes else some_rows(few, max(1, len(few) * most_bytes // size))


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
