"""The classifiers that stand on pooled word vectors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput


class Standardize(nn.Module):
    """(x - mean) / scale with fixed numbers, so that pooled features of any size train alike."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: np.ndarray, resolution: float = 1e-6) -> None:
        """Take mean and scale from (rows, width) float32 features; a constant feature keeps its scale.

        Args:
            resolution: how finely the features are kept, as a share of their size; a smaller spread is no more than
                rounding.
        """
        # torch sums in double precision, so that rounding does not pass for spread.
        spread, mean = torch.std_mean(torch.from_numpy(features), dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > resolution * mean.abs(), spread, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale


class PooledBody(nn.Module):
    """Pooled features, standardized, and hidden layers on them, if any.

    Args:
        sizes: width of the features, then of each hidden layer.
        dropout: share of a hidden layer's outputs dropped in training.
    """

    def __init__(self, sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.standardize = Standardize(sizes[0])
        self.layers = nn.Sequential(
            *(
                layer
                for before, after in pairwise(sizes)
                for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
            )
        )
        self.width = sizes[-1]

    def forward(self, features: Tensor) -> Tensor:
        """(batch, sizes[0]) -> (batch, sizes[-1])"""
        return cast(Tensor, self.layers(self.standardize(features)))

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """(rows, sizes[0]) -> (rows, sizes[-1]) float32: what the last layer is fitted on."""
        device = self.standardize.mean.device
        with torch.inference_mode():
            # A copy: the cache's own array may not be written, and torch wants one that may.
            rows = torch.from_numpy(np.array(features, dtype=np.float32)).to(device)
            return cast(np.ndarray, self(rows).cpu().numpy())


def classified(
    config: PreTrainedConfig,
    classifier: nn.Linear,
    hidden: Tensor,
    labels: Tensor | None,
    output_hidden_states: bool | None,
) -> SequenceClassifierOutput:
    """What a model gives for (batch, width) inputs of its last layer: logits, and the loss where there are labels."""
    logits = classifier(hidden)
    loss = None
    if labels is not None:
        several = config.problem_type == "multi_label_classification" or labels.is_floating_point()
        measure = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy
        loss = measure(logits, labels.to(logits.dtype) if several else labels)
    shown = config.output_hidden_states if output_hidden_states is None else output_hidden_states
    return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=(hidden,) if shown else None)
