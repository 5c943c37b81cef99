"""A linear head for one task on frozen features: its strength chosen, then solved with all of the task's rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from nlptransfer.training.lbfgs import (
    STRENGTHS,
    TOWARDS_STRENGTHS,
    Head,
    LinearSolution,
    choose_strength,
    cross_validated,
    solve,
)
from nlptransfer.training.losses import LabelLoss

FEW_ROWS, FEW_TO_CHOOSE_BY = 1000, 100
"""Fewer labeled rows than the first, with fewer for validation than the second, are all cross-validated instead."""


@dataclass(frozen=True)
class Features:
    """Rows of features for a linear head, and what they should come out as."""

    values: np.ndarray
    """(rows, width) float32, standardized"""
    targets: np.ndarray
    """(rows,) int64, or (rows, labels) float32"""
    weights: np.ndarray | None = None
    """(rows,) what each row counts besides its class; None: all 1"""

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: "Features") -> "Features":
        """These rows, then the others."""
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([self.row_weights(), other.row_weights()])
        values, targets = np.concatenate([self.values, other.values]), np.concatenate([self.targets, other.targets])
        return Features(values, targets, weights)

    def row_weights(self) -> np.ndarray:
        """(rows,) float64"""
        return np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)


@dataclass(frozen=True)
class Solved:
    """A head, and how it was come by."""

    head: Head
    score: float
    """on rows that it had not seen, at the chosen strength"""
    held_out: np.ndarray
    """(validation rows, labels) logits of a head that has not seen these rows"""
    record: Mapping[str, Any]


@dataclass(frozen=True)
class HeadTask:
    """A linear head to be solved for a task."""

    criterion: LabelLoss
    train: Features
    validation: Features
    score: Callable[[np.ndarray, np.ndarray], float]
    """(targets, logits) -> score, higher is better"""
    has_bias: bool = True
    seed: int = 0
    """of the folds"""
    by_loss: bool = True
    """whether the strength is chosen by the loss, which tells more of the same rows than a score does; else by that"""
    folds_know: bool = False
    """whether a fold that held out a training row would know it all the same: from altered copies of it, or from an
    encoder that has learned from it"""
    strength: float | None = None
    """the L2 strength, above 0, where it is not to be chosen"""

    @property
    def has_few_rows(self) -> bool:
        """Whether choices are made by cross-validation."""
        return not self.folds_know and are_few(len(self.train), len(self.validation))

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "HeadTask":
        """The same task with a function of its features, (rows, width) -> (rows, width)."""
        train, validation = (replace(part, values=function(part.values)) for part in (self.train, self.validation))
        return replace(self, train=train, validation=validation)

    def only(self, columns: np.ndarray) -> "HeadTask":
        """The same task with all other features 0.

        Args:
            columns: (width,) bool
        """
        return self.mapped(lambda values: values * columns)

    def choose(
        self, *, towards: Head | None = None, beside: Features | None = None, share: float = 1.0, refit: bool = True
    ) -> Solved:
        """The L2 strength that scores best on rows held out, and the head that it gives with all rows.

        Args:
            towards: a head that weights are held close to, in place of 0.
            beside: rows of another task that are learned too and never judged; their weights say what each counts.
            share: what the rows of this task count together, where others are beside them.
            refit: whether the validation rows are learned in the end; without, they alone choose.

        Raises:
            TrainingError: features that are not all finite, or too few rows to hold any out.
        """
        folds = refit and self.has_few_rows
        if folds:
            solution, logits, head = self._cross_validated(towards, beside, share)
        else:
            solution, logits, head = self._validated(towards, beside, share, refit)
        best = self.score((self._rows if folds else self.validation).targets, logits)
        record = {
            "solved": "train+validation" if refit else "train",
            "chosen_by": "default" if self.strength else "cross-validation" if folds else "validation",
            "l2_strength": solution.strength,
            "validation_scores": {f"{strength:g}": score for strength, score in solution.scores.items()},
            "best_score": best,
        }
        return Solved(head, best, logits[len(logits) - len(self.validation) :], record)

    @property
    def _rows(self) -> Features:
        return self.train + self.validation

    def _judge(self, targets: np.ndarray, logits: np.ndarray) -> float:
        """What the strength is chosen by, higher is better."""
        if not self.by_loss:
            return self.score(targets, logits)
        truth = torch.from_numpy(targets)
        losses = self.criterion.row_losses(torch.from_numpy(logits).double(), truth)
        return -float(losses.sum() / self.criterion.row_weights(truth).double().sum())

    def _cross_validated(
        self, towards: Head | None, beside: Features | None, share: float
    ) -> tuple[LinearSolution, np.ndarray, Head]:
        own = self._rows
        values = own.values if beside is None else np.concatenate([own.values, beside.values])
        inside, back = _span(values)
        held = None if towards is None else (inside(towards[0]), towards[1])
        found = cross_validated(
            self.criterion,
            inside(own.values),
            own.targets,
            self._judge,
            self._strengths(towards),
            has_bias=self.has_bias,
            towards=held,
            seed=self.seed,
            weights=self._weights(own, share) if beside is not None else own.weights,
            beside=None if beside is None else (inside(beside.values), beside.targets, beside.row_weights()),
        )
        assert found.held_out is not None
        start = (0.0, 0.0) if towards is None or held is None else (towards[0], held[0])
        weight = start[0] + back(found.weight - start[1])
        return found, found.held_out, (weight, found.bias)

    def _validated(
        self, towards: Head | None, beside: Features | None, share: float, refit: bool
    ) -> tuple[LinearSolution, np.ndarray, Head]:
        def logits(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
            return cast(np.ndarray, self.validation.values @ weight.T + bias)

        def score(weight: np.ndarray, bias: np.ndarray) -> float:
            return self._judge(self.validation.targets, logits(weight, bias))

        def rows(own: Features) -> Features:
            return own if beside is None else replace(own, weights=self._weights(own, share)) + beside

        given: dict[str, Any] = {"has_bias": self.has_bias, "towards": towards}
        train = rows(self.train)
        whole = rows(self._rows) if refit else train
        chosen = choose_strength(
            self.criterion,
            train.values,
            train.targets,
            score,
            self._strengths(towards),
            by_loss=self.by_loss,
            weights=train.weights,
            **given,
        )
        head = solve(
            self.criterion, whole.values, whole.targets, chosen.strength, chosen, weights=whole.weights, **given
        )
        return chosen, logits(chosen.weight, chosen.bias), head

    def _strengths(self, towards: Head | None) -> Sequence[float]:
        if self.strength:
            return (self.strength,)
        return STRENGTHS if towards is None else TOWARDS_STRENGTHS

    def _weights(self, own: Features, share: float) -> np.ndarray:
        """(rows,) weights of rows of this task that count ``share`` together."""
        return share_weights(self.criterion, own, share)


def are_few(train: int, validation: int) -> bool:
    """Whether so many rows are too few for the validation rows to choose by."""
    return validation < FEW_TO_CHOOSE_BY and train + validation < FEW_ROWS


def _span(values: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Into coordinates of the space that some rows span, and back: all that can be learned of few rows lies in it."""
    if 2 * len(values) > values.shape[1]:
        return (lambda rows: rows), (lambda rows: rows)
    basis = np.linalg.qr(values.T)[0].astype(np.float32)
    return (lambda rows: rows @ basis), (lambda rows: rows @ basis.T)


def share_weights(criterion: LabelLoss, rows: Features, share: float) -> np.ndarray:
    """(rows,) weights in the proportions of the rows' own, that with those of their classes add up to ``share``."""
    import torch

    by_class = criterion.row_weights(torch.from_numpy(rows.targets)).numpy().astype(np.float64)
    weights = rows.row_weights()
    return cast(np.ndarray, share * weights / (weights * by_class).sum())
