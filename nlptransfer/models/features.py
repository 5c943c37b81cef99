"""Features of frozen models, computed once: pooled word vectors, and a cache of arrays on disk.
It knows texts, weights and the keys of the cache, not what learns from the features."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed, mapped
from nlptransfer.cache import cache_folder, open_entry, remove, seal, warn_of_cache
from nlptransfer.data import JOINT
from nlptransfer.errors import SettingError, StorageError
from nlptransfer.files import atomic_folder, size_mb
from nlptransfer.models import partial
from nlptransfer.models.architectures import embeddings_of, layers_of
from nlptransfer.models.inference import compute
from nlptransfer.models.tokens import LongText, RowLimits, TokenRows, as_read, limits_of, token_blocks
from nlptransfer.progress import progress_bar
from nlptransfer.storage import storage_errors
from nlptransfer.vectors import RESERVED

log = logging.getLogger("nlptransfer")

CACHE_LIMIT = "NLPTRANSFER_CACHE_GB"
"""Environment variable: the GiB that the feature cache may hold, by default ``CACHE_GB``."""
CACHE_GB = 20.0
_ARRAY = "array.npy"
RECIPE = 2
"""Version of the computation; arrays of another one are computed again."""


def pooled_vectors(matrix: torch.Tensor, rows: TokenRows, pooling: Sequence[str]) -> np.ndarray:
    """Pool (vocabulary, dimensions) vectors of each row over its known words; zeros for a row without any.

    The result is (rows, dimensions * len(pooling)) float32, "mean" and "max" in the order of ``pooling``.
    """
    matrix, offsets = matrix.detach().float().cpu(), rows.offsets

    def parts() -> Iterator[np.ndarray]:
        for some in token_blocks(offsets[1:]):
            first, last = offsets[some.start], offsets[some.stop]
            ids = rows.ids[first:last]
            known = ids >= RESERVED
            bags = torch.from_numpy(np.concatenate([[0], np.cumsum(known)])[offsets[some] - first])
            words = torch.from_numpy(ids[known]).to(bags.dtype)
            pooled = [functional.embedding_bag(words, matrix, bags, mode=kind) for kind in pooling]
            yield torch.cat(pooled, dim=1).numpy()
            mapped.release(ids)

    return mapped.concatenated(parts())


def activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], tokens: TokenRows, cut: int
) -> np.ndarray:
    """Return the cached inputs of layer ``cut``, (tokens of all rows, width) float16; all processes call this.

    The model is a classifier or a bare encoder whose lowest ``cut`` layers are frozen, see :func:`upper_layers`.
    """
    if not len(tokens):
        return np.zeros((0, model.config.hidden_size), dtype=np.float16)
    lower = [*embeddings_of(model), *layers_of(model)[:cut]]

    def flat(inputs: dict[str, Tensor]) -> Tensor:
        return to_float16(partial.activations_below(model, cut, inputs)[inputs["attention_mask"].bool()])

    key = {
        "kind": "activations",
        "weights": hash_of_modules(lower),
        "layers": [cut],
        "dtype": str(model.dtype),
        **text_key(model.config, tokenizer, texts, tokens.long_text),
    }
    return cached(key, lambda: through(model, flat, tokens, lambda rows: tokens.places(rows)[0]))


def through(
    model: nn.Module,
    function: Callable[[dict[str, Tensor]], Tensor],
    tokens: TokenRows,
    places: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Run :func:`compute` in all processes, with a progress bar where the log is shown."""
    with progress_bar(distributed.is_main() and log.isEnabledFor(logging.INFO)) as bar:
        task = bar.add_task(f"{len(tokens):,} texts through the encoder", total=len(tokens))

        def counted(inputs: dict[str, Tensor]) -> Tensor:
            values = function(inputs)
            bar.advance(task, len(inputs["input_ids"]) * distributed.world_size())
            return values

        return compute(model, counted, tokens, share=True, places=places)


def to_float16(values: Tensor) -> Tensor:
    """Convert to float16, the cache's type; values too large for it become its largest."""
    highest = torch.finfo(torch.float16).max
    return values.clamp(-highest, highest).half()


def text_key(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], long_text: LongText
) -> dict[str, Any]:
    """Return the parts of a key for :func:`cached` that say which texts, hashed, an encoder reads and how."""
    shape = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
    limits = limits_of(tokenizer)
    return {
        **({} if limits == RowLimits() else {"limits": asdict(limits)}),
        "recipe": RECIPE,
        "transformers": transformers.__version__,
        "architecture": sha256(json.dumps(shape, sort_keys=True, default=str)),
        "tokenizer": sha256(tokenizer.backend_tokenizer.to_str()),
        "padding": [tokenizer.padding_side, tokenizer.pad_token_id],
        "inputs": tokenizer.model_input_names,
        "max_length": tokenizer.model_max_length,
        "long_texts": long_text,
        "before and between": as_read(JOINT, tokenizer),
        # With their lengths: where one ends and the next begins.
        "texts": sha256("".join(f"{len(text)} {text}" for text in texts)),
    }


def hash_of_modules(modules: Iterable[nn.Module]) -> str:
    """Hash the weights of modules, as they are in memory, by sha256."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached(key: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array from the cache, made and saved there the first time; all processes call this together.

    It is memory-mapped and read-only; ``key`` is all that it depends on, as JSON. Where the cache cannot be written it
    stays in memory, with a warning. An NLPTRANSFER_CACHE_GB that is no number is a SettingError.
    """
    limit = _limit()
    folder = cache_folder("features") / sha256(json.dumps(key, sort_keys=True))
    array = _opened(folder)
    is_missing = distributed.largest(int(array is None))
    if array is not None and not is_missing:
        return array
    made = make()
    distributed.on_main(lambda: _save(folder, made, limit))
    array = _opened(folder)
    return made if array is None else array


def _opened(folder: Path) -> np.ndarray | None:
    array = open_entry(folder, "features", _mapped)
    if array is not None:
        with suppress(OSError):  # a cache that may only be read serves too
            os.utime(folder)
    return array


def _mapped(folder: Path) -> np.ndarray:
    with storage_errors(folder, "read"):
        return cast(np.ndarray, np.load(folder / _ARRAY, mmap_mode="r", allow_pickle=False))


def _save(folder: Path, made: np.ndarray, limit: float) -> None:
    try:
        with atomic_folder(folder) as new:
            np.save(new / _ARRAY, made, allow_pickle=False)
            seal(new)
    except StorageError as error:
        warn_of_cache(error)
        return
    _evict(folder, limit)


def _evict(newest: Path, limit: float) -> None:
    """Remove what was used longest ago until the cache fits its limit, but not the newest entry."""
    entries = []
    for entry in newest.parent.iterdir():
        with suppress(FileNotFoundError):  # another run evicts too
            entries.append((entry.stat().st_mtime_ns, size_mb(entry), entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= limit:
            break
        if entry != newest:
            remove(entry)
            total -= size


def _limit() -> float:
    """Return the MiB that the cache may hold."""
    value = os.environ.get(CACHE_LIMIT) or str(CACHE_GB)
    try:
        size = float(value)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise SettingError(f"{CACHE_LIMIT}={value!r}: expected the GiB that the feature cache may hold, from 0")
    return size * 2**10


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
