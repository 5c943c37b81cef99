"""What is frozen is computed once: pooled word vectors of every row."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from nlptransfer.batching import FeatureRows, TokenRows
from nlptransfer.word2vec import RESERVED


def pooled_vectors(matrix: torch.Tensor, rows: TokenRows, pooling: Sequence[str]) -> FeatureRows:
    """Pool the word vectors of each row over its known words, with no padding.

    Args:
        matrix: (vocabulary, dimensions) frozen vectors.
        rows: token ids.
        pooling: "mean" and "max", put side by side in this order.

    Returns:
        (rows, dimensions * len(pooling)) float32; zeros for a row without a known word.
    """
    known = rows.ids >= RESERVED
    ids = torch.from_numpy(rows.ids[known])
    before = np.concatenate([[0], np.cumsum(known)])
    offsets = torch.from_numpy(before[rows.offsets[:-1]]).to(ids.dtype)
    with torch.inference_mode():
        parts = [functional.embedding_bag(ids, matrix, offsets, mode=way) for way in pooling]
        return FeatureRows(torch.cat(parts, dim=1).numpy())
