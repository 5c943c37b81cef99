"""What is frozen is computed once: pooled word vectors of every row."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from nlptransfer.batching import FeatureRows, TokenRows
from nlptransfer.word2vec import RESERVED

CHUNK = 65_536
"""Rows pooled at a time, so that little memory is needed besides the ids and the result."""


def pooled_vectors(matrix: torch.Tensor, rows: TokenRows, pooling: Sequence[str]) -> FeatureRows:
    """Pool the word vectors of each row over its known words, with no padding.

    Args:
        matrix: (vocabulary, dimensions) frozen vectors.
        rows: token ids.
        pooling: "mean" and "max", put side by side in this order.

    Returns:
        (rows, dimensions * len(pooling)) float32; zeros for a row without a known word.
    """
    matrix = matrix.detach().float().cpu()
    features = np.empty((len(rows), len(pooling), matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        offsets = rows.offsets[start : start + CHUNK + 1]
        ids = rows.ids[offsets[0] : offsets[-1]]
        known = ids >= RESERVED
        before = np.concatenate([[0], np.cumsum(known)])
        bags = torch.from_numpy(before[offsets[:-1] - offsets[0]])
        words = torch.from_numpy(ids[known]).to(bags.dtype)
        for place, way in enumerate(pooling):
            pooled = functional.embedding_bag(words, matrix, bags, mode=way)
            features[start : start + CHUNK, place] = pooled.numpy()
    return FeatureRows(features.reshape(len(rows), len(pooling) * matrix.shape[1]))
