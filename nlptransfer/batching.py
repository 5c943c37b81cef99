"""Rows that a model can take, and batches of like length, the same on every machine."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast

from nlptransfer import arithmetic, processes
from nlptransfer.settings import check

MEGABATCH = 50
"""Batches of like length are cut from at most so many batches of shuffled rows, so that each epoch mixes anew."""
PREDICTED_NUMBERS = {"cpu": 400_000, "other": 12_000_000}
"""Numbers of one batch's hidden states in prediction: what fits a processor's caches, and what fills an accelerator."""
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
    type_ids: np.ndarray | None = None
    """(tokens of all rows,) int8, where the tokenizer gives segments that are not all 0 (XLNet)"""
    pad_left: bool = False
    """whether padding goes before a row, as the model was trained"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask``, (len(indices), longest row), int64; at least one token wide."""
        places, real = self.places(indices)
        input_ids = np.full(real.shape, self.pad_id, dtype=np.int64)
        input_ids[real] = self.ids[places]
        inputs = {"input_ids": input_ids, "attention_mask": real.astype(np.int64)}
        if self.type_ids is not None:
            inputs["token_type_ids"] = np.zeros(real.shape, dtype=np.int64)
            inputs["token_type_ids"][real] = self.type_ids[places]
        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens of these rows lie in ``ids``, and where they go in a batch, (rows, longest) bool."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        width = max(1, int(lengths.max(initial=0)))
        columns = np.arange(width)
        if self.pad_left:
            real = columns >= (width - lengths)[:, None]
            starts = starts - (width - lengths)
        else:
            real = columns < lengths[:, None]
        return (starts[:, None] + columns)[real], real


@dataclass(frozen=True)
class FeatureRows:
    """One vector of features per row, computed once by a frozen model."""

    features: np.ndarray
    """(rows, width) float32, or float16 as the cache keeps them"""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.features), dtype=np.int64)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"features": torch.from_numpy(self.features[indices]).float()}


@dataclass(frozen=True)
class _WithTokens:
    """Token rows, and something beside them."""

    tokens: TokenRows

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens.lengths


@dataclass(frozen=True)
class WordsBeside(_WithTokens):
    """Token rows, and for each row the pooled vectors of its words."""

    word_features: np.ndarray
    """(rows, dimensions) float32"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the token rows', and ``word_features``, (len(indices), dimensions)."""
        return {**self.tokens.batch(indices), "word_features": torch.from_numpy(self.word_features[indices])}


@dataclass(frozen=True)
class ActivationRows(_WithTokens):
    """Token rows, and what frozen lower layers make of each token, computed once."""

    activations: np.ndarray
    """(tokens of all rows, width) float16"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the token rows', and ``activations``, (len(indices), longest row, width)."""
        places, real = self.tokens.places(indices)
        padded = np.zeros((*real.shape, self.activations.shape[1]), dtype=self.activations.dtype)
        padded[real] = self.activations[places]
        return {**self.tokens.batch(indices), "activations": torch.from_numpy(padded)}


@dataclass(frozen=True)
class TaughtRows:
    """Rows, and for each what another model makes of it."""

    rows: Rows
    taught: np.ndarray
    """(rows, width) float32"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the rows', and ``taught``, (len(indices), width)."""
        return {**self.rows.batch(indices), "taught": torch.from_numpy(self.taught[indices])}


@dataclass(frozen=True)
class FirstRows:
    """The first of some rows."""

    rows: Rows
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths[: self.count]

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return self.rows.batch(indices)


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
    typed = "token_type_ids" in tokenizer.model_input_names
    ids, types, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int8)], [np.zeros(1, dtype=np.int64)]
    try:
        for start in range(0, len(texts), ENCODE_CHUNK):
            found = backend.encode_batch_fast(texts[start : start + ENCODE_CHUNK])
            chunk = [encoding.ids for encoding in found]
            lengths.append(np.fromiter(map(len, chunk), dtype=np.int64, count=len(chunk)))
            ids.append(np.fromiter(chain.from_iterable(chunk), dtype=np.int32, count=int(lengths[-1].sum())))
            if typed:
                segments = chain.from_iterable(encoding.type_ids for encoding in found)
                types.append(np.fromiter(segments, dtype=np.int8, count=int(lengths[-1].sum())))
    finally:
        # The tokenizer is saved with the model, and not with our settings of it.
        if truncation:
            backend.enable_truncation(**truncation)
        else:
            backend.no_truncation()
        if padding:
            backend.enable_padding(**padding)
    type_ids = np.concatenate(types)
    return TokenRows(
        np.concatenate(ids),
        np.cumsum(np.concatenate(lengths)),
        tokenizer.pad_token_id or 0,
        type_ids if type_ids.any() else None,
        tokenizer.padding_side == "left",
    )


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


def endless_batches(lengths: np.ndarray, batch_size: int, seed: int, first: int, count: int) -> list[np.ndarray]:
    """Batches ``first`` to ``first + count`` of one epoch's :func:`training_batches` after the other's."""
    found: list[np.ndarray] = []
    epoch, skipped = divmod(first, math.ceil(len(lengths) / batch_size))
    while len(found) < count:
        found += training_batches(lengths, batch_size, seed, epoch)[skipped:]
        epoch, skipped = epoch + 1, 0
    return found[:count]


def prediction_batches(lengths: np.ndarray, tokens: int = 1024) -> Iterator[np.ndarray]:
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
    return compute(model, lambda inputs: model(**inputs).logits.float(), rows, share=share)


def compute(
    model: Any,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    rows: Rows,
    *,
    share: bool = False,
    places: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """A function of batches of rows, with the model in evaluation mode, in the order of the rows.

    Args:
        function: of a batch of n rows, on the model's device; gives (n, ...).
        rows: at least one.
        share: whether all processes call this and work on a part each; everyone gets all rows.
        places: of the rows of a batch: where its results go, if there are more or fewer than one a row; all places
            together are 0, 1, ... each once.

    Returns:
        (rows or places, ...)
    """
    device = next(model.parameters()).device
    numbers = PREDICTED_NUMBERS["cpu" if device.type == "cpu" else "other"]
    width = getattr(getattr(model, "config", None), "hidden_size", 384)
    batches = list(prediction_batches(rows.lengths, numbers // width))
    mine = batches[processes.rank() :: processes.count()] if share else batches
    # Sharded weights meet in every pass, so no process may make one pass fewer.
    sharded = share and any(isinstance(value, DTensor) for value in model.parameters())
    idle = batches[:1] if sharded and len(mine) * processes.count() < len(batches) else []
    was_training = model.training
    model.eval()
    # Not inference_mode: what a model keeps from here (rotary tables, say) may be trained with later.
    with torch.no_grad(), arithmetic.fast(model):
        found = [
            function({name: value.to(device) for name, value in rows.batch(batch).items()}).cpu().numpy()
            for batch in [*mine, *idle]
        ][: len(mine)]
    model.train(was_training)
    if places is None:
        return processes.gather_rows(mine, found, len(rows), share=share)
    count = sum(len(places(batch)) for batch in batches)
    return processes.gather_rows([places(batch) for batch in mine], found, count, share=share)
