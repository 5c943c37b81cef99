"""Scores of predictions with intervals, as plain numbers.

``score_predictions`` counts each distinct outcome of a row once and derives every number from those counts, so that a
thousand resamples cost one draw of counts and not a thousand calls of scikit-learn; its numbers are scikit-learn's with
``zero_division=0``. Targets and predictions are label ids (n,), or 0/1 (n, k) for several labels; probabilities are
(n, k). This file does not know models or files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import sparse

from nlptransfer.data import Labels
from nlptransfer.errors import SettingError, abridged, nearest
from nlptransfer.evaluation.bootstrap import percentile_interval, resampled_scores
from nlptransfer.evaluation.inputs import checked_rows, predicted
from nlptransfer.settings import check

_AVERAGED = [f"{rate}_{kind}" for rate in ("f1", "precision", "recall") for kind in ("macro", "micro", "weighted")]
_SINGLE_LABEL = ["accuracy", *_AVERAGED, "mcc"]
_ON_A_SCALE = ["mae", "quadratic_kappa"]
_MULTI_LABEL = ["accuracy", "subset_accuracy", *_AVERAGED]
_OF_PROBABILITIES = ["lrap", "loss"]
SCORE_NAMES = {
    "accuracy": "accuracy",
    "mae": "mean absolute error",
    "quadratic_kappa": "quadratic kappa",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "mcc": "Matthews correlation",
    "lrap": "label ranking average precision",
    "loss": "loss",
}
"""Scores in words, in the order in which a report lists them."""
FEW_ROWS = 10
"""A label with fewer rows has more say in what is expected of such labels."""


def metric_name(metric: str) -> str:
    """Return the name of a score in words."""
    rate, _, mean = metric.partition("_")
    if mean in ("macro", "micro", "weighted"):
        return f"{mean} {rate.replace('f1', 'F1')}"
    return SCORE_NAMES.get(metric, metric.replace("_", " "))


def default_metric(labels: Labels) -> str:
    """Name the score that choices are made by: "accuracy", or "f1_micro" with several labels."""
    return "f1_micro" if labels.multi_label else "accuracy"


def known_score(name: str, labels: Labels | None = None) -> str:
    """Return ``name``, or raise a SettingError if ``score_predictions`` gives no such number (for ``labels``)."""
    one, several = {*_SINGLE_LABEL, *_ON_A_SCALE, "loss"}, {*_MULTI_LABEL, *_OF_PROBABILITIES}
    known = one | several if labels is None else several if labels.multi_label else one
    if name in _ON_A_SCALE and labels is not None and labels.scale is None:
        raise SettingError(
            f"score {name!r}: expected one label a row that is a whole number in a row of them, as stars from 1 to 5, "
            f"found {'several labels a row' if labels.multi_label else abridged([*map(repr, labels.names)], 5)}"
        )
    if name not in known:
        raise SettingError(f"unknown score {name!r}: {nearest(name, known)}")
    return name


def measure(metric: str, labels: Labels) -> str:
    """Return ``metric``, or raise a SettingError if predicted labels alone have no such score."""
    if known_score(metric, labels) in _OF_PROBABILITIES:
        choices = _MULTI_LABEL if labels.multi_label else [*_SINGLE_LABEL, *(_ON_A_SCALE if labels.scale else [])]
        raise SettingError(
            f"metric={metric!r}: expected a score of predicted labels, found one that needs probabilities; "
            f"choose one of {', '.join(choices)}"
        )
    return metric


def higher_is_better(metric: str) -> bool:
    """Say whether more of a score is better; an unknown score is a SettingError."""
    return known_score(metric) not in ("loss", "mae")


def score_range(metric: str, labels: Labels) -> tuple[float, float]:
    """Return the least and the largest value that a score of predicted labels can have."""
    if metric == "mae":
        return 0.0, float(np.ptp(labels.scale or (0,)))
    return (-1.0 if metric in ("mcc", "quadratic_kappa") else 0.0), 1.0


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
    """Compute every score of some predictions, ready for JSON.

    Macro averages are over the labels that a row has: of others no row tells how well they are predicted, and their
    own scores are None. Any other ratio 0/0 is 0. Intervals are 95% percentile intervals of the bootstrap over rows, of
    macro F1 with one row more of each label (:func:`resampled_averages`): below some 30 rows they are too narrow, and
    without any error they have no width.

    Args:
        thresholds: (k,), for several labels only; .5 for each by default.
        metrics: names of further ``evaluate`` metrics of the predictions (label_ranking_average_precision: of the
            probabilities). Each goes under its name, or ``name_key`` if it gives several numbers; a name that is a
            score already is left as it is, and NaN becomes None.
        resamples: bootstrap resamples; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        accuracy; f1, precision and recall, each _macro, _micro and _weighted; mcc, or with several labels a row
        subset_accuracy (the same as accuracy) and lrap; where labels are numbers on a scale, mae (mean absolute error)
        and quadratic_kappa (Cohen 1968); loss (negative log-likelihood, nats); accuracy_interval, f1_macro_interval,
        with several labels f1_micro_interval, on a scale mae_interval and quadratic_kappa_interval, each [low, high];
        labels_judged, the number of labels that a row has; per_class {name: {precision, recall, f1, support}}.

    Raises:
        DataError: no rows, or targets or probabilities that do not fit the labels.
        SettingError: thresholds that do not fit; a further metric that cannot be loaded or computed.
    """
    check(resamples >= 0, "resamples", resamples, "0 or more")
    y, p = checked_rows(targets, probabilities, labels.multi_label, labels.num_labels)
    guesses = predicted(p, labels, thresholds)
    counts, (table,) = outcomes(y, [guesses], labels, by_row=False)
    sums = counts @ table
    result: dict[str, Any] = {name: float(value) for name, value in averages(sums, len(y), labels).items()}
    if labels.multi_label:
        result["lrap"] = _ranking_precision(p, y)
    result["loss"] = negative_log_likelihood(y, p, multi_label=labels.multi_label)
    if resamples:
        names = ["accuracy", "f1_macro", *(["f1_micro"] if labels.multi_label else _ON_A_SCALE if labels.scale else [])]
        (drawn,) = resampled_averages(np.random.default_rng(seed), counts, [table], labels, names, resamples)
        result |= {f"{name}_interval": [*percentile_interval(row)] for name, row in zip(names, drawn, strict=True)}
    result["per_class"] = _per_class(sums, labels)
    result["labels_judged"] = sum(one["support"] > 0 for one in result["per_class"].values())
    for name in metrics:
        if name not in result:
            result |= _further(name, y, guesses, p)
    return result


def outcomes(
    y: np.ndarray, runs: Sequence[np.ndarray], labels: Labels, *, by_row: bool = True
) -> tuple[np.ndarray, list[sparse.csr_array]]:
    """Count rows with the same targets and predictions: how often each kind occurs (m,), and each run's tally of one.

    Kinds are sorted by targets and predictions, or ``by_row``: then runs can change places without changing what a
    bootstrap draws.
    """
    if labels.multi_label:
        # Packed to bits the sort that finds equal rows moves an eighth of the bytes.
        packed = np.packbits(np.hstack([y, *runs]).astype(bool), axis=1)
        _, first, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
    else:
        kinds = y
        for guesses in runs:
            _, first, kinds, counts = np.unique(
                kinds * labels.num_labels + guesses, return_index=True, return_inverse=True, return_counts=True
            )
    if by_row:
        order = np.argsort(first)
        first, counts = first[order], counts[order]
    return counts, [tally(y[first], guesses[first], labels) for guesses in runs]


def tally(targets: np.ndarray, guesses: np.ndarray, labels: Labels) -> sparse.csr_array:
    """Count what each of n rows adds to the sums that ``averages`` reads, (n, 3k + 1), or (n, 3k + 3) on a scale.

    For each of k labels 0 or 1: whether the row has it and it is predicted, it is predicted, the row has it; then
    whether all is right; on a scale the distance from target to guess, and its square. Targets and guesses are whole.
    """
    right = targets == guesses
    distances = np.zeros((len(targets), 0))
    if labels.scale:
        distance = np.abs(np.array(labels.scale)[targets] - np.array(labels.scale)[guesses])
        distances = np.column_stack([distance, distance**2])
    if labels.multi_label:
        right = right.all(axis=1)
    else:
        one_hot = sparse.eye_array(labels.num_labels, format="csr")
        targets, guesses = one_hot[targets], one_hot[guesses]
    actual, given = sparse.csr_array(targets), sparse.csr_array(guesses)
    columns = [actual.multiply(given), given, actual, *map(sparse.csr_array, (right[:, None], distances))]
    return sparse.csr_array(sparse.hstack(columns), dtype=np.float64)


def averages(sums: np.ndarray, rows: int, labels: Labels) -> dict[str, np.ndarray]:
    """Compute the scores of predicted labels by name, (...,): those that need no probabilities.

    ``sums`` are ``tally`` summed over ``rows`` rows, (..., columns); any leading axis is one of resamples.
    """
    both, given, actual, right = _parts(sums, labels)
    found = {"accuracy": right / rows}
    if labels.multi_label:
        found["subset_accuracy"] = found["accuracy"]
    judged = (actual > 0).sum(-1)
    micro = _rates(both.sum(-1), given.sum(-1), actual.sum(-1))
    for name, rates in _rates(both, given, actual).items():
        # Of a label that no row has nothing is right, so that it adds nothing to the sum.
        found[f"{name}_macro"] = _ratio(rates.sum(-1), judged)
        found[f"{name}_micro"] = micro[name]
        found[f"{name}_weighted"] = _ratio((rates * actual).sum(-1), actual.sum(-1))
    if not labels.multi_label:
        spread = np.sqrt((rows**2 - (given**2).sum(-1)) * (rows**2 - (actual**2).sum(-1)))
        found["mcc"] = _ratio(rows * right - (given * actual).sum(-1), spread)
    if labels.scale:
        scale = np.array(labels.scale)
        distance, square = sums[..., -2], sums[..., -1]
        found["mae"] = distance / rows
        by_chance = (given + actual) @ scale**2 - 2 * (given @ scale) * (actual @ scale) / rows
        # Where all rows and predictions have one label, there is no agreement beyond chance.
        found["quadratic_kappa"] = np.where(by_chance > 0, 1 - _ratio(square, by_chance), 0.0)
    return found


def resampled_averages(
    rng: np.random.Generator,
    counts: np.ndarray,
    tables: Sequence[sparse.csr_array],
    labels: Labels,
    names: Sequence[str],
    resamples: int,
) -> np.ndarray:
    """Compute scores of some runs on rows drawn with replacement, the same for all runs: (runs, names, resamples).

    ``counts`` and ``tables`` are those of :func:`outcomes`. Macro means are over the labels of all rows in every
    resample, one row more of each being drawn: of a label with few rows the rows themselves say too little of how well
    it is predicted, and a resample without any of them nothing.
    """
    wholes, for_weights, for_hits = [counts @ table for table in tables], *rng.spawn(2)
    has_macro = any(name.endswith("_macro") for name in names)

    def scores(draws: np.ndarray) -> np.ndarray:
        shape = len(draws), labels.num_labels
        weights, chances = for_weights.exponential(size=shape), for_hits.random(shape)
        found = []
        for table, whole in zip(tables, wholes, strict=True):
            sums = draws @ table
            macro = _macro_means(sums, whole, weights, chances, labels) if has_macro else {}
            of_run = averages(sums, counts.sum(), labels) | macro
            found.append([of_run[name] for name in names])
        return np.array(found)

    return resampled_scores(rng, counts, scores, resamples, width=tables[0].shape[1])


def _macro_means(
    sums: np.ndarray, whole: np.ndarray, weights: np.ndarray, chances: np.ndarray, labels: Labels
) -> dict[str, np.ndarray]:
    """Average rates over the labels that the ``whole`` rows have, with one row more of each.

    Of (draws, labels) ``weights``, it is right where its chance is below what is expected of a label with few rows. Who
    gives all rows one label gives it to this one too.
    """
    known, drawn = _parts(whole, labels)[:3], _parts(sums, labels)[:3]
    judged = known[2] > 0
    shares = judged / (known[2] + FEW_ROWS)
    given = known[1] > 0
    weights_of_right = weights * (given | (given.sum() > 1))
    rates, means = _rates(*known), {}
    for name in rates:
        hits = weights_of_right * (chances < _ratio((shares * rates[name]).sum(), shares.sum()))
        resampled = _rates(*(part + more for part, more in zip(drawn, (hits, weights, weights), strict=True)))[name]
        means[f"{name}_macro"] = _ratio((resampled * judged).sum(-1), judged.sum())
    return means


def negative_log_likelihood(targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False) -> float:
    """Compute the mean negative log-likelihood in nats, with several labels over rows and labels.

    scikit-learn's, which clips probabilities 2.2e-16 away from 0 and 1 too, warns of rows whose float32 sum is not 1.
    """
    y, p = checked_rows(targets, probabilities, multi_label)
    likelihood = np.where(y == 1, p, 1 - p) if multi_label else p[np.arange(len(y)), y]
    tiny = np.finfo(np.float64).eps
    return float(-np.log(np.clip(likelihood, tiny, 1 - tiny)).mean())


def judged_labels(scores: Mapping[str, Any]) -> str:
    """Say how many of the labels macro means are over; "" where it is all of them."""
    judged, labels = scores.get("labels_judged"), len(scores.get("per_class", ()))
    return f"{judged} of {labels} labels" if judged is not None and judged < labels else ""


def _parts(sums: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    k = labels.num_labels
    both, given, actual = np.split(sums[..., : 3 * k], 3, axis=-1)
    return both, given, actual, sums[..., 3 * k]


def _rates(both: np.ndarray, given: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    f1 = _ratio(2 * both, given + actual)
    return {"precision": _ratio(both, given), "recall": _ratio(both, actual), "f1": f1}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0))


def _per_class(sums: np.ndarray, labels: Labels) -> dict[str, dict[str, Any]]:
    both, given, actual, _ = _parts(sums, labels)
    rates = {name: np.where(actual > 0, rate, np.nan) for name, rate in _rates(both, given, actual).items()}
    columns = {**rates, "support": actual.astype(int)}
    rows = zip(labels.names, *(column.tolist() for column in columns.values()), strict=True)
    return {label: dict(zip(columns, map(_for_json, row), strict=True)) for label, *row in rows}


def _ranking_precision(p: np.ndarray, y: np.ndarray) -> float:
    """Label ranking average precision; scikit-learn's goes row by row in Python, which takes seconds on 10,000 rows."""
    rank, rank_among_true = (scipy.stats.rankdata(scores, "max", axis=1) for scores in (-p, np.where(y, -p, np.inf)))
    precision = (y * rank_among_true / rank).sum(axis=1) / np.maximum(y.sum(axis=1), 1)
    # A row without a true label has nothing to rank wrongly.
    return float(np.where(y.any(axis=1), precision, 1.0).mean())


def _further(name: str, y: np.ndarray, guesses: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    # It takes a second to import.
    from nlptransfer.evaluation.further import RANKING, load_metric, on_one_line

    metric = load_metric(name)
    try:
        values = metric.compute(predictions=p if name == RANKING else guesses, references=y)
    except Exception as error:  # a fetched script can raise anything
        raise SettingError(f"metric {name!r} cannot be computed on these predictions: {on_one_line(error)}") from error
    if len(values) == 1:
        return {name: _for_json(next(iter(values.values())))}
    return {key if key == name else f"{name}_{key}": _for_json(value) for key, value in values.items()}


def _for_json(value: Any) -> Any:
    """Convert to what JSON takes; NaN and infinity, which it does not, become None."""
    if isinstance(value, dict):
        return {str(key): _for_json(item) for key, item in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list | tuple):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
