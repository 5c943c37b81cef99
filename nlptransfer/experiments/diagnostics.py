"""Compare source and target in the model as it is: scores, similarity of layers, how far the weights moved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nlptransfer.evaluation import score_predictions, to_probabilities
from nlptransfer.experiments.fitting import Learning
from nlptransfer.models import layer_name, standing_in
from nlptransfer.training import SOURCE, TARGET, UNLABELED
from nlptransfer.transfer import cached_proxy_a_distance, chance_distance, linear_cka, proxy_a_distance

COMPARED_ROWS = 256
"""Training texts of each role by which the layers are compared."""


def scores_by_role(learning: Learning, when: str) -> dict[str, dict[str, Any]]:
    """Return by role the name of a split, test or else validation, and under ``when`` the model's scores on it."""
    scores = {}
    for role, task in learning.tasks.items():
        if role != SOURCE and not (learning.labels_agree and when == "before"):
            continue
        name = "test" if len(task.data.test) else "validation"
        split = task.data.splits[name]
        with standing_in(learning.head, learning.source_head if role == SOURCE else None):
            probabilities = to_probabilities(learning.logits(split.texts), task.data.labels)
        scores[role] = {"split": name, when: score_predictions(split.targets, probabilities, task.data.labels)}
    return scores


def layer_vectors(learning: Learning, role: str) -> list[np.ndarray]:
    """Return (texts, width) float32 by layer for some training texts of a role; empty if it has none."""
    role = UNLABELED if role == TARGET and TARGET not in learning.tasks else role
    if role not in learning.tasks:
        return []
    texts = learning.tasks[role].data.train.texts
    some = np.sort(np.random.default_rng(0).permutation(len(texts))[:COMPARED_ROWS])
    return learning.route.layer_vectors(learning.built.model, learning.built.tokenizer, texts, some)


def similarity(learning: Learning, before: Sequence[np.ndarray] = ()) -> list[dict[str, Any]]:
    """Measure by layer how far the domains are apart, and how alike the target's vectors are to those before."""
    distance = cached_proxy_a_distance if learning.route.is_frozen else proxy_a_distance
    layers = zip(layer_vectors(learning, SOURCE), layer_vectors(learning, TARGET), strict=True)
    compared = []
    for number, (source, target) in enumerate(layers):
        layer: dict[str, Any] = {"layer": number + 1, "proxy_a_distance": distance(source, target)}
        if before:
            layer["cka_with_source"] = linear_cka(before[number], target)
        compared.append(layer)
    return compared


def domains_differ(learning: Learning) -> bool:
    """Test whether a classifier separates the domains better than chance (Lopez-Paz and Oquab 2017)."""
    distances = [layer["proxy_a_distance"] for layer in similarity(learning)]
    rows = sum(min(len(learning.tasks[role].data.train), COMPARED_ROWS) for role in (SOURCE, UNLABELED))
    return not distances or float(np.mean(distances)) > chance_distance(rows)


def distance_by_layer(learning: Learning, start: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the norm of the change of each layer's weights since ``start``."""
    now = learning.route.state(learning.built.model)
    new = learning.new_parameters(learning.built.model)
    squares: dict[str, float] = {}
    for name, before in start.items():
        if name in now and before.is_floating_point() and name not in new:
            layer = layer_name(name)
            squares[layer] = squares.get(layer, 0.0) + float((now[name].cpu() - before).double().square().sum())
    return {layer: square**0.5 for layer, square in squares.items()}
