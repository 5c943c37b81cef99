"""How alike a source and a target are: representations of the same rows, features of two domains, texts."""

import hashlib
import json
import math
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from nlptransfer.errors import DataError
from nlptransfer.models import RECIPE, cached, sha256

FOLDS = 5
TERMS = 20_000
"""Words and word pairs by which texts are compared, the most frequent ones: all would take ten times as long."""
WEIGHT_RANGE = (0.05, 20.0)
"""Least and largest weight of a source text."""
# A run of letters and digits is a word; in Chinese and Japanese, written without spaces, each sign is.
WORD = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"


def linear_cka(first: ArrayLike, second: ArrayLike) -> float:
    """Compare two representations of the same rows, (rows, width), by centered linear CKA (Kornblith et al. 2019).

    |Y'X|² / (|X'X| |Y'Y|) in Frobenius norms, of centered features X and Y (section 3), whose widths may differ: 1 but
    for rotation, shift and scale, 0 for rows that are all the same. It is biased upwards where rows are few. Different
    numbers of rows, fewer than 2, or numbers that are not finite are a DataError.
    """
    x, y = _matrix(first, "first"), _matrix(second, "second")
    if len(x) != len(y):
        raise DataError(
            f"linear_cka: expected features of the same rows on both sides, found {len(x)} and {len(y)} rows; "
            "give both models the same texts"
        )
    x, y = _centered(x), _centered(y)
    if len(x) < max(x.shape[1], y.shape[1]):
        products = x @ x.T, y @ y.T
        shared = float((products[0] * products[1]).sum())
    else:
        products = x.T @ x, y.T @ y
        shared = float(((y.T @ x) ** 2).sum())
    norms = float(np.linalg.norm(products[0]) * np.linalg.norm(products[1]))
    return min(max(shared / norms, 0.0), 1.0) if norms > 0 else 0.0


def proxy_a_distance(source: ArrayLike, target: ArrayLike, seed: int = 0) -> float:
    """Measure how far apart two domains are, from 0 to 2: 2 (1 - 2 error) of a linear classifier of their rows.

    A stand-in for the A-distance of Ben-David et al. (2007), as Glorot et al. (2011) use it, on (rows, width) features
    by the same model. The error is the mean of both sides' over rows that stratified cross-validation held out.
    Different widths, fewer than 2 rows on a side, or numbers that are not finite are a DataError.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    first, second = _matrix(source, "source"), _matrix(target, "target")
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"proxy_a_distance: expected features of one width on both sides, found {first.shape[1]} and "
            f"{second.shape[1]}; compute both with the same model"
        )
    rows, domains = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    folds = StratifiedKFold(min(FOLDS, len(first), len(second)), shuffle=True, random_state=seed)
    classifier = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
    # On so few rows threads would wait for each other longer than they work.
    with threadpool_limits(1):
        guesses = cross_val_predict(make_pipeline(StandardScaler(), classifier), rows, domains, cv=folds)
    error = 1 - balanced_accuracy_score(domains, guesses)
    return float(np.clip(2 * (1 - 2 * error), 0, 2))


def chance_distance(rows: int) -> float:
    """Return the proxy A-distance that two samples of one domain with ``rows`` rows together rarely exceed.

    An accuracy three standard deviations, each 1 / (2 sqrt(rows)), above 1/2: Lopez-Paz and Oquab 2017, section 3.
    """
    return 3 * 2 / math.sqrt(rows)


def importance_weights(source_texts: Sequence[str], target_texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """Weigh each source text by how much likelier it is among the target's texts than among the source's.

    The ratio of the two densities (covariate shift: Shimodaira 2000) is that of a classifier's probabilities of the
    domains, both weighing the same (Bickel et al. 2009): here a logistic regression on TF-IDF of words and word pairs
    (in Chinese and Japanese, of signs and pairs of signs), fitted for each source text without its own fold.

    The (source rows,) float64 are clipped to ``WEIGHT_RANGE``, then divided by their mean. No texts on a side, or no
    word in any of them, are a DataError.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold

    source, target = list(source_texts), list(target_texts)
    if not source or not target:
        raise DataError(
            "importance_weights: expected texts on both sides, "
            f"found {len(source)} of the source and {len(target)} of the target"
        )
    try:
        vectorizer = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=TERMS)
        features = vectorizer.fit_transform([*source, *target]).tocsr()
    except ValueError as error:  # of an empty vocabulary
        raise DataError(
            "importance_weights: expected words in at least one text, found none; check the text column"
        ) from error
    if len(source) == 1:
        return np.ones(1)
    logarithms, of_target = np.empty(len(source)), np.arange(len(source), len(source) + len(target))
    for learned, held_out in KFold(min(FOLDS, len(source)), shuffle=True, random_state=seed).split(source):
        rows = np.concatenate([learned, of_target])
        classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
        classifier.fit(features[rows], rows >= len(source))
        logarithms[held_out] = classifier.decision_function(features[held_out])
    weights: np.ndarray = np.exp(np.clip(logarithms, *np.log(WEIGHT_RANGE)))
    weights /= weights.mean()
    return weights


def _matrix(values: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
        raise DataError(f"{what}: expected features of shape (rows, width) of at least 2 rows, found {array.shape}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"{what}: expected finite numbers, found {array[row, column]} in row {row}, column {column}")
    return array


def _centered(features: np.ndarray) -> np.ndarray:
    # A constant column less its mean can leave rounding errors behind; less its first row it is exactly 0.
    moved = features - features[0]
    largest = np.abs(moved).max()
    moved = moved / largest if largest > 0 else moved
    centered: np.ndarray = moved - moved.mean(axis=0)
    return centered


def cached_importance_weights(source_texts: Sequence[str], target_texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """Run :func:`importance_weights` through the cache; all processes call this together."""
    sides = [sha256(json.dumps([*texts])) for texts in (source_texts, target_texts)]
    key = {"kind": "odds", "recipe": RECIPE, "scikit-learn": version("scikit-learn"), "seed": seed, "sides": sides}
    return cached(key, lambda: importance_weights(source_texts, target_texts, seed))


def cached_proxy_a_distance(source: np.ndarray, target: np.ndarray) -> float:
    """Run :func:`proxy_a_distance` on features of a frozen model through the cache; all processes call it together."""
    sides = [f"{side.dtype} {side.shape} {hashlib.sha256(side.tobytes()).hexdigest()}" for side in (source, target)]
    key = {"kind": "distance", "recipe": RECIPE, "scikit-learn": version("scikit-learn"), "sides": sides}
    return float(cached(key, lambda: np.array(proxy_a_distance(source, target))))
