"""A linear head for one task on frozen features: choose its L2 strength, then fit it on all of the task's rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from nlptransfer.errors import TrainingError
from nlptransfer.training.lbfgs import FTOL, Features, Head, fit, principal_axes
from nlptransfer.training.losses import LabelLoss
from nlptransfer.training.optimizer import finite_score

L2_STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths to choose from, strongest first: each is a penalty l2 / (2 * rows) * |W|^2 on standardized features."""
TOWARDS_L2_STRENGTHS = (1e5, 1e4, 1000.0, 100.0, 10.0, 1.0, 0.1)
"""L2 strengths to choose from where the penalty pulls to a source's head: from a copy of it to hardly held."""
PATIENCE = 2
"""Weaker strengths that may score worse, one after the other, before the weakest are left out."""
ROUGH = 3e-5
"""FTOL while the losses of many rows are compared."""
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

    @property
    def has_few_rows(self) -> bool:
        return not self.folds_know and are_few(len(self.train), len(self.validation))

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "HeadTask":
        """Return the same task with a function of its features, (rows, width) -> (rows, width)."""
        train, validation = (replace(part, values=function(part.values)) for part in (self.train, self.validation))
        return replace(self, train=train, validation=validation)

    def choose_l2(
        self, *, towards: Head | None = None, extra: Features | None = None, share: float = 1.0, refit: bool = True
    ) -> FittedHead:
        """Choose the L2 strength on held-out rows, and fit the head with it.

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
        crossed, first = refit and self.has_few_rows, len(self.train)
        rows = self.train + self.validation
        # Places of the rows that are trained on, and of those that are held out.
        splits: Sequence[tuple[np.ndarray | slice, np.ndarray | slice]] = [(slice(first), slice(first, None))]
        if crossed:
            splits = _folds(rows.targets, self.seed)

        def with_extra(part: Features) -> Features:
            return part if extra is None else replace(part, weights=share_weights(self.criterion, part, share)) + extra

        parts = [with_extra(rows[kept]) for kept, _ in splits]
        whole = with_extra(rows) if refit else parts[0]
        axes = principal_axes(whole if crossed else parts[0])
        fit_part = partial(fit, self.criterion, towards=towards, has_bias=self.has_bias, axes=axes)

        held_out, ftol = (rows, FTOL) if crossed else (self.validation, ROUGH)
        strengths = L2_STRENGTHS if towards is None else TOWARDS_L2_STRENGTHS
        scores: dict[float, float] = {}
        fitted: dict[float, tuple[np.ndarray, Head]] = {}
        starts: list[Head | None] = [towards] * len(parts)
        worse = 0
        for l2 in (self.l2,) if self.l2 else strengths:
            heads = [fit_part(part, l2, start=start, ftol=ftol) for part, start in zip(parts, starts, strict=True)]
            logits = np.empty((len(rows), len(self.criterion.class_weights)), np.float32)
            for (_, out), (weight, bias) in zip(splits, heads, strict=True):
                logits[out] = rows.values[out] @ weight.T + bias
            logits = logits[len(rows) - len(held_out) :]
            best = max(scores.values(), default=-math.inf)
            scores[l2] = self._metric(held_out.targets, logits)
            fitted[l2] = logits, heads[0]
            worse = 0 if scores[l2] > best else worse + (scores[l2] < best)
            if worse == (1 if self.by_loss else PATIENCE):
                break
            starts = [*heads]
        # Of equals the first.
        l2 = max(scores, key=scores.__getitem__)
        logits, start = fitted[l2]
        score = self.score(held_out.targets, logits)
        record = {
            "fitted_on": "train+validation" if refit else "train",
            "chosen_by": "default" if self.l2 else "cross-validation" if crossed else "validation",
            "l2": l2,
            "validation_scores": {f"{strength:g}": value for strength, value in scores.items()},
            "best_score": score,
        }
        head = fit_part(whole, l2, start=start)
        return FittedHead(head, score, logits[len(held_out) - len(self.validation) :], record)

    def _metric(self, targets: np.ndarray, logits: np.ndarray) -> float:
        """Return what the strength is chosen by; higher is better."""
        if not self.by_loss:
            return finite_score(self.score(targets, logits))
        truth = torch.from_numpy(targets)
        losses = self.criterion.row_losses(torch.from_numpy(logits).double(), truth)
        return finite_score(-float(losses.sum() / self.criterion.row_weights(truth).double().sum()))


def are_few(train: int, validation: int) -> bool:
    """Whether the validation rows are too few to choose by."""
    return validation < FEW_TO_CHOOSE_BY and train + validation < FEW_ROWS


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
