"""Which labels are likely wrong, by probabilities of models that have not learned from them: confident learning.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70); numbers are
of its equations. Probabilities are (n, k), targets label ids (n,): the labels as they are given. Several labels a row
are as many questions of two labels each.
"""

import numpy as np


def margins(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of the given label less that of the best other one, and which that is, each (n,).

    Scores (n, k) are probabilities or their logarithms.
    """
    rows = np.arange(len(targets))
    others = scores.copy()
    others[rows, targets] = -np.inf
    other = others.argmax(axis=1)
    return scores[rows, targets] - scores[rows, other], other


def class_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each label's mean probability over the rows that have it, (k,); infinity where none has (eq. 2)."""
    counts = np.bincount(targets, minlength=probabilities.shape[1])
    sums = np.bincount(targets, probabilities[np.arange(len(targets)), targets], len(counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_joint(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Count rows by their given label and by the likeliest one that reaches its threshold, (k, k) (eq. 1).

    Rows none of whose labels does are not counted; of each label one row at least counts as right.
    """
    k = probabilities.shape[1]
    reached = probabilities >= class_thresholds(probabilities, targets)
    is_counted = reached.any(axis=1)
    true = np.where(reached, probabilities, -1).argmax(axis=1)
    joint = np.bincount((targets * k + true)[is_counted], minlength=k * k).reshape(k, k)
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    return joint


def estimated_joint(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Estimate how many rows have which given and which true label, (k, k) float64, all rows being counted (eq. 3)."""
    joint = confident_joint(probabilities, targets).astype(np.float64)
    counts = np.bincount(targets, minlength=len(joint))
    joint *= (counts / joint.sum(axis=1))[:, None]
    return joint


def likely_errors(joint: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Tell which labels are likely wrong, (n,): prune by class (section 3.2 of the paper).

    Of the rows of each label those of the least margin are named, as many as the joint has of this label in place of
    any other one, see :func:`estimated_joint`; but no row whose own label has the best score. Scores (n, k) are
    probabilities or their logarithms.
    """
    margin, _ = margins(scores, targets)
    named = np.zeros(len(targets), bool)
    # Rounded once a label: of many labels, most pairs have less than half a row.
    counts = np.round(joint.sum(axis=1) - joint.diagonal()).astype(np.int64)
    for label, count in enumerate(counts):
        rows = np.flatnonzero(targets == label)
        named[rows[np.argsort(margin[rows], kind="stable")[:count]]] = True
    return named & (margin < 0)
