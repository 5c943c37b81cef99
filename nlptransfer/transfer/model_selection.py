"""Choose between models of a target of which no label is known."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import entr, log_softmax

from nlptransfer.data import Labels
from nlptransfer.evaluation import resampled_scores, to_probabilities

log = logging.getLogger("nlptransfer")

LARGE_SHIFT = 0.25
"""Total-variation distance between source and target label distributions above which labels have shifted."""
RESAMPLES, MOST_GROUPS, RIDGE = 200, 1000, 1e-6
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
    """estimated shares of the labels among the texts without labels; see :func:`label_shift`"""
    label_shift: float
    """total variation between these and the shares in the labeled rows"""
    least_label_shift: float = 0.0
    """what that surely is at least, at 95%; see :func:`label_shift`"""

    @classmethod
    def of(
        cls,
        labels: Labels,
        logits: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        unlabeled: np.ndarray,
        further: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> "Evidence":
        """Measure one model by its logits, for labeled rows that it has not learned from and for ``unlabeled`` texts.

        ``weights`` say how much likelier each row is in the target than in the source, (rows,). Which labels the model
        takes for which is counted on ``further`` such rows too, (logits, targets).
        """
        weights = weights / weights.mean()
        losses = weights * row_losses(logits, targets)
        spread = float(weights.var())
        slope = float(np.cov(losses, weights, bias=True)[0, 1]) / spread if spread > 0 else 0.0
        probabilities = to_probabilities(unlabeled, labels)
        answers = _answers(probabilities, labels)
        entropy = float(entr(answers).sum(axis=2).mean())
        highest = np.sort(answers, axis=2)
        if further is not None:
            logits, targets = np.concatenate([logits, further[0]]), np.concatenate([targets, further[1]])
        shares, shift, least_shift = label_shift(labels, logits, targets, unlabeled)
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
            label_shift=shift,
            least_label_shift=least_shift,
        )


def warn_of_shift(evidence: Evidence, names: Sequence[str], *, whatever_shift: bool) -> None:
    """Warn where the labels' proportions surely are others in the target, and whether that stops adaptation."""
    if evidence.least_label_shift > LARGE_SHIFT:
        log.warning(
            "Labels seem to have other shares in the target than in the source: about %.0f%% of its texts, at least "
            "%.0f%%, would need another label to have the same (estimated shares: %s). Aligning the two would give "
            "many the wrong label%s",
            100 * evidence.label_shift,
            100 * evidence.least_label_shift,
            ", ".join(f"{name} {share:.2f}" for name, share in zip(names, evidence.label_shares, strict=True)),
            "" if whatever_shift else "; the model stays as it is (allow_label_shift=true adapts it anyway)",
        )


def choose(evidence: Sequence[Evidence], by: ChooseBy, *, whatever_shift: bool = True) -> int:
    """Return the index of the best of some models; the first is the one that was not adapted, and the first of equals.

    Unless ``whatever_shift``, it is taken too where the labels' proportions surely are others in the target. By
    information the best has the most about the target, of those whose risk is at most a standard error above the first
    one's; else the lowest importance-weighted or deep embedded risk or entropy, or the largest margin.
    """
    plain = evidence[0]
    if plain.least_label_shift > LARGE_SHIFT and not whatever_shift:
        return 0
    if by == "information":
        allowed = [place for place, one in enumerate(evidence) if one.risk <= plain.risk + plain.risk_error]
        return max(allowed, key=lambda place: evidence[place].information)
    if by == "margin":
        return max(range(len(evidence)), key=lambda place: evidence[place].margin)
    lowest = "risk" if by == "importance_weighted" else by
    return min(range(len(evidence)), key=lambda place: float(getattr(evidence[place], lowest)))


def label_shift(
    labels: Labels, logits: np.ndarray, targets: np.ndarray, unlabeled: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Estimate the shares of the labels among texts without labels, (labels,), and how far the rows' are from these.

    Black box shift estimation (Lipton et al. 2018, equation 3) with probabilities in place of predictions, clipped at
    0: exact where texts of one label are alike in both domains; where they are not, it takes a part of that for a shift
    of the labels. The distance is total variation, of several labels that of the one with the largest. The last number
    is the distance less what 95% of bootstrap draws, of rows and texts, are away from the estimate: by the triangle
    inequality a 95% bound.
    """
    known = targets.astype(np.int64)[:, None] if targets.ndim == 1 else targets > 0.5
    guessed, of_texts = (
        _answers(to_probabilities(one.astype(np.float64), labels), labels) for one in (logits, unlabeled)
    )
    questions, answers = guessed.shape[1:]

    def confusions(counts: np.ndarray) -> np.ndarray:
        """Add up the probabilities by true answer, rows counting (draws, rows): (questions, guess, truth, draws)."""
        tables = np.zeros((questions, answers, answers, len(counts)))
        for question, answer in np.ndindex(questions, answers):
            rows = known[:, question] == answer
            tables[question, :, answer] = (counts[:, rows] @ guessed[rows, question]).T
        return tables

    def predictions(counts: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("nqa,dn->qad", of_texts, counts, optimize=True) / counts.sum(axis=1))

    shares, apart = _shares(confusions(np.ones((1, len(guessed)))), predictions(np.ones((1, len(of_texts)))))
    rng = np.random.default_rng(0)
    drawn = _resampled(rng, len(guessed), confusions), _resampled(rng, len(of_texts), predictions)
    distance = float(_distances(apart)[0])
    least = max(0.0, distance - float(np.quantile(_distances(_shares(*drawn)[1] - apart), 0.95)))
    return shares[0, :, 1] if labels.multi_label else shares[0, 0], distance, least


def _resampled(rng: np.random.Generator, rows: int, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Score rows drawn with replacement; of many, random groups are drawn, which vary as much and are drawn faster."""
    groups = min(rows, MOST_GROUPS)
    place = rng.permutation(rows) % groups
    return resampled_scores(rng, np.ones(groups, int), lambda counts: score(counts[:, place]), RESAMPLES, width=rows)


def _answers(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """Return probabilities (rows, questions, answers): several labels are as many questions with two answers."""
    return np.stack([1 - probabilities, probabilities], axis=2) if labels.multi_label else probabilities[:, None]


def _shares(confusion: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve for the shares (draws, questions, answers) that explain those predicted, and subtract those of the rows.

    ``confusion`` is of rows by predicted and true answer, (questions, answers, answers, draws).
    """
    confusion, predictions = np.moveaxis(confusion, -1, 0), np.moveaxis(predictions, -1, 0)
    seen = confusion.sum(axis=-2, keepdims=True)
    # An answer that no row has says nothing of the model's mistakes: take it to be always right there.
    rates = np.where(seen > 0, confusion / np.maximum(seen, 1), np.eye(confusion.shape[-1]))
    known = seen[..., 0, :] / seen.sum(axis=-1)
    residual = predictions - np.einsum("...pt,...t->...p", rates, known)
    # By a trace of ridge, so that answers that the model cannot tell apart keep the proportions of the rows.
    back = np.swapaxes(rates, -1, -2)
    square = back @ rates + RIDGE * np.eye(confusion.shape[-1])
    shares = np.clip(known + np.linalg.solve(square, back @ residual[..., None])[..., 0], 0, None)
    total = shares.sum(axis=-1, keepdims=True)
    shares = np.divide(shares, total, out=np.array(known + 0 * shares), where=total > 0)
    return shares, shares - known


def _distances(apart: np.ndarray) -> np.ndarray:
    """Compute the largest total variation of differences of shares, (draws, questions, answers), over questions."""
    return np.asarray((np.abs(apart).sum(axis=-1) / 2).max(axis=-1))


def row_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the cross-entropy of one label, or the mean over several, (rows,)."""
    logits = logits.astype(np.float64)
    if targets.ndim == 2:
        return np.asarray((np.logaddexp(0, logits) - targets * logits).mean(axis=1))
    return -np.take_along_axis(log_softmax(logits, axis=1), targets[:, None], axis=1)[:, 0]
