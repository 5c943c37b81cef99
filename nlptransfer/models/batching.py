"""Plan batches of rows of like length, the same on every machine.
It knows lengths and seeds, not what the rows hold."""

import math
from collections.abc import Iterator

import numpy as np

MEGABATCH = 50
"""Batches whose shuffled rows are sorted by length together, so that each epoch mixes anew."""
BATCH_COST = 0.05
"""Fixed cost of a batch in prediction, as a share of the most tokens that it may have."""


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Plan one epoch's batches, places of rows: every row once, rows of like length together, in random order.

    The plan depends on the arguments alone: every process draws the same, and a resumed run goes on where it stopped.
    ``lengths`` are (rows,) tokens; ``batch_size`` counts rows over all processes, and the last batch may be smaller.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    # Few rows are split in four at least, or every epoch would have the same batches.
    mixed = batch_size * min(MEGABATCH, max(1, len(shuffled) // (4 * batch_size)))
    batches = []
    for start in range(0, len(shuffled), mixed):
        chunk = shuffled[start : start + mixed]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def endless_batches(lengths: np.ndarray, batch_size: int, seed: int, first: int, count: int) -> list[np.ndarray]:
    """List batches ``first`` to ``first + count`` of one epoch's :func:`training_batches` after the other's."""
    batches: list[np.ndarray] = []
    epoch, skipped = divmod(first, math.ceil(len(lengths) / batch_size))
    while len(batches) < count:
        batches += training_batches(lengths, batch_size, seed, epoch)[skipped:]
        epoch, skipped = epoch + 1, 0
    return batches[:count]


def prediction_batches(
    lengths: np.ndarray, tokens: int = 1024, batch_size: int | None = None, *, one_length: bool = False
) -> Iterator[np.ndarray]:
    """Plan batches for prediction: rows of like length, longest first; at most ``tokens`` with padding, or one row.

    ``batch_size`` is the most rows of a batch; None: as many as fit. With ``one_length`` nothing is padded.

    Dynamic programming over the lengths finds the least work: tokens with padding, and each batch's fixed cost.
    """
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    most = np.clip(tokens // np.maximum(distinct, 1), 1, batch_size)
    least = np.zeros(len(distinct) + 1)
    lowest = np.zeros(len(distinct), dtype=np.int64)
    for top, longest in enumerate(distinct):
        # As long as the longest: rows from each of the lengths on up to this one.
        rows = below[top + 1] - below[: top + 1]
        work = least[: top + 1] + rows * longest + np.ceil(rows / most[top]) * BATCH_COST * tokens
        if one_length:
            work[:-1] = np.inf
        lowest[top], least[top + 1] = work.argmin(), work.min()
    end = len(distinct)
    while end:
        start = lowest[end - 1]
        together = order[below[start] : below[end]][::-1]
        yield from np.array_split(together, -(-len(together) // most[end - 1]))
        end = start
