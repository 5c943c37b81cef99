"""What is frozen is computed once: pooled word vectors, and a cache of what frozen encoders make of texts.

So is what tells two domains apart: the odds of one's texts in the other, and the distance of their features.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.errors import SettingError
from nlptransfer.files import atomic_file, cache_folder
from nlptransfer.models import partial
from nlptransfer.models.architectures import embeddings_of, layers_of
from nlptransfer.models.inference import compute
from nlptransfer.models.rows import FeatureRows
from nlptransfer.models.tokens import LongText, TokenRows
from nlptransfer.vectors import RESERVED

log = logging.getLogger("nlptransfer")

CHUNK = 65_536
"""Rows pooled at a time, so that little memory is needed besides the ids and the result."""
CACHE_LIMIT = "NLPTRANSFER_CACHE_GB"
"""The environment variable that says how many GiB the feature cache may hold."""
CACHE_GB = 20.0
"""GiB that it may hold where nothing is said."""
RECIPE = 2
"""Version of what is computed here; another one is computed again."""


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


def activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], tokens: TokenRows, cut: int
) -> np.ndarray:
    """What layer ``cut`` takes of every token, from the cache or into it; all processes call this together.

    Args:
        model: a classifier or a bare encoder whose layers below the cut are frozen.
        tokenizer: what made the tokens.
        texts: what it made them of.
        tokens: the rows.
        cut: as :func:`upper_layers` has it.

    Returns:
        (tokens of all rows, width) float16.
    """
    if not len(tokens):
        return np.zeros((0, model.config.hidden_size), dtype=np.float16)
    lower = [*embeddings_of(model), *layers_of(model)[:cut]]

    def flat(inputs: dict[str, Tensor]) -> Tensor:
        found = partial.activations_below(model, cut, inputs)
        return to_float16(found[inputs["attention_mask"].bool()])

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
    """As :func:`compute` of all processes, with a bar on a terminal where the log is shown."""
    # On stderr: what a command prints may be piped on.
    console = Console(stderr=True)
    shown = distributed.is_main() and console.is_terminal and log.isEnabledFor(logging.INFO)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(f"{len(tokens):,} texts through the encoder", total=len(tokens))

        def counted(inputs: dict[str, Tensor]) -> Tensor:
            found = function(inputs)
            bar.advance(task, len(inputs["input_ids"]) * distributed.world_size())
            return found

        return compute(model, counted, tokens, share=True, places=places)


def to_float16(values: Tensor) -> Tensor:
    """As float16, the cache's type; what is too large for it becomes the largest that it has."""
    highest = torch.finfo(torch.float16).max
    return values.clamp(-highest, highest).half()


def text_key(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], long_text: LongText
) -> dict[str, Any]:
    """The parts of a key for :func:`cached` that say what texts an encoder reads and how, but for its weights.

    Of the texts themselves: where the cache has what is made of them, they are not cut into tokens.
    """
    shape = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
    return {
        "recipe": RECIPE,
        "transformers": transformers.__version__,
        "architecture": hash(json.dumps(shape, sort_keys=True, default=str)),
        "tokenizer": hash(tokenizer.backend_tokenizer.to_str()),
        "padding": [tokenizer.padding_side, tokenizer.pad_token_id],
        "inputs": tokenizer.model_input_names,
        "max_length": tokenizer.model_max_length,
        "long_texts": long_text,
        "normalization": "none",
        # With their lengths: where one ends and the next begins.
        "texts": hash("".join(f"{len(text)} {text}" for text in texts)),
    }


def hash_of_modules(modules: Iterable[nn.Module]) -> str:
    """The sha256 of the weights of modules, as they are in memory."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached(key: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, or made and kept there; all processes call this together.

    Where the folder cannot be written, or the disk is full, a warning says so and the array stays in memory.

    Args:
        key: all that the array depends on, of what JSON has.
        make: computes the array, when any process has no whole entry; all processes call it then.

    Returns:
        The array, memory-mapped and read-only where the cache holds it.

    Raises:
        SettingError: NLPTRANSFER_CACHE_GB is no number.
    """
    limit = _limit()
    path = cache_folder("features") / f"{hash(json.dumps(key, sort_keys=True))}.npy"
    found = _opened(path)
    on_all = _on_all(found is not None)
    if found is not None and on_all:
        return found
    made = make()
    if distributed.is_main():
        _keep(path, made, limit)
    distributed.barrier()
    found = _opened(path)
    return made if found is None else found


def _opened(path: Path) -> np.ndarray | None:
    """A whole entry, which counts as used now; else None."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except Exception as error:  # of a spoiled header numpy raises what Python's own tokenizer does
        log.warning("%s in the feature cache cannot be read and is computed again (%s)", path.name, error)
        return None
    with suppress(OSError):  # a cache that may only be read serves too
        os.utime(path)
    return found


def _on_all(has: bool) -> bool:
    """Whether every process has it."""
    mine = [np.array([distributed.rank()])], [np.array([has])]
    return bool(distributed.gather_rows(*mine, distributed.world_size(), share=True).all())


def _keep(path: Path, made: np.ndarray, limit: float) -> None:
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, made, allow_pickle=False)
        _evict(path, limit)
    except OSError as error:
        log.warning("the feature cache cannot be written, and its entry stays in memory: %s", error)


def _evict(kept: Path, limit: float) -> None:
    """Remove what was used longest ago until the cache fits its limit, but not the entry that is kept."""
    files = []
    for file in kept.parent.iterdir():
        with suppress(FileNotFoundError):  # another run evicts too
            stat = file.stat()
            files.append((stat.st_mtime_ns, stat.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit:
            break
        if file != kept:
            file.unlink(missing_ok=True)
            total -= size


def _limit() -> float:
    """The bytes that the cache may hold."""
    said = os.environ.get(CACHE_LIMIT) or str(CACHE_GB)
    try:
        size = float(said)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise SettingError(f"{CACHE_LIMIT}={said!r}: expected the GiB that the feature cache may hold, from 0")
    return size * 2**30


def hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
