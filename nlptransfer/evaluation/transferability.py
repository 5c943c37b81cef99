"""Score frozen features by how well they explain labels, in closed form: LogME and the H-score, without training."""

import numpy as np

_STEPS, _CLOSE, _NOTHING = 1000, 1e-7, 1e-6


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
    across = rows - len(spread)
    evidences = []
    for labels in _columns(targets).T:
        explained = (left.T @ labels) ** 2
        # As many features as rows explain all, whatever the rounding.
        rest = max(labels @ labels - explained.sum(), 0.0) if across else 0.0
        # Variance of the noise over that of the weights; beyond the bounds, one of both is nothing.
        ratio, before, least, most = 1.0, np.inf, _NOTHING * spread.min(), spread.max() / _NOTHING
        for _ in range(_STEPS):
            if abs(ratio - before) <= _CLOSE * before < np.inf:
                break
            # Directions that are used and not, the squared length of the weights, and that of what stays unexplained.
            used, unused = (spread / (spread + ratio)).sum(), (ratio / (spread + ratio)).sum() + across
            weights = (spread * explained / (spread + ratio) ** 2).sum()
            residual = (explained / (1 + spread / ratio) ** 2).sum() + rest
            ratio, before = min(max(used / weights * residual / unused, least), most), ratio
        # The variance of the weights that is likeliest for this ratio.
        variance = ((explained / (spread + ratio)).sum() + rest / ratio) / rows
        evidence = -np.log(spread + ratio).sum() - across * np.log(ratio)
        evidences.append(evidence / (2 * rows) - (np.log(2 * np.pi * variance) + 1) / 2)
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
