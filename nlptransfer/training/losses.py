"""The losses: each holds the model it trains, so that processes keep all of it in step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nlptransfer.data import Labels
from nlptransfer.errors import SettingError, nearest
from nlptransfer.settings import check

TARGET, SOURCE, UNLABELED = "target", "source", "unlabeled"
"""Roles of rows: the task that counts, the one that knowledge comes from, and the target's texts without labels."""


@dataclass(frozen=True)
class BatchTargets:
    """Targets of the rows of one forward pass, and what they count."""

    targets: Tensor
    """(rows,) int64, or (rows, labels) float32"""
    total_weight: float = 1.0
    """weight of all rows of this role in the step, by class and their own; infinite for rows that count nothing"""
    weights: Tensor | None = None
    """(rows,) weight of each row besides that of its class; None: all 1"""
    role: str = TARGET
    """which task the rows belong to"""
    progress: float = 0.0
    """share of the training that is done, in [0, 1)"""

    def weighted(self, values: Tensor) -> Tensor:
        """Multiply (rows,) values by the weights of the rows."""
        return values if self.weights is None else values * self.weights


class LabelLoss(nn.Module):
    """Measure the cross-entropy of logits and labels, weighted by class.

    One label a row: torch's cross_entropy with class weights and label smoothing (Szegedy et al. 2016). Several labels:
    binary cross-entropy averaged over labels, targets smoothed by half of ``label_smoothing``, positives weighted by
    class; every row weighs 1. The ``class_weights`` are (labels,), or None: all 1.
    """

    class_weights: Tensor

    def __init__(self, labels: Labels, class_weights: np.ndarray | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.multi_label = labels.multi_label
        self.label_smoothing = label_smoothing
        weights = np.ones(labels.num_labels) if class_weights is None else class_weights
        self.register_buffer("class_weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, batch: BatchTargets) -> Tensor:
        """Return the rows' share of the loss of a step: their weighted losses over the weight of all."""
        return batch.weighted(self.row_losses(logits, batch.targets)).sum() / batch.total_weight

    def row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the (rows,) losses, weighted by class, of (rows, labels) logits."""
        weights = self.class_weights.to(logits.dtype)
        if self.multi_label:
            smooth = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none")
            return losses.mean(dim=1)
        return functional.cross_entropy(
            logits, targets, weights, label_smoothing=self.label_smoothing, reduction="none"
        )

    def row_weights(self, targets: Tensor) -> Tensor:
        """Return the (rows,) weights of rows by their classes."""
        if self.multi_label:
            return torch.ones(len(targets), device=targets.device)
        return self.class_weights[targets]

    def share(self, batch: BatchTargets) -> Tensor:
        """Return the share of the weight of a step's rows that these have."""
        return batch.weighted(self.row_weights(batch.targets)).sum() / batch.total_weight


class Objective(nn.Module):
    """Measure the loss of a model's logits, ``forward(**inputs).logits``; other objectives replace ``loss``."""

    can_be_sharded: ClassVar[bool] = True
    """whether it works where each process holds a part of the weights"""
    needs_all_embeddings: ClassVar[bool] = False
    """whether rows of the word embeddings learn whose tokens no row has, or are held to something"""
    together: ClassVar[bool] = False
    """whether a forward pass takes the rows of all roles at once, ``inputs`` and ``batch`` being of each role"""

    def __init__(self, model: nn.Module, criterion: LabelLoss) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, inputs: dict[str, Tensor], batch: BatchTargets | None = None) -> Tensor:
        """Return the loss of some rows, or the logits without their ``batch``."""
        return self.logits(inputs) if batch is None else self.loss(inputs, batch)

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the target's logits, (rows, labels) float32."""
        return cast(Tensor, self.model(**inputs).logits.float())

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        """Return the share of some rows in a step's loss; the shares of all rows of all roles add up to it."""
        return cast(Tensor, self.criterion(self.logits(inputs), batch))

    def row_weights(self, targets: Tensor, role: str = TARGET) -> Tensor:
        """Return the (rows,) weights of rows of a role by their classes."""
        return self.criterion.row_weights(targets)

    def notes(self) -> dict[str, float]:
        """Return what the history of the training shows of the last step besides its loss."""
        return {}

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def _no_split_modules(self) -> list[str]:
        """Name the classes of the model's layers: where Accelerate splits weights into shards."""
        names = getattr(self.model, "_no_split_modules", None) or ()
        return sorted({type(module).__name__ for module in self.model.modules()} & {*names})


def class_weights(setting: str | Mapping[str, float] | None, labels: Labels, targets: np.ndarray) -> np.ndarray | None:
    """Return the (labels,) weights of the classes.

    A ``setting`` is None; "balanced": rows / (classes * rows of the class), with several labels negatives / positives
    of each; or weights by label name, 1 where none is given. ``targets`` are those of training, as ``Labels.encode``
    gives them. Another word, an unknown name, or a weight that is not a number above 0 are a SettingError.
    """
    if setting is None:
        return None
    if isinstance(setting, str):
        check(setting == "balanced", "class_weights", setting, "'balanced' or weights by label name")
        if labels.multi_label:
            positives = targets.sum(axis=0)
            negatives = len(targets) - positives
            # A label that all rows have, or none, cannot be balanced.
            return np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
        counts = np.maximum(np.bincount(targets, minlength=labels.num_labels), 1)
        return len(targets) / (labels.num_labels * counts)
    weights = np.ones(labels.num_labels)
    for name, weight in setting.items():
        if name not in labels.label2id:
            raise SettingError(f"class_weights: unknown label {name!r}: {nearest(name, labels.names)}")
        if not isinstance(weight, Real) or not 0 < weight < math.inf:
            raise SettingError(f"class_weights: {name}={weight!r}: expected a number above 0")
        weights[labels.label2id[name]] = weight
    return weights
