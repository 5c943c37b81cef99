"""Rows that a model can take, and batches of like length, the same on every machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from nlptransfer import processes
from nlptransfer.settings import check

MEGABATCH = 50
"""Batches of like length are cut from at most so many batches of shuffled rows, so that each epoch mixes anew."""
ENCODE_CHUNK = 4096
"""Texts that are tokenized at a time: what the tokenizer makes of a text is much larger than its ids."""


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
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        width = max(1, int(lengths.max(initial=0)))
        places = np.arange(width)
        real = places < lengths[:, None]
        input_ids = np.full((len(indices), width), self.pad_id, dtype=np.int64)
        input_ids[real] = self.ids[(starts[:, None] + places)[real]]
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
    """Tokenize texts, each cut to ``max_length`` tokens, special ones included.

    Raises:
        SettingError: no token of the text fits beside the special ones.
    """
    backend = tokenizer.backend_tokenizer
    special = backend.num_special_tokens_to_add(False)
    check(max_length > special, "max_length", max_length, f"more than the {special} special tokens of each text")
    truncation, padding = backend.truncation, backend.padding
    backend.no_padding()
    backend.enable_truncation(max_length)
    ids, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
    try:
        for start in range(0, len(texts), ENCODE_CHUNK):
            encodings = [encoding.ids for encoding in backend.encode_batch_fast(texts[start : start + ENCODE_CHUNK])]
            lengths.append(np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings)))
            ids.append(np.fromiter(chain.from_iterable(encodings), dtype=np.int32, count=int(lengths[-1].sum())))
    finally:
        # The tokenizer is saved with the model, and not with our settings of it.
        if truncation:
            backend.enable_truncation(**truncation)
        else:
            backend.no_truncation()
        if padding:
            backend.enable_padding(**padding)
    return TokenRows(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), tokenizer.pad_token_id or 0)


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
    # Few rows are cut in four at least, or every epoch would have the same batches.
    mixed = batch_size * min(MEGABATCH, max(1, len(shuffled) // (4 * batch_size)))
    batches = []
    for start in range(0, len(shuffled), mixed):
        chunk = shuffled[start : start + mixed]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def prediction_batches(lengths: np.ndarray, tokens: int = 8192) -> Iterator[np.ndarray]:
    """Batches for prediction: rows sorted by length, at most ``tokens`` with padding (or a single row)."""
    order = np.argsort(lengths, kind="stable")[::-1]
    start = 0
    while start < len(order):
        rows = max(1, tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + rows]
        start += rows


def predict_logits(model: Any, rows: Rows, *, share: bool = False) -> np.ndarray:
    """The model's logits in evaluation mode, in the order of the rows.

    Args:
        share: whether all processes call this and work on a part each; everyone gets all rows.

    Returns:
        (rows, labels) float32.
    """
    if not len(rows):
        return np.zeros((0, model.config.num_labels), dtype=np.float32)
    batches = list(prediction_batches(rows.lengths))
    mine = batches[processes.rank() :: processes.count()] if share else batches
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # Not inference_mode: what a model keeps from here (rotary tables, say) may be trained with later.
    with torch.no_grad():
        logits = []
        for batch in mine:
            inputs = {name: value.to(device) for name, value in rows.batch(batch).items()}
            logits.append(model(**inputs).logits.float().cpu().numpy())
    model.train(was_training)
    return processes.gather_rows(mine, logits, len(rows), share=share)
