"""Pool the vectors of a text into one."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pool(vectors: Tensor, known: Tensor, pooling: Sequence[str]) -> Tensor:
    """(batch, words, dimensions) -> (batch, dimensions * len(pooling)) over the known words; zeros where none is.

    Args:
        vectors: finite, those of unknown words too.
        known: (batch, words) bool.
        pooling: "mean", "max" and "cls" (the first known word), put side by side in this order.
    """
    mask = known.unsqueeze(2)
    parts = []
    for way in pooling:
        if way == "mean":
            parts.append((vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
        elif way == "max":
            highest = vectors.masked_fill(~mask, -torch.inf).amax(dim=1)
            parts.append(torch.where(mask.any(dim=1), highest, 0.0))
        else:
            first = vectors[torch.arange(known.shape[0], device=known.device), known.int().argmax(dim=1)]
            parts.append(torch.where(mask.any(dim=1), first, 0.0))
    return torch.cat(parts, dim=1)
