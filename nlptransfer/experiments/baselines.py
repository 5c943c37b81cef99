"""Baselines that no route should lose to: the majority class, and TF-IDF with a logistic regression (scikit-learn)."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, Labels
from nlptransfer.evaluation import averages, fit_temperature, fit_thresholds, score_predictions, tally
from nlptransfer.experiments.environment import machine, peak_memory_mb, speeds, versions
from nlptransfer.experiments.scoring import score_splits
from nlptransfer.results import Cost, DataSummary, Fit, RunResult, begin_run, claim, plain

INVERSE_L2 = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse L2 strengths (scikit-learn's C) that validation chooses among."""
MOST_ITERATIONS = 1000
BLANKS = 0.05
"""Texts of which fewer characters are blanks are cut into characters, not words: Chinese, Japanese, Thai."""
UNSEEN = -30.0
"""Logit of a label that no training row has, or that all have (with the other sign)."""
Probabilities = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline that has learned."""

    probabilities: Probabilities
    """(texts) -> (texts, labels), as a classifier gives them"""
    thresholds: tuple[float, ...] | None
    """with several labels at once: the probability from which each is given; None: 0.5"""
    held_out: np.ndarray | None
    """(validation rows, labels) probabilities of a fit that has not seen these rows; None: the last has not either"""
    parameters: int
    """numbers that were learned"""
    size_mb: float
    """of what it must remember"""
    fit: Fit
    """seconds and rows, and what was chosen"""


class Baseline(ABC):
    """How a baseline is fitted. It draws nothing, so that no seed moves it."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, data: Data) -> FittedBaseline:
        """Learn from train, choose on validation, calibrate on calibration; test is not looked at."""


class Majority(Baseline):
    """The most frequent label for every text; of several labels the set with the best micro F1 on train."""

    name = "majority"

    def fit(self, data: Data) -> FittedBaseline:
        started = time.perf_counter()
        labels, targets = data.labels, data.train.targets
        shares = targets.mean(axis=0) if labels.multi_label else np.bincount(targets, minlength=labels.num_labels)
        row = (shares / (1 if labels.multi_label else shares.sum())).astype(np.float64)
        cut = _best_shared_cut(row, targets.astype(np.int64), labels) if labels.multi_label else None
        fit = Fit(time.perf_counter() - started, len(data.train), chosen_by="train")
        return FittedBaseline(
            lambda texts: np.tile(row, (len(texts), 1)),
            None if cut is None else (cut,) * labels.num_labels,
            None,
            len(row),
            row.nbytes / 2**20,
            fit,
        )


class Tfidf(Baseline):
    """Word pairs and words (characters, where texts have no blanks) by TF-IDF, then a logistic regression.

    Its L2 strength has the least loss on validation; then it is fitted once more with the validation rows.
    """

    name = "tfidf"

    def fit(self, data: Data) -> FittedBaseline:
        from sklearn.feature_extraction.text import TfidfVectorizer

        started = time.perf_counter()
        labels, train, validation = data.labels, data.train, data.validation
        in_words = sum(map(_blanks, train.texts)) >= BLANKS * sum(map(len, train.texts))
        form = {"analyzer": "word", "ngram_range": (1, 2)} if in_words else {"analyzer": "char", "ngram_range": (1, 3)}

        def vectorizer() -> Any:
            # One character is a word too: "I", "5".
            return TfidfVectorizer(**form, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b" if in_words else None)

        own = vectorizer()
        features, held_out = own.fit_transform(train.texts), own.transform(validation.texts)
        losses, found = {}, {}
        for inverse_l2 in INVERSE_L2:
            found[inverse_l2] = _Regression.fit(features, train.targets, labels, inverse_l2).logits(held_out)
            told = score_predictions(validation.targets, _probabilities(found[inverse_l2], labels), labels, resamples=0)
            losses[inverse_l2] = told["loss"]
        inverse_l2 = min(losses, key=lambda one: (losses[one], one))
        every = vectorizer()
        targets = np.concatenate([train.targets, validation.targets])
        regression = _Regression.fit(
            every.fit_transform([*train.texts, *validation.texts]), targets, labels, inverse_l2
        )
        temperature, thresholds = 1.0, None
        if len(data.calibration):
            logits = regression.logits(every.transform(data.calibration.texts))
            temperature = fit_temperature(logits, data.calibration.targets, labels.multi_label)
            if labels.multi_label:
                cuts = fit_thresholds(_probabilities(logits / temperature, labels), data.calibration.targets)
                thresholds = tuple(cuts.tolist())
        words = sum(len(word.encode()) for word in every.vocabulary_)
        numbers = regression.weight.size + regression.bias.size
        return FittedBaseline(
            lambda texts: _probabilities(regression.logits(every.transform(texts)) / temperature, labels),
            thresholds,
            _probabilities(found[inverse_l2] / temperature, labels),
            numbers,
            (8 * (numbers + len(every.vocabulary_)) + words) / 2**20,
            Fit(
                seconds=time.perf_counter() - started,
                examples=len(INVERSE_L2) * len(train) + len(targets),
                chosen_by="validation",
                details={
                    "fitted_on": "train+validation",
                    "inverse_l2": inverse_l2,
                    "validation_losses": {f"{one:g}": loss for one, loss in losses.items()},
                    "analyzer": form["analyzer"],
                    "ngrams": list(cast(tuple[int, int], form["ngram_range"])),
                    "features": len(every.vocabulary_),
                    "temperature": temperature,
                },
            ),
        )


BASELINES: dict[str, type[Baseline]] = {baseline.name: baseline for baseline in (Majority, Tfidf)}
"""The baselines by name, the cheapest first."""


@dataclass(frozen=True)
class _Regression:
    """A linear classifier on sparse features, as arrays."""

    weight: np.ndarray
    """(labels, features)"""
    bias: np.ndarray
    """(labels,)"""

    @classmethod
    def fit(cls, features: sparse.csr_matrix, targets: np.ndarray, labels: Labels, inverse_l2: float) -> "_Regression":
        weight, bias = np.zeros((labels.num_labels, features.shape[1])), np.full(labels.num_labels, UNSEEN)
        if not labels.multi_label:
            fitted = _logistic(features, targets, inverse_l2)
            if len(fitted.classes_) == 2:
                # scikit-learn has one row for two classes: the logit of the second beside the first's 0.
                bias[fitted.classes_] = 0.0, fitted.intercept_[0]
                weight[fitted.classes_[1]] = fitted.coef_[0]
            else:
                weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
            return cls(weight, bias)
        for label, column in enumerate(targets.T):
            if len(set(column.tolist())) == 2:
                fitted = _logistic(features, column, inverse_l2)
                weight[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
            elif column.all():
                bias[label] = -UNSEEN
        return cls(weight, bias)

    def logits(self, features: sparse.csr_matrix) -> np.ndarray:
        """(rows, labels)"""
        return cast(np.ndarray, np.asarray(features @ self.weight.T) + self.bias)


def _logistic(features: sparse.csr_matrix, targets: np.ndarray, inverse_l2: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Products of sparse rows take one thread, and for the little that is left others would only wait.
    with threadpool_limits(1), warnings.catch_warnings():
        # The weakest strengths can want more steps than they are worth; validation judges what they gave.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=inverse_l2, max_iter=MOST_ITERATIONS).fit(features, targets)


def _probabilities(logits: np.ndarray, labels: Labels) -> np.ndarray:
    from scipy.special import expit, softmax

    return cast(np.ndarray, expit(logits) if labels.multi_label else softmax(logits, axis=1))


def _best_shared_cut(shares: np.ndarray, targets: np.ndarray, labels: Labels) -> float:
    """The share from which labels are given to every row, so that micro F1 on these rows is best."""
    cuts = sorted(set(shares.tolist()) - {0.0}, reverse=True)

    def f1(cut: float) -> float:
        guesses = np.tile((shares >= cut).astype(np.int64), (len(targets), 1))
        sums = np.asarray(tally(targets, guesses, labels).sum(axis=0))
        return float(averages(sums, len(targets), labels)["f1_micro"])

    return max(cuts, key=f1, default=1.0)


def _blanks(text: str) -> int:
    return sum(character.isspace() for character in text)


def run_baseline(baseline: Baseline, data: Data, settings: DataSettings, folder: Path) -> RunResult:
    """Fit a baseline, score and save it; return a finished one as it is. It has no classifier."""
    question = {"fingerprints": data.fingerprints(), "route": baseline.name, **plain(asdict(settings))}
    if not claim(folder, question, overwrite=False) and distributed.is_main():
        begin_run(folder, question)
        fitted = baseline.fit(data)
        _scored(fitted, baseline.name, data, settings, folder, question).save()
    distributed.barrier()
    return RunResult.load(folder)


def _scored(
    fitted: FittedBaseline, name: str, data: Data, settings: DataSettings, folder: Path, question: dict[str, Any]
) -> RunResult:
    def probabilities_of(split: str, rows: int) -> np.ndarray:
        if split == "validation" and fitted.held_out is not None:
            return fitted.held_out
        return fitted.probabilities(data.splits[split].texts[:rows])

    scores, predictions = score_splits(data, probabilities_of, fitted.thresholds)
    speed = speeds(fitted.probabilities, data.test.texts or data.validation.texts)
    seconds = fitted.fit.seconds
    return RunResult(
        folder=folder,
        data=DataSummary.of(data),
        settings={"data": asdict(settings), "route": {"name": name}},
        question=question,
        command=f"nlptransfer compare {data.name} --routes {name}",
        base=None,
        scores=scores,
        cost=Cost(
            train_seconds=round(seconds, 3),
            examples_per_second=round(fitted.fit.examples / max(seconds, 1e-9), 1),
            trainable_parameters=fitted.parameters,
            total_parameters=fitted.parameters,
            peak_memory_mb=round(peak_memory_mb(), 1),
            size_mb=round(fitted.size_mb, 3),
            texts_per_second=speed["texts_per_second_64"],
            **speed,
        ),
        training=fitted.fit,
        processes=distributed.world_size(),
        machine=machine(),
        versions=versions(),
        thresholds=fitted.thresholds,
        predictions=predictions,
    )
