"""Average several adapters of one base into one (model soups, Wortsman et al. 2022)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nlptransfer import distributed
from nlptransfer.classifier.classifier import Classifier
from nlptransfer.errors import SettingError
from nlptransfer.settings import check


def average(
    classifiers: Sequence[Classifier], weights: Sequence[float] | None = None, base: str | None = None
) -> Classifier:
    """Average adapters of one base, and their heads: exactly, as the rank of the average is the sum of the ranks.

    Weights are scaled to sum to 1, and all alike if None; ``base`` says where the base lies where it is not found by
    itself: a BaseModelError if it cannot be had. With several labels at once all thresholds become 0.5. Fewer than two,
    weights that make no sense, or classifiers that do not go together are a SettingError.
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
        [one.model for one in classifiers], shares, first.labels, first.tokenizer, record["base"], base
    )
    return replace(first, route=route, model=model.to(distributed.state().device), thresholds=None, record=record)


def _check_alike(first: Classifier, other: Classifier, number: int) -> None:
    compared: dict[str, tuple[Any, ...]] = {
        "labels": (first.labels.names, other.labels.names),
        "several labels": (first.labels.multi_label, other.labels.multi_label),
        "base": tuple(one.record.get("base", {}).get("sha256") for one in (first, other)),
        "normalization": (first.normalization, other.normalization),
        "text columns": (first.text_columns, other.text_columns),
        "max_length": (first.tokenizer.model_max_length, other.tokenizer.model_max_length),
        "long_text": (first.route.long_text, other.route.long_text),
    }
    for what, (expected, found) in compared.items():
        if found != expected:
            raise SettingError(
                f"classifier {number}: expected the same {what} as the first one has, {expected!r:.200}, "
                f"found {found!r:.200}"
            )
