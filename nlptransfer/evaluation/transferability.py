"""Score frozen features by how well they explain labels, in closed form: LogME and the H-score, without training."""

import numpy as np

_STEPS, _CLOSE = 1000, 1e-7


def logme(features: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean log evidence of labels, a row of text each, given features: LogME (You et al. 2021).

    A linear model with Gaussian weights and noise explains each label's 0s and 1s; the variances of both are those of
    the most evidence. Higher is better.

    Args:
        features: (rows, width).
        targets: (rows,) label numbers, or (rows, labels) of 0 and 1.
    """
    rows = len(features)
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    left, spread = left[:, singular > singular[0] * 1e-10], singular[singular > singular[0] * 1e-10] ** 2
    evidences = []
    for labels in _columns(targets).T:
        explained = (left.T @ labels) ** 2
        rest = labels @ labels - explained.sum()
        ratio = alpha = beta = 1.0
        for _ in range(_STEPS):
            # Directions that are used, the squared length of the weights, and that of what stays unexplained.
            used = (spread / (spread + ratio)).sum()
            weights = (spread * explained / (spread + ratio) ** 2).sum()
            residual = (explained / (1 + spread / ratio) ** 2).sum() + rest
            alpha, beta, before = used / weights, (rows - used) / residual, ratio
            ratio = alpha / beta
            if abs(ratio - before) <= _CLOSE * before:
                break
        evidence = len(spread) * np.log(alpha) + rows * np.log(beta / (2 * np.pi))
        evidence -= np.log(alpha + beta * spread).sum() + beta * residual + alpha * weights
        evidences.append(evidence / (2 * rows))
    return float(np.mean(evidences))


def h_score(features: np.ndarray, targets: np.ndarray) -> float:
    """Return how far apart the labels' mean features are, against the spread of all: the H-score (Bao et al. 2019).

    The spread is shrunk as Ledoit and Wolf do it, so that more features than rows do not look perfect (Ibrahim et al.
    2021). It lies between 0 and the number of labels less 1, higher is better; of several labels a row it is the mean
    over them. Arguments: see :func:`logme`.
    """
    from sklearn.covariance import ledoit_wolf

    features = features.astype(np.float64)
    covariance, shrinkage = ledoit_wolf(features)
    several = targets.ndim == 2
    scores = []
    for groups in _columns(targets).T if several else [targets]:
        _, places = np.unique(groups, return_inverse=True)
        counts = np.bincount(places)
        means = np.zeros((len(counts), features.shape[1]))
        np.add.at(means, places, features)
        between = np.cov((means / counts[:, None])[places], rowvar=False)
        scores.append((1 - shrinkage) * np.trace(np.linalg.solve(covariance, np.atleast_2d(between))))
    return float(np.mean(scores))


def _columns(targets: np.ndarray) -> np.ndarray:
    """Return (rows, labels) of 0 and 1, without labels that all rows have or none."""
    columns = (
        targets.astype(np.float64) if targets.ndim == 2 else (targets[:, None] == np.unique(targets)).astype(float)
    )
    return columns[:, (columns.min(axis=0) == 0) & (columns.max(axis=0) == 1)]
