"""Choose between models of a target of which no label is known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy.special import entr, log_softmax

from nlptransfer.data import Labels
from nlptransfer.evaluation import to_probabilities

log = logging.getLogger("nlptransfer")

LARGE_SHIFT = 0.25
"""Total-variation distance between source and estimated target label distributions above which labels have shifted."""
ChooseBy = Literal["information", "importance_weighted", "deep_embedded", "entropy", "margin"]


@dataclass(frozen=True)
class Evidence:
    """Measures of a model that need no label of the target."""

    risk: float
    """mean importance-weighted loss of labeled rows that it has not learned from (Sugiyama et al. 2007)"""
    risk_error: float
    """its standard error; at least what one row that loses a nat more would move it by"""
    deep_embedded: float
    """the risk with the weights as a control variate (Deep Embedded Validation, You et al. 2019, equation 8)"""
    entropy: float
    """mean entropy of the predictions for texts without labels, in nats"""
    margin: float
    """mean difference of their two highest probabilities"""
    information: float
    """entropy of their mean prediction less their mean entropy (Bridle et al. 1991)"""
    label_shares: tuple[float, ...]
    """estimated shares of the labels among the texts without labels; see :func:`label_shares`"""
    label_shift: float
    """total variation between these and the shares in the labeled rows"""

    @classmethod
    def of(
        cls, labels: Labels, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, unlabeled: np.ndarray
    ) -> "Evidence":
        """Measure one model by its logits, for labeled rows that it has not learned from and for ``unlabeled`` texts.

        ``weights`` say how much likelier each row is in the target than in the source, (rows,).
        """
        weights = weights / weights.mean()
        losses = weights * row_losses(logits, targets)
        spread = float(weights.var())
        slope = float(np.cov(losses, weights, bias=True)[0, 1]) / spread if spread > 0 else 0.0
        probabilities = to_probabilities(unlabeled, labels)
        # (texts, questions, answers): several labels are as many questions with two answers.
        answers = np.stack([1 - probabilities, probabilities], axis=2) if labels.multi_label else probabilities[:, None]
        entropy = float(entr(answers).sum(axis=2).mean())
        highest = np.sort(answers, axis=2)
        shares = label_shares(labels, logits, targets, unlabeled)
        known = targets if labels.multi_label else np.eye(labels.num_labels)[targets]
        apart = np.abs(shares - known.mean(axis=0))
        return cls(
            risk=float(losses.mean()),
            # Where a model is sure and right throughout, the spread of a few losses says too little.
            risk_error=max(float(losses.std()) / len(losses) ** 0.5, 1 / len(losses)),
            # The weights have mean 1 here, as they have in the long run.
            deep_embedded=float((losses - slope * (weights - 1)).mean()),
            entropy=entropy,
            margin=float((highest[..., -1] - highest[..., -2]).mean()),
            information=float(entr(answers.mean(axis=0)).sum(axis=1).mean()) - entropy,
            label_shares=tuple(shares.tolist()),
            label_shift=float(apart.max() if labels.multi_label else apart.sum() / 2),
        )


def warn_of_shift(evidence: Evidence, names: Sequence[str], *, whatever_shift: bool) -> None:
    """Warn where the labels' proportions seem to be others in the target, and whether that stops adaptation."""
    if evidence.label_shift > LARGE_SHIFT:
        log.warning(
            "the labels seem to be shared out otherwise among the target's texts: %.0f%% of them would have to be "
            "others (estimated: %s). To align the domains would give many the wrong label%s",
            100 * evidence.label_shift,
            ", ".join(f"{name} {share:.2f}" for name, share in zip(names, evidence.label_shares, strict=True)),
            "" if whatever_shift else "; the model stays as it is (allow_label_shift=true adapts it anyway)",
        )


def choose(evidence: Sequence[Evidence], by: ChooseBy, *, whatever_shift: bool = True) -> int:
    """Return the index of the best of some models; the first is the one that was not adapted, and the first of equals.

    Unless ``whatever_shift``, it is taken too where the labels' proportions seem to be others in the target. By
    information the best has the most about the target, of those whose risk is at most a standard error above the first
    one's; else the lowest importance-weighted or deep embedded risk or entropy, or the largest margin.
    """
    plain = evidence[0]
    if plain.label_shift > LARGE_SHIFT and not whatever_shift:
        return 0
    if by == "information":
        allowed = [place for place, one in enumerate(evidence) if one.risk <= plain.risk + plain.risk_error]
        return max(allowed, key=lambda place: evidence[place].information)
    if by == "margin":
        return max(range(len(evidence)), key=lambda place: evidence[place].margin)
    lowest = "risk" if by == "importance_weighted" else by
    return min(range(len(evidence)), key=lambda place: float(getattr(evidence[place], lowest)))


def label_shares(labels: Labels, logits: np.ndarray, targets: np.ndarray, unlabeled: np.ndarray) -> np.ndarray:
    """Estimate the shares of the labels among texts without labels, (labels,).

    Black box shift estimation (Lipton et al. 2018, equation 3), clipped at 0: exact where texts of one label are alike
    in both domains; where they are not, it takes a part of that for a shift of the labels.
    """
    if labels.multi_label:
        predicted, truth = (logits > 0), (targets > 0.5)
        hits = (predicted & truth).sum(axis=0) / np.maximum(truth.sum(axis=0), 1)
        slips = (predicted & ~truth).sum(axis=0) / np.maximum((~truth).sum(axis=0), 1)
        apart = np.where(np.abs(hits - slips) > 1e-6, hits - slips, 1.0)
        return cast(np.ndarray, np.clip(((unlabeled > 0).mean(axis=0) - slips) / apart, 0, 1))
    count = labels.num_labels
    confusion = np.zeros((count, count))
    np.add.at(confusion, (logits.argmax(axis=1), targets), 1)
    # A label that no row has says nothing of the model's mistakes: take it to be always right there.
    seen = confusion.sum(axis=0)
    confusion = np.where(seen > 0, confusion / np.maximum(seen, 1), np.eye(count))
    predictions = np.bincount(unlabeled.argmax(axis=1), minlength=count) / len(unlabeled)
    shares: np.ndarray = np.clip(np.linalg.lstsq(confusion, predictions, rcond=None)[0], 0, None)
    return shares / shares.sum() if shares.sum() > 0 else predictions


def row_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the cross-entropy of one label, or the mean over several, (rows,)."""
    logits = logits.astype(np.float64)
    if targets.ndim == 2:
        return cast(np.ndarray, (np.logaddexp(0, logits) - targets * logits).mean(axis=1))
    return -np.take_along_axis(log_softmax(logits, axis=1), targets[:, None], axis=1)[:, 0]
