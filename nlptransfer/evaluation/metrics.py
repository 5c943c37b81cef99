"""Scores with intervals, as plain numbers and as ``evaluate`` metrics.

``score`` counts each row's outcome once and derives every number from those counts, so that a thousand
bootstrap resamples cost one draw of counts and not a thousand calls of scikit-learn; its numbers are
scikit-learn's with ``zero_division=0``. ``METRICS`` holds the same measures as ``evaluate.Metric`` classes that
need no download.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.special import expit, softmax

from nlptransfer.data import Labels
from nlptransfer.errors import DataError, SettingError, nearest
from nlptransfer.settings import check

_AVERAGED = [f"{rate}_{kind}" for rate in ("f1", "precision", "recall") for kind in ("macro", "micro", "weighted")]
_SINGLE_LABEL = ["accuracy", *_AVERAGED, "mcc", "loss"]
_MULTI_LABEL = ["accuracy", "subset_accuracy", *_AVERAGED, "lrap", "loss"]
# How many drawn counts are held at once (64-bit: 32 MiB).
_BLOCK = 2**22
_IDS = datasets.Value("int32")
_ROWS = datasets.Sequence(_IDS)
_DEFAULTS: Mapping[str, Any] = {"average": "macro", "zero_division": 0}


class LocalMetric(evaluate.Metric):
    """An ``evaluate`` metric over one scikit-learn function, whose other arguments ``compute`` takes too.

    ``predictions`` and ``references`` are label ids (n,), or rows of 0/1 (n, k) for several labels. Rows are kept in
    memory, so that no two processes share a cache file, unless ``num_process`` asks ``evaluate`` to gather through one.
    """

    function = ""
    defaults: Mapping[str, Any] = {}
    takes: tuple[tuple[Any, Any], ...] = ((_IDS, _IDS), (_ROWS, _ROWS))

    def __init__(
        self, config_name: str | None = None, keep_in_memory: bool | None = None, num_process: int = 1, **options: Any
    ) -> None:
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(config_name, keep_in_memory=keep_in_memory, num_process=num_process, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self)),
            citation="",
            inputs_description=inspect.getdoc(LocalMetric),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
            features=[datasets.Features(predictions=given, references=true) for given, true in self.takes],
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        import sklearn.metrics

        function = getattr(sklearn.metrics, self.function)
        return {self.name: _plain(function(references, predictions, **{**self.defaults, **options}))}


class Accuracy(LocalMetric):
    """Share of the rows that are right: the label, or with several labels all of them."""

    function = "accuracy_score"


class SubsetAccuracy(Accuracy):
    """Share of the rows of several labels that have every label right."""

    takes = ((_ROWS, _ROWS),)


class Precision(LocalMetric):
    """Share of the given labels that are right; ``average`` is "macro" (default), "micro", "weighted" or None."""

    function = "precision_score"
    defaults = _DEFAULTS


class Recall(LocalMetric):
    """Share of the true labels that are found; ``average`` is "macro" (default), "micro", "weighted" or None."""

    function = "recall_score"
    defaults = _DEFAULTS


class F1(LocalMetric):
    """Harmonic mean of precision and recall; ``average`` is "macro" (default), "micro", "weighted" or None."""

    function = "f1_score"
    defaults = _DEFAULTS


class MatthewsCorrelation(LocalMetric):
    """Correlation of predicted and true labels (Gorodkin 2004 for more than two); 0 where one of them is constant."""

    function = "matthews_corrcoef"
    takes = ((_IDS, _IDS),)


class LabelRankingAveragePrecision(LocalMetric):
    """The share of true labels among those ranked as high as each true one; ``predictions`` are probabilities."""

    function = "label_ranking_average_precision_score"
    takes = ((datasets.Sequence(datasets.Value("float64")), _ROWS),)


METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "subset_accuracy": SubsetAccuracy,
    "label_ranking_average_precision": LabelRankingAveragePrecision,
}


def load_metric(name: str) -> evaluate.Metric:
    """The local metric of that name, or else what ``evaluate.load`` gives.

    ``evaluate.load`` fetches and runs the script that the hub holds under the name, or runs the one at a path.

    Raises:
        SettingError: neither a local metric nor one that ``evaluate`` can load.
    """
    if name in METRICS:
        return METRICS[name]()
    try:
        return evaluate.load(name, module_type="metric", keep_in_memory=True)
    except Exception as error:  # a fetched script can raise anything
        close = get_close_matches(name, METRICS, n=1)
        raise SettingError(
            f"metric {name!r}: expected one of {', '.join(METRICS)}, or one that evaluate.load finds; "
            f"it said: {' '.join(str(error).split())}" + (f"; did you mean {close[0]!r}?" if close else "")
        ) from error


def default_metric(labels: Labels) -> str:
    """The score that choices are made by: "accuracy", or "f1_micro" with several labels."""
    return "f1_micro" if labels.multi_label else "accuracy"


def known_score(name: str, labels: Labels | None = None) -> str:
    """``name``, if ``score`` gives a number of that name (for ``labels``, or for either kind).

    Raises:
        SettingError: it does not.
    """
    known = [*_SINGLE_LABEL, *_MULTI_LABEL] if labels is None else _MULTI_LABEL if labels.multi_label else _SINGLE_LABEL
    if name not in known:
        raise SettingError(f"unknown score {name!r}: {nearest(name, set(known))}")
    return name


def higher_is_better(metric: str) -> bool:
    """Whether more of a score is better; the loss alone wants less.

    Raises:
        SettingError: ``score`` gives no such number.
    """
    return known_score(metric) != "loss"


def predicted(probabilities: ArrayLike, labels: Labels, thresholds: ArrayLike | None = None) -> np.ndarray:
    """What is predicted: the likeliest label's id, or with several labels each one that reaches its threshold.

    Args:
        probabilities: (n, k), one column a label.
        labels: the k labels.
        thresholds: (k,), for several labels only; .5 for each by default.

    Returns:
        Ids (n,), or 0/1 (n, k), as integers.

    Raises:
        DataError: probabilities of another shape, outside [0, 1] or not finite.
        SettingError: thresholds of another shape, or for single-label data.
    """
    p = _probabilities(probabilities, labels)
    if not labels.multi_label:
        check(thresholds is None, "thresholds", thresholds, "none where each row has one label")
        return p.argmax(axis=1)
    cuts = np.full(p.shape[1], 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    check(cuts.shape == (p.shape[1],), "thresholds", thresholds, f"{p.shape[1]} numbers, one a label")
    return (p >= cuts).astype(np.int64)


def score_predictions(
    targets: ArrayLike,
    probabilities: ArrayLike,
    labels: Labels,
    *,
    thresholds: ArrayLike | None = None,
    metrics: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every score of some predictions, ready for JSON.

    Macro averages are scikit-learn's default: with one label a row, over the labels that occur among targets or
    predictions; with several, over all k. A ratio 0/0 is 0. Losses clip probabilities 2.2e-16 away from 0 and 1, as
    scikit-learn does. Intervals are 95% percentile intervals of the bootstrap over rows (Efron & Tibshirani 1993,
    ch. 13): below some 30 rows they are too narrow, and without any error they have no width.

    Args:
        targets: ids (n,), or 0/1 (n, k) for several labels.
        probabilities: (n, k).
        labels: the k labels.
        thresholds: (k,), for several labels only; .5 for each by default.
        metrics: names of further ``evaluate`` metrics of the predictions (LabelRankingAveragePrecision: of the
            probabilities). Each goes under its name, or ``name_key`` if it gives several numbers; a name that is a
            score already is left as it is, and NaN becomes None.
        resamples: bootstrap resamples; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        One label a row: accuracy; f1, precision and recall, each _macro, _micro and _weighted; mcc; loss (mean negative
        log-likelihood, nats); accuracy_interval and f1_macro_interval [low, high]; per_class {name: {precision,
        recall, f1, support}}. Several: also subset_accuracy (the same as accuracy) and f1_micro_interval, lrap in
        place of mcc, and as loss the mean binary cross-entropy over rows and labels.

    Raises:
        DataError: no rows, or targets or probabilities that do not fit the labels.
        SettingError: thresholds that do not fit; a further metric that cannot be loaded or computed.
    """
    check(resamples >= 0, "resamples", resamples, "0 or more")
    p = _probabilities(probabilities, labels)
    y = checked_targets(targets, p.shape, labels.multi_label)
    guesses = predicted(p, labels, thresholds)
    counts, table = _outcomes(y, guesses, labels)
    sums = counts @ table
    scores = {name: float(value) for name, value in averages(sums, len(y), labels).items()}
    scores |= _ranking_and_loss(p, y)
    result: dict[str, Any] = scores | _intervals(counts, table, labels, resamples, seed)
    result["per_class"] = _per_class(sums, labels)
    for name in metrics:
        if name not in result:
            result |= _further(name, y, guesses, p)
    return result


def tally(targets: np.ndarray, guesses: np.ndarray, labels: Labels) -> sparse.csr_array:
    """What each of n rows adds to the sums that ``averages`` reads, (n, 3k + 1) of 0 and 1.

    For each of k labels whether the row has it and is given it, is given it, has it; at last whether all is right.
    Targets and guesses are ids (n,), or 0/1 (n, k) for several labels, as integers.
    """
    if labels.multi_label:
        actual, given, right = sparse.csr_array(targets), sparse.csr_array(guesses), (targets == guesses).all(axis=1)
    else:
        actual, given = _one_hot(targets, labels.num_labels), _one_hot(guesses, labels.num_labels)
        right = targets == guesses
    columns = [actual.multiply(given), given, actual, sparse.csr_array(right[:, None])]
    return sparse.csr_array(sparse.hstack(columns), dtype=np.float64)


def averages(sums: np.ndarray, rows: int, labels: Labels) -> dict[str, np.ndarray]:
    """The scores of predicted labels by name, (...,): those of ``score`` that need no probabilities.

    ``sums`` are ``tally`` summed over ``rows`` rows, (..., 3k + 1); any leading axis is one of resamples.
    """
    both, given, actual, right = _parts(sums)
    found = {"accuracy": right / rows}
    if labels.multi_label:
        found["subset_accuracy"] = found["accuracy"]
    occurring = np.full(given.shape, True) if labels.multi_label else given + actual > 0
    micro = _rates(both.sum(-1), given.sum(-1), actual.sum(-1))
    for name, rates in _rates(both, given, actual).items():
        found[f"{name}_macro"] = rates.sum(-1) / occurring.sum(-1)
        found[f"{name}_micro"] = micro[name]
        found[f"{name}_weighted"] = _ratio((rates * actual).sum(-1), actual.sum(-1))
    if not labels.multi_label:
        spread = np.sqrt((rows**2 - (given**2).sum(-1)) * (rows**2 - (actual**2).sum(-1)))
        found["mcc"] = _ratio(rows * right - (given * actual).sum(-1), spread)
    return found


def _outcomes(targets: np.ndarray, guesses: np.ndarray, labels: Labels) -> tuple[np.ndarray, sparse.csr_array]:
    """The distinct outcomes of a row: how often each occurs (m,), and what one adds to the totals (m, 3k + 1)."""
    if labels.multi_label:
        # Packed to bits the sort that finds equal rows moves an eighth of the bytes.
        packed = np.packbits(np.hstack([targets, guesses]).astype(bool), axis=1)
        _, first, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
    else:
        _, first, counts = np.unique(targets * labels.num_labels + guesses, return_index=True, return_counts=True)
    return counts, tally(targets[first], guesses[first], labels)


def _one_hot(ids: np.ndarray, k: int) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(ids)), (np.arange(len(ids)), ids)), shape=(len(ids), k))


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    both, given, actual = np.split(sums[..., :-1], 3, axis=-1)
    return both, given, actual, sums[..., -1]


def _rates(both: np.ndarray, given: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    f1 = _ratio(2 * both, given + actual)
    return {"precision": _ratio(both, given), "recall": _ratio(both, actual), "f1": f1}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0)


def _per_class(sums: np.ndarray, labels: Labels) -> dict[str, dict[str, float]]:
    both, given, actual, _ = _parts(sums)
    columns = {**_rates(both, given, actual), "support": actual.astype(int)}
    return {label: {name: column[i].item() for name, column in columns.items()} for i, label in enumerate(labels.names)}


def _ranking_and_loss(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    if y.ndim == 1:
        return {"loss": float(-np.log(_clipped(p[np.arange(len(y)), y])).mean())}
    loss = -np.log(_clipped(np.where(y == 1, p, 1 - p))).mean()
    return {"lrap": float(_ranking_precision(p, y)), "loss": float(loss)}


def _ranking_precision(p: np.ndarray, y: np.ndarray) -> np.floating:
    """Label ranking average precision; scikit-learn's goes row by row in Python, which takes seconds on 10,000 rows."""
    order = np.argsort(-p, axis=1)
    ranked, true = np.take_along_axis(p, order, axis=1), np.take_along_axis(y, order, axis=1)
    # A label ranks as low as the last of those with its score: find that place from the right.
    parted = np.pad(ranked[:, :-1] > ranked[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last = np.where(parted, np.arange(p.shape[1]), p.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(true.cumsum(axis=1), last, axis=1) / (last + 1)
    # A row without a true label has nothing to rank wrongly.
    return np.where(y.any(axis=1), (precision * true).sum(axis=1) / np.maximum(true.sum(axis=1), 1), 1.0).mean()


def _clipped(p: np.ndarray) -> np.ndarray:
    tiny = np.finfo(np.float64).eps
    return np.clip(p, tiny, 1 - tiny)


def _intervals(
    counts: np.ndarray, table: sparse.csr_array, labels: Labels, resamples: int, seed: int
) -> dict[str, list[float]]:
    """95% intervals; drawing how often each outcome occurs is drawing rows with replacement, only faster."""
    if not resamples:
        return {}
    names = ["accuracy", "f1_macro", *(["f1_micro"] if labels.multi_label else [])]
    rows, rng, step = int(counts.sum()), np.random.default_rng(seed), max(1, _BLOCK // max(table.shape))
    drawn = []
    for start in range(0, resamples, step):
        draws = rng.multinomial(rows, counts / rows, size=min(step, resamples - start))
        found = averages(draws @ table, rows, labels)
        drawn.append([found[name] for name in names])
    bounds = np.quantile(np.concatenate(drawn, axis=1), [0.025, 0.975], axis=1).T
    return {f"{name}_interval": bound.tolist() for name, bound in zip(names, bounds, strict=True)}


def _further(name: str, y: np.ndarray, guesses: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    metric = load_metric(name)
    given = p if isinstance(metric, LabelRankingAveragePrecision) else guesses
    try:
        values = metric.compute(predictions=given, references=y)
    except Exception as error:  # a fetched script can raise anything
        reason = " ".join(str(error).split())
        raise SettingError(f"metric {name!r} cannot be computed on these predictions: {reason}") from error
    if len(values) == 1:
        return {name: _plain(next(iter(values.values())))}
    return {key if key == name else f"{name}_{key}": _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    """``value`` as JSON takes it; NaN and infinity, which it does not, become None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checked_matrix(values: ArrayLike, what: str) -> np.ndarray:
    """Numbers (n, k) in float64.

    Raises:
        DataError: another shape, no rows, or numbers that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{what}: expected at least one row and one column a label, found shape {array.shape}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"{what}: expected finite numbers, found {array[row, column]} in row {row}, column {column}")
    return array


def checked_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities (n, k) in float64.

    Raises:
        DataError: another shape, no rows, or values outside [0, 1] or not finite.
    """
    p = checked_matrix(probabilities, "probabilities")
    # Half precision can round a softmax a little above 1.
    if p.min() < 0 or p.max() > 1.001:
        raise DataError(
            f"probabilities: expected numbers in [0, 1], found {p.min():.4g} to {p.max():.4g}; "
            "take the softmax or sigmoid of logits first"
        )
    return p


def _probabilities(probabilities: ArrayLike, labels: Labels) -> np.ndarray:
    p = checked_probabilities(probabilities)
    if p.shape[1] != labels.num_labels:
        raise DataError(f"probabilities: expected {labels.num_labels} columns, one a label, found {p.shape[1]}")
    return p


def checked_targets(targets: ArrayLike, shape: tuple[int, ...], multi_label: bool, what: str = "targets") -> np.ndarray:
    """Targets of n rows and k labels, ``shape`` being (n, k), as integers: ids (n,), or 0/1 (n, k) for several labels.

    Raises:
        DataError: another shape, or values that are no such targets.
    """
    y, expected = np.asarray(targets), shape if multi_label else shape[:1]
    if y.shape != expected:
        raise DataError(f"{what}: expected shape {expected} to go with the predictions, found {y.shape}")
    top = 1 if multi_label else shape[1] - 1
    kind = "0 or 1" if multi_label else f"label ids from 0 to {top}"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{what}: expected {kind}, found values of type {y.dtype}")
    y = y.astype(np.float64)
    wrong = (y < 0) | (y > top) | (y != np.floor(y))
    if wrong.any():
        raise DataError(f"{what}: expected {kind}, found {y[wrong][0]} in row {np.argwhere(wrong)[0][0]}")
    return y.astype(np.int64)


def to_probabilities(logits: np.ndarray, labels: Labels) -> np.ndarray:
    """Logits (rows, labels) -> probabilities: softmax, or a sigmoid for each of several labels."""
    return expit(logits) if labels.multi_label else softmax(logits, axis=1)
