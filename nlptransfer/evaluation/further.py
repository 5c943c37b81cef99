"""Further metrics by name, of the ``evaluate`` library: local ones over scikit-learn, and what it fetches."""

from typing import Any

import datasets
import evaluate
import numpy as np

from nlptransfer.errors import SettingError, nearest

# Metrics of ``evaluate``: the scikit-learn function, its settings, and what is given (predictions, references).
_IDS = datasets.Value("int32")
_ROWS = datasets.Sequence(_IDS)
_EITHER, _SEVERAL = ((_IDS, _IDS), (_ROWS, _ROWS)), ((_ROWS, _ROWS),)
_RANKED = ((datasets.Sequence(datasets.Value("float64")), _ROWS),)
_MACRO = {"average": "macro", "zero_division": 0}
RANKING = "label_ranking_average_precision"
METRICS: dict[str, tuple[str, dict[str, Any], tuple[tuple[Any, Any], ...]]] = {
    "accuracy": ("accuracy_score", {}, _EITHER),
    "precision": ("precision_score", _MACRO, _EITHER),
    "recall": ("recall_score", _MACRO, _EITHER),
    "f1": ("f1_score", _MACRO, _EITHER),
    "matthews_correlation": ("matthews_corrcoef", {}, _EITHER[:1]),
    "subset_accuracy": ("accuracy_score", {}, _SEVERAL),
    RANKING: ("label_ranking_average_precision_score", {}, _RANKED),
}


class LocalMetric(evaluate.Metric):
    """An ``evaluate`` metric over one scikit-learn function, whose other arguments ``compute`` takes too."""

    @property
    def name(self) -> str:
        """The key of ``METRICS``, which evaluate takes as the name of a configuration."""
        return str(self.config_name)

    def _info(self) -> evaluate.MetricInfo:
        function, _, kinds = METRICS[self.name]
        return evaluate.MetricInfo(
            description=f"sklearn.metrics.{function}",
            citation="",
            inputs_description=LocalMetric.__doc__,
            features=[datasets.Features(predictions=given, references=true) for given, true in kinds],
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        import sklearn.metrics

        function, settings, _ = METRICS[self.name]
        value = getattr(sklearn.metrics, function)(references, predictions, **{**settings, **options})
        return {self.name: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value}


def load_metric(name: str) -> evaluate.Metric:
    """Load the local metric of that name, or the script that ``evaluate.load`` finds, or raise a SettingError."""
    if name in METRICS:
        return LocalMetric(name, keep_in_memory=True)
    try:
        return evaluate.load(name, module_type="metric", keep_in_memory=True)
    except Exception as error:  # a fetched script can raise anything
        raise SettingError(
            f"metric {name!r}: expected a local one or one that evaluate.load finds; {nearest(name, METRICS)} "
            f"(it said: {on_one_line(error)})"
        ) from error


def on_one_line(error: Exception) -> str:
    """Return another library's message on one line."""
    return " ".join(str(error).split())
