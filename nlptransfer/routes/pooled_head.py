"""Classifiers on pooled vectors: their shape, their layers, and the contract of their models."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from nlptransfer import mapped
from nlptransfer.models import Ngrams

COLUMNS = 64
"""Of features that are in memory as float32 at a time; of very many rows fewer."""


class PooledConfig(PreTrainedConfig):
    """Shape of a classifier on pooled vectors, by the settings of its route, with ``num_ngrams`` besides them."""

    def __init__(
        self,
        head: str = "linear",
        pooling: Sequence[str] = ("mean",),
        mlp_sizes: Sequence[int] = (128, 64),
        dropout: float = 0.5,
        num_ngrams: int = 0,
        **kwargs: Any,
    ) -> None:
        self.head, self.pooling, self.mlp_sizes, self.dropout = head, list(pooling), list(mlp_sizes), dropout
        self.num_ngrams = num_ngrams
        super().__init__(**kwargs)


class Standardize(nn.Module):
    """(x - mean) / scale with fixed numbers, so that pooled features of any size train alike."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, *features: np.ndarray, resolution: float = 1e-6) -> None:
        """Take mean and scale from (rows, width) features; a relative spread below ``resolution`` is none."""
        rows = max(1, sum(map(len, features)))
        width = max(1, min(COLUMNS, mapped.MEMORY // (4 * rows)))
        for start in range(0, len(self.mean), width):
            some = slice(start, start + width)
            blocks = (block[:, some].astype(np.float32) for part in features for block in mapped.blocks(part))
            columns = np.concatenate([*blocks])
            # torch sums in double precision, so that rounding does not pass for spread.
            spread, mean = torch.std_mean(torch.from_numpy(columns), dim=0, correction=0)
            self.mean[some] = mean
            self.scale[some] = torch.where(spread > resolution * mean.abs(), spread, 1.0)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale


class PooledBody(nn.Module):
    """Pooled features of a width, standardized, and hidden layers on them, if any."""

    def __init__(self, config: PooledConfig, width: int) -> None:
        super().__init__()
        sizes = [width, *(config.mlp_sizes if config.head == "mlp" else [])]
        self.standardize = Standardize(width)
        self.layers = nn.Sequential(
            *(
                layer
                for before, after in pairwise(sizes)
                for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout))
            )
        )
        self.width = sizes[-1]

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(self.standardize(features.to(self.standardize.mean.dtype))))


class PooledHead(nn.Linear):
    """A linear layer on dense features, and on n-grams by their ids, whose columns come last."""

    def forward(self, hidden: Tensor, ids: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Map (batch, width), and (batch, most n-grams) ids and weights where there are n-grams, to (batch, labels)."""
        width = hidden.shape[-1]
        if width == self.in_features:
            return super().forward(hidden)
        if ids is None:
            raise ValueError("expected the n-grams of the texts, as nlptransfer's Classifier gives them, found none")
        dense = functional.linear(hidden, self.weight[:, :width], self.bias)
        return dense + functional.embedding_bag(
            ids, self.weight[:, width:].t(), mode="sum", per_sample_weights=weights
        ).to(dense.dtype)


class PooledClassifier(PreTrainedModel):
    """A model with a body on pooled vectors and a last layer on that, and on n-grams where it has some."""

    config: PooledConfig
    body: nn.Module
    classifier: PooledHead
    ngrams: Ngrams | None = None
    """saved beside the model, and computed by its route alone"""

    def last_inputs(self, features: np.ndarray) -> np.ndarray:
        """Return the (rows, width) float32 inputs of the last layer, of pooled features."""

        def inputs(block: np.ndarray) -> np.ndarray:
            # A copy: the cache's own array may not be written, and torch wants one that may.
            rows = torch.from_numpy(np.array(block, dtype=np.float32)).to(self.device)
            return cast(np.ndarray, self.body(rows).cpu().numpy())

        with torch.inference_mode():
            return mapped.concatenated(map(inputs, mapped.blocks(features)))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        ngram_ids: Tensor | None = None,
        ngram_weights: Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits, the loss when labels are given, and on request the inputs of the last layer, (batch, width).

        ``input_ids`` are (batch, tokens) int64, and ``attention_mask`` too, without which every place counts;
        ``features``, (batch, width) pooled vectors, stand in for them; ``ngram_ids`` int64 and ``ngram_weights`` are
        (batch, most n-grams), with weight 0 for padding; ``labels`` are (batch,) int64, or (batch, labels) float for
        several at once.
        """
        if features is not None:
            hidden = self.body(features)
        elif input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            hidden = self.hidden(input_ids, mask, **inputs)
        else:
            raise ValueError("expected input_ids or features, found neither")
        ngrams = () if ngram_ids is None else (ngram_ids, ngram_weights)
        logits, loss = self.classifier(hidden, *ngrams), None
        if labels is not None:
            several = self.config.problem_type == "multi_label_classification" or labels.is_floating_point()
            measure = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy
            loss = measure(logits, labels.to(logits.dtype) if several else labels)
        shown = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=(hidden,) if shown else None)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Tensor:
        """Return the inputs of the last layer, (batch, width)."""
        raise NotImplementedError

    def drop_unused_ngrams(self) -> None:
        """Drop the n-grams if the last layer has no weight for any."""
        layer, width = self.classifier, self.classifier.in_features - self.config.num_ngrams
        if self.ngrams is not None and not layer.weight[:, width:].any():
            layer.weight, layer.in_features = nn.Parameter(layer.weight[:, :width].detach().clone()), width
            self.ngrams, self.config.num_ngrams = None, 0

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the weights, the config, and the n-grams."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.ngrams is not None:
            self.ngrams.save(Path(save_directory))
