"""The losses: each holds the model it trains, so that processes keep all of it in step."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer.errors import SettingError, nearest
from nlptransfer.labels import Labels


class Supervised(nn.Module):
    """Cross-entropy of labelled rows, weighted by class: sum of w_i * l_i over the sum of w_i.

    One label a row: l = -(1 - e) log p_y - e mean_k log p_k (label smoothing e; Szegedy et al. 2016) and
    w the weight of class y. Several labels: binary cross-entropy averaged over labels, targets
    smoothed by e / 2, positives weighted by class, w = 1.
    """

    class_weights: Tensor

    def __init__(
        self, model: nn.Module, labels: Labels, class_weights: np.ndarray | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.multi_label = labels.multi_label
        self.label_smoothing = label_smoothing
        weights = np.ones(labels.num_labels) if class_weights is None else class_weights
        self.register_buffer("class_weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, inputs: dict[str, Tensor], targets: Tensor, total_weight: float) -> Tensor:
        """The rows' share of the loss: their weighted losses over the weight of all rows of the step."""
        logits = self.model(**inputs).logits.float()
        return (self.row_losses(logits, targets) * self.row_weights(targets)).sum() / total_weight

    def row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(rows, labels) and targets -> (rows,) losses before weighting."""
        if self.multi_label:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(
                logits, smooth.to(logits.dtype), pos_weight=self.class_weights.to(logits.dtype), reduction="none"
            )
            return losses.mean(dim=1)
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")

    def row_weights(self, targets: Tensor) -> Tensor:
        """(rows,) weights of the rows."""
        if self.multi_label:
            return torch.ones(len(targets), device=targets.device)
        return self.class_weights[targets]


def class_weights(asked: str | Mapping[str, float] | None, labels: Labels, targets: np.ndarray) -> np.ndarray | None:
    """Weights of the classes, (labels,).

    Args:
        asked: None; "balanced", which gives rows / (classes * rows of the class), and with several labels
            the negatives over the positives of each; or weights by label name, 1 where none is given.
        targets: the training targets.

    Raises:
        SettingError: another word, an unknown label name, or a weight that is not positive.
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        if asked != "balanced":
            raise SettingError(f"class_weights={asked!r}: expected 'balanced' or weights by label name")
        if labels.multi_label:
            positives = np.maximum(targets.sum(axis=0), 1)
            return (len(targets) - positives).clip(min=1) / positives
        counts = np.maximum(np.bincount(targets, minlength=labels.num_labels), 1)
        return len(targets) / (labels.num_labels * counts)
    weights = np.ones(labels.num_labels)
    for name, weight in asked.items():
        if name not in labels.label2id:
            raise SettingError(f"class_weights: unknown label {name!r}: {nearest(name, labels.names)}")
        if not weight > 0:
            raise SettingError(f"class_weights: {name}={weight}: expected a number above 0")
        weights[labels.label2id[name]] = weight
    return weights
