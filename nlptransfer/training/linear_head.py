"""A linear head for one task on frozen features: choose its L2 strength, then fit it on all of the task's rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse

from nlptransfer.errors import TrainingError
from nlptransfer.progress import progress_bar
from nlptransfer.training.lbfgs import FTOL, Axes, Features, Head, fit, principal_axes
from nlptransfer.training.losses import LabelLoss
from nlptransfer.training.optimizer import finite_score

L2_STRENGTHS = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths to choose from, strongest first: each is a penalty l2 / (2 * rows) * |W|^2 on standardized features."""
TOWARDS_L2_STRENGTHS = (1e5, 1e4, 1000.0, 100.0, 10.0, 1.0, 0.1)
"""L2 strengths to choose from where the penalty pulls to a source's head: from a copy of it to hardly held."""
NGRAM_SCALES = (1.0, 2.0, 0.5)
"""Scales of n-grams to choose from: the length of a row of them over the usual length of a row of features. It gives
them an L2 strength of their own, l2 / (scale * length)^2."""
NGRAM_STEPS = 5
"""Strengths that are tried with n-grams: that without them, a tenth of it, and so on."""
PATIENCE = 2
"""Weaker strengths that may score worse, one after the other, before the weakest are left out."""
ROUGH = 3e-5
"""FTOL while the losses of many rows are compared."""
NGRAM_FTOL, NGRAM_FTOL_OF_FEW = 1e-4, 1e-5
"""FTOL where there are n-grams, of many and of few rows, while losses are compared and in the end: a head that went on
for longer than those that were compared would be another one. Further steps are many, and change little."""
FOLDS = 5
"""Most folds of cross-validation."""
FEWEST_ROWS = 4
"""Rows from which there is cross-validation."""
FEW_ROWS, FEW_TO_CHOOSE_BY = 1000, 100
"""Fewer labeled rows than the first, with fewer for validation than the second, are all cross-validated instead."""


@dataclass(frozen=True)
class FittedHead:
    """A head, and how its L2 strength was chosen."""

    head: Head
    score: float
    """on held-out rows, at the chosen strength"""
    held_out: np.ndarray
    """(validation rows, labels) logits of a head that was not fitted on these rows"""
    record: Mapping[str, Any]
    of_training: np.ndarray | None = None
    """(training rows, labels) likewise; None where there was no cross-validation"""


@dataclass(frozen=True)
class HeadTask:
    """A linear head to be fitted for a task."""

    criterion: LabelLoss
    train: Features
    validation: Features
    score: Callable[[np.ndarray, np.ndarray], float]
    """(targets, logits) -> score, higher is better"""
    has_bias: bool = True
    seed: int = 0
    """of the folds"""
    by_loss: bool = True
    """whether the loss chooses the strength, which says more of the same rows than a score does; else ``score``"""
    folds_know: bool = False
    """whether altered copies, or an encoder that was trained on them, tell a fold of the training rows it holds out"""
    l2: float | None = None
    """the L2 strength, above 0, where it is not to be chosen"""
    may_drop_ngrams: bool = False
    """whether n-grams get no weight where held-out rows do not gain by them"""
    ftol: float = FTOL
    """FTOL of the head that is fitted in the end, where there are no n-grams"""

    @property
    def has_few_rows(self) -> bool:
        return not self.folds_know and are_few(len(self.train), len(self.validation))

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "HeadTask":
        """Return the same task with a function of its dense features, (rows, width) -> (rows, width)."""
        train, validation = (replace(part, values=function(part.values)) for part in (self.train, self.validation))
        return replace(self, train=train, validation=validation)

    def masked(self, columns: np.ndarray) -> "HeadTask":
        """Return the same task with some features alone, (width + n-grams,) bool; the others are 0."""
        return replace(self, train=self.train.masked(columns), validation=self.validation.masked(columns))

    def choose_l2(
        self, *, towards: Head | None = None, extra: Features | None = None, share: float = 1.0, refit: bool = True
    ) -> FittedHead:
        """Choose the L2 strengths of features and of n-grams on held-out rows, and fit the head with them.

        Few rows are held out in stratified folds, of many the validation rows are. Strengths are fitted from the
        strongest on, each from the last, until they get worse; of equals the strongest is chosen.

        Args:
            towards: a head that the penalty pulls to, in place of 0; it must not have been fitted on these targets.
            extra: rows of another task that are always trained on and never held out, with their weights.
            share: weight of all rows of this task together, where there are extra ones.
            refit: whether the validation rows are trained on in the end; without, they alone choose.

        Raises:
            TrainingError: features that are not all finite, a score that is not, or too few rows to hold any out.
        """
        if self.train.ngrams is not None and towards is None:
            return self._with_fewer_ngrams(extra, share, refit)
        return self._chosen(_Search(self, towards, extra, share, refit))

    def out_of_fold(self, towards: Head | None = None) -> np.ndarray:
        """Return (training and validation rows, labels) logits, of heads that were fitted on the other folds.

        The L2 strength is that of the best metric on all of these rows. ``towards``: see :meth:`choose_l2`.
        """
        tries = _Search(self, towards, None, 1.0, refit=True, crossed=True).alone()
        return max(tries, key=lambda one: one.metric).logits

    def heads_of(
        self,
        parts: Sequence[np.ndarray],
        weights: np.ndarray | None = None,
        starts: Sequence[Head | None] | None = None,
    ) -> list[Head]:
        """Fit a head on each part of the training rows, (rows,) bool, with the L2 strength ``l2``.

        Args:
            weights: (rows,) from 0, besides those that the rows have.
            starts: a head for each part, which may know no other rows; None: zeros.
        """
        rows = self.train if weights is None else replace(self.train, weights=self.train.row_weights() * weights)
        options: Any = {"has_bias": self.has_bias, "axes": self._axes, "ftol": self.ftol}
        each = zip(parts, starts or [None] * len(parts), strict=True)
        return [fit(self.criterion, rows[part], cast(float, self.l2), start=start, **options) for part, start in each]

    @cached_property
    def _axes(self) -> Axes:
        return principal_axes(self.train)

    def _with_fewer_ngrams(self, extra: Features | None, share: float, refit: bool) -> FittedHead:
        """Choose in the space that :func:`_shared_ngrams` spans, and return the weights of all n-grams."""
        whole, width = self.train + self.validation, self.train.width
        basis = _shared_ngrams(cast(sparse.csr_array, (whole if extra is None else whole + extra).ngrams))
        task = replace(self, train=_times(self.train, basis), validation=_times(self.validation, basis))
        extra = None if extra is None else _times(extra, basis)
        fitted = task._chosen(_Search(task, None, extra, share, refit))
        weight, bias = fitted.head
        weight = np.concatenate([weight[:, :width], weight[:, width:] @ basis], axis=1, dtype=np.float32)
        return replace(fitted, head=(weight, bias))

    def _chosen(self, search: "_Search") -> FittedHead:
        tries = search.alone()
        best = max(tries, key=lambda one: one.metric)
        if self.train.ngrams is not None:
            together = search.with_ngrams(best)
            # Of equals the first, that without n-grams.
            best = max([*(tries if self.may_drop_ngrams else ()), *together], key=lambda one: one.metric)
        held_out, score = search.held_out, self.score(search.held_out.targets, best.logits)
        record: dict[str, Any] = {
            "fitted_on": "train+validation" if search.refit else "train",
            "chosen_by": "default" if self.l2 else "cross-validation" if search.crossed else "validation",
            "l2": best.l2,
            "validation_scores": {f"{one.l2:g}": one.metric for one in tries},
            "best_score": score,
        }
        if self.train.ngrams is not None:
            record["ngrams"] = {
                "l2": best.l2 / best.scale**2 if best.scale else None,
                "validation_scores": {f"{one.l2:g}, {one.l2 / one.scale**2:.3g}": one.metric for one in together},
            }
        of_training, of_validation = np.split(best.logits, [len(held_out) - len(self.validation)])
        return FittedHead(search.final(best), score, of_validation, record, of_training if search.crossed else None)

    def _metric(self, targets: np.ndarray, logits: np.ndarray) -> float:
        """Return what the strength is chosen by; higher is better."""
        if not self.by_loss:
            return finite_score(self.score(targets, logits))
        truth = torch.from_numpy(targets)
        losses = self.criterion.row_losses(torch.from_numpy(logits).double(), truth)
        return finite_score(-float(losses.sum() / self.criterion.row_weights(truth).double().sum()))


@dataclass(frozen=True)
class _Try:
    """A strength of L2 and a scale of n-grams, and what they gave."""

    l2: float
    scale: float
    """by which n-grams are multiplied; 0: left out"""
    metric: float
    logits: np.ndarray
    """(held-out rows, labels)"""
    heads: Sequence[Head]
    """of each part of the rows"""


class _Search:
    """Fits heads with some L2 strengths and scales of n-grams, and scores them on held-out rows."""

    def __init__(
        self,
        task: HeadTask,
        towards: Head | None,
        extra: Features | None,
        share: float,
        refit: bool,
        *,
        crossed: bool = False,
    ) -> None:
        self.task, self.towards, self.refit = task, towards, refit
        self.crossed, first = crossed or (refit and task.has_few_rows), len(task.train)
        # Of few rows the head itself starts from these.
        self.rough = crossed or not self.crossed
        self.rows = task.train + task.validation
        # Places of the rows that are trained on, and of those that are held out.
        self.splits: Sequence[tuple[np.ndarray | slice, np.ndarray | slice]] = [(slice(first), slice(first, None))]
        if self.crossed:
            self.splits = _folds(self.rows.targets, task.seed)

        def with_extra(part: Features) -> Features:
            if extra is None:
                return part
            return replace(part, weights=share_weights(task.criterion, part, share)) + extra

        self.parts = [with_extra(self.rows[kept]) for kept, _ in self.splits]
        self.whole = with_extra(self.rows) if refit else self.parts[0]
        self.held_out = self.rows if self.crossed else task.validation
        self.axes = principal_axes(self.whole if self.crossed else self.parts[0])

    def alone(self) -> list[_Try]:
        """Try L2 strengths without n-grams."""
        strengths = L2_STRENGTHS if self.towards is None else TOWARDS_L2_STRENGTHS
        return self._strengths(0.0, strengths, [self.towards] * len(self.parts))

    def _strengths(self, scale: float, strengths: Sequence[float], starts: Sequence[Head | None]) -> list[_Try]:
        """Try L2 strengths, each from the heads of the last one, until they get worse."""
        tries: list[_Try] = []
        worse = 0
        with progress_bar("fitting the last layer", unit="L2 penalties tried") as bar:
            for l2 in (self.task.l2,) if self.task.l2 else strengths:
                best = max((one.metric for one in tries), default=-math.inf)
                tries.append(self.tried(l2, scale, starts))
                bar.advance()
                worse = 0 if tries[-1].metric > best else worse + (tries[-1].metric < best)
                if worse == (1 if self.task.by_loss else PATIENCE):
                    break
                starts = tries[-1].heads
        return tries

    def with_ngrams(self, alone: _Try) -> list[_Try]:
        """Try scales of n-grams: the usual one with strengths from the best without them on, others with the best.

        Where the source's head has weights for n-grams, strengths begin as without n-grams, at a copy of it.
        """
        width = self.rows.width
        usual, *others = (scale * math.sqrt(width) for scale in NGRAM_SCALES)
        if self.towards is not None and self.towards[0][:, width:].any():
            tries = self._strengths(usual, TOWARDS_L2_STRENGTHS, [self.towards] * len(self.parts))
        else:
            tries = self._strengths(usual, [alone.l2 / 10**step for step in range(NGRAM_STEPS)], alone.heads)
        best = max(tries, key=lambda one: one.metric)
        for scale in others:
            tries.append(self.tried(best.l2, scale, best.heads))
            if tries[-1].metric > best.metric:
                break
        return tries

    def tried(self, l2: float, scale: float, starts: Sequence[Head | None]) -> _Try:
        """Fit a head on each part of the rows, and score the rows that it leaves out."""
        parts = zip(self.parts, starts, strict=True)
        heads = [self._fit(part, l2, scale, start, rough=self.rough) for part, start in parts]
        logits = np.empty((len(self.rows), len(self.task.criterion.class_weights)), np.float32)
        for (_, out), head in zip(self.splits, heads, strict=True):
            logits[out] = self.rows[out].logits(head)
        logits = logits[len(self.rows) - len(self.held_out) :]
        return _Try(l2, scale, self.task._metric(self.held_out.targets, logits), logits, heads)

    def final(self, best: _Try) -> Head:
        """Fit on all rows, from the head of the first part on."""
        return self._fit(self.whole, best.l2, best.scale, best.heads[0])

    def _fit(self, part: Features, l2: float, scale: float, start: Head | None, *, rough: bool = False) -> Head:
        """Fit a head of all features; with scale 0 the weights of n-grams are 0."""
        of_ngrams = NGRAM_FTOL_OF_FEW if self.crossed else NGRAM_FTOL
        ftol = of_ngrams if scale else ROUGH if rough else self.task.ftol
        options: Any = {"has_bias": self.task.has_bias, "axes": self.axes, "ftol": ftol}
        if part.ngrams is None:
            return fit(self.task.criterion, part, l2, start=start, towards=self.towards, **options)
        width, count = part.width, part.ngrams.shape[1]

        def scaled(head: Head | None) -> Head | None:
            if head is None:
                return None
            ngrams = head[0][:, width:] / scale if scale else head[0][:, :0]
            return np.concatenate([head[0][:, :width], ngrams], axis=1), head[1]

        part = replace(part, ngrams=part.ngrams * np.float32(scale) if scale else None)
        weight, bias = fit(self.task.criterion, part, l2, start=scaled(start), towards=scaled(self.towards), **options)
        ngrams = weight[:, width:] * scale if scale else np.zeros((len(weight), count), np.float32)
        return np.concatenate([weight[:, :width], ngrams], axis=1, dtype=np.float32), bias


def _shared_ngrams(ngrams: sparse.csr_array) -> sparse.csr_array:
    """Return orthonormal rows, (fewer, n-grams), in whose space the weights of least loss and penalty lie.

    N-grams of one text alone have weights in proportion to their values there: one number for all of these, and most
    n-grams are such.
    """
    counts = np.bincount(ngrams.indices, minlength=ngrams.shape[1])
    shared, entries = np.flatnonzero(counts > 1), ngrams.tocoo()
    alone = counts[entries.col] == 1
    texts, columns, values = entries.row[alone], entries.col[alone], entries.data[alone]
    lengths = np.sqrt(np.bincount(texts, values**2))
    own, places = np.unique(texts, return_inverse=True)
    data = np.concatenate([np.ones(len(shared)), values / lengths[texts]]).astype(np.float32)
    rows = np.concatenate([np.arange(len(shared)), len(shared) + places])
    shape = len(shared) + len(own), ngrams.shape[1]
    return sparse.csr_array((data, (rows, np.concatenate([shared, columns]))), shape=shape)


def _times(rows: Features, basis: sparse.csr_array) -> Features:
    return replace(rows, ngrams=sparse.csr_array(rows.ngrams @ basis.T))


def are_few(train: int, validation: int) -> bool:
    """Whether the validation rows are too few to choose by."""
    return not validation or (validation < FEW_TO_CHOOSE_BY and train + validation < FEW_ROWS)


def share_weights(criterion: LabelLoss, rows: Features, share: float) -> np.ndarray:
    """Scale the rows' weights so that, with those of their classes, they add up to a share; (rows,) float64."""
    weights = rows.row_weights()
    by_class = criterion.row_weights(torch.from_numpy(rows.targets)).double().numpy()
    scaled: np.ndarray = share * weights / (weights * by_class).sum()
    return scaled


def _folds(targets: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import KFold, StratifiedKFold

    rows = len(targets)
    if rows < FEWEST_ROWS:
        raise TrainingError(f"expected {FEWEST_ROWS} rows or more to cross-validate, found {rows}; add labeled rows")
    rarest = 1 if targets.ndim == 2 else int(np.unique(targets, return_counts=True)[1].min())
    if rarest > 1:
        return [*StratifiedKFold(min(FOLDS, rarest), shuffle=True, random_state=seed).split(targets, targets)]
    return [*KFold(min(FOLDS, rows), shuffle=True, random_state=seed).split(targets)]
