"""Average several adapters of one base into one (model soups, Wortsman et al. 2022).

Does not know what an adapter is made of: their format averages the models.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from nlptransfer import distributed
from nlptransfer.classifier.classifier import Classifier
from nlptransfer.errors import SettingError
from nlptransfer.settings import check


def average(
    classifiers: Sequence[Classifier], weights: Sequence[float] | None = None, base: str | None = None
) -> Classifier:
    """Average adapters of one base: the weights that they add to its own, and their heads.

    The result is exact: the rank of the average is the sum of the ranks. It is saved, merged and pushed as any other.

    Args:
        classifiers: with adapters, the same labels and the same adapted layers.
        weights: of each, scaled to sum to 1; None: all alike.
        base: where the base lies, where it is not found by itself.

    Returns:
        A classifier that gives each of several labels from a probability of 0.5 on, whatever the thresholds were.

    Raises:
        SettingError: fewer than two, weights that make no sense, or classifiers that do not go together.
        BaseModelError: the base cannot be had.
    """
    check(len(classifiers) > 1, "classifiers", len(classifiers), "at least 2 to average")
    weights = [1.0] * len(classifiers) if weights is None else weights
    usable = len(weights) == len(classifiers) and all(w >= 0 for w in weights) and 0 < sum(weights) < math.inf
    check(usable, "weights", weights, f"one for each of {len(classifiers)}, from 0, not all of them 0")
    shares = [float(weight) / sum(weights) for weight in weights]
    first = classifiers[0]
    for number, other in enumerate(classifiers[1:], start=2):
        _check_alike(first, other, number)
    record = {"base": first.record.get("base", {}), "average": {"weights": shares}}
    route, model = first.route.averaged(
        [(one.route, one.model) for one in classifiers], shares, first.labels, first.tokenizer, record["base"], base
    )
    return replace(first, route=route, model=model.to(distributed.state().device), thresholds=None, record=record)


def _check_alike(first: Classifier, other: Classifier, number: int) -> None:
    """Raise a SettingError unless two classifiers differ in their weights alone."""
    sides = [
        {
            "labels": one.labels.names,
            "several labels": one.labels.multi_label,
            "base": one.record.get("base", {}).get("sha256"),
            "normalization": one.normalization,
            "max_length": one.tokenizer.model_max_length,
            "long_text": one.route.long_text,
        }
        for one in (first, other)
    ]
    for what, value in sides[0].items():
        if value != sides[1][what]:
            raise SettingError(
                f"classifier {number}: expected the same {what} as the first one has, {value!r:.200}, "
                f"found {sides[1][what]!r:.200}"
            )
