"""Rows that a model can take, and batches of like length, the same on every machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from nlptransfer import processes

MEGABATCH = 50
"""Batches of like length are cut from this many batches of shuffled rows, so that each epoch mixes anew."""


class Rows(Protocol):
    """Inputs of a model, row by row."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, (rows,)."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The keyword arguments of the model's ``forward`` for these rows."""


@dataclass(frozen=True)
class TokenRows:
    """Token ids of many texts, one after the other, without padding."""

    ids: np.ndarray
    """(tokens of all rows,) int32"""
    offsets: np.ndarray
    """(rows + 1,) int64: row i is ``ids[offsets[i]:offsets[i + 1]]``"""
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask``, (len(indices), longest row), int64; at least one token wide."""
        lengths = self.lengths[indices]
        width = max(1, int(lengths.max(initial=0)))
        places = np.arange(width)
        real = places < lengths[:, None]
        input_ids = np.full((len(indices), width), self.pad_id, dtype=np.int64)
        input_ids[real] = self.ids[(self.offsets[indices][:, None] + places)[real]]
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(real.astype(np.int64))}


@dataclass(frozen=True)
class FeatureRows:
    """One vector of features per row, computed once by a frozen model."""

    features: np.ndarray
    """(rows, width) float32"""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.features), dtype=np.int64)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"features": torch.from_numpy(self.features[indices])}


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> TokenRows:
    """Tokenize texts, each cut to ``max_length`` tokens."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    encodings = backend.encode_batch_fast(list(texts))
    lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
    ids = np.fromiter((i for encoding in encodings for i in encoding.ids), dtype=np.int32, count=int(lengths.sum()))
    return TokenRows(ids, np.concatenate([[0], np.cumsum(lengths)]), tokenizer.pad_token_id)


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """One epoch's batches: every row once, rows of like length together, in random order.

    The plan depends on the arguments alone, so that every process draws the same one and a resumed
    run goes on where it stopped.

    Args:
        lengths: (rows,) tokens per row.
        batch_size: rows of a batch over all processes; the last one may have fewer.

    Returns:
        For each batch the places of its rows.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    batches = []
    for start in range(0, len(shuffled), batch_size * MEGABATCH):
        chunk = shuffled[start : start + batch_size * MEGABATCH]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def prediction_batches(lengths: np.ndarray, tokens: int = 8192, most_rows: int = 256) -> Iterator[np.ndarray]:
    """Batches for prediction: rows sorted by length, at most ``tokens`` with padding (or a single row)."""
    order = np.argsort(lengths, kind="stable")[::-1]
    start = 0
    while start < len(order):
        rows = max(1, min(most_rows, tokens // max(1, int(lengths[order[start]]))))
        yield order[start : start + rows]
        start += rows


def predict_logits(model: torch.nn.Module, rows: Rows, *, share: bool = False) -> np.ndarray:
    """The model's logits in evaluation mode, in the order of the rows.

    Args:
        share: whether all processes call this and work on a part each; everyone gets all rows.

    Returns:
        (rows, labels) float32.
    """
    batches = list(prediction_batches(rows.lengths))
    mine = batches[processes.rank() :: processes.count()] if share else batches
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [
            model(**{name: value.to(device) for name, value in rows.batch(batch).items()}).logits.float().cpu().numpy()
            for batch in mine
        ]
    model.train(was_training)
    return processes.gather_rows(mine, logits, len(rows), share=share)
