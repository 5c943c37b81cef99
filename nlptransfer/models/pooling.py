"""Pool the vectors of a text into one. This file knows tensors and masks, and no tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pool(vectors: Tensor, known: Tensor, pooling: Sequence[str]) -> Tensor:
    """Pool (batch, words, dimensions) over the known words, (batch, dimensions * len(pooling)); zeros where none is.

    ``vectors`` are finite, those of unknown words too; ``known`` is (batch, words) bool; ``pooling`` has "mean", "max"
    and "cls" (the first known word), put side by side in this order.
    """
    mask = known.unsqueeze(2)
    parts = []
    for kind in pooling:
        if kind == "mean":
            parts.append((vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
        elif kind == "max":
            highest = vectors.masked_fill(~mask, -torch.inf).amax(dim=1)
            parts.append(torch.where(mask.any(dim=1), highest, 0.0))
        else:
            first = vectors[torch.arange(known.shape[0], device=known.device), known.int().argmax(dim=1)]
            parts.append(torch.where(mask.any(dim=1), first, 0.0))
    return torch.cat(parts, dim=1)
