"""Features of frozen models, computed once: pooled word vectors, pooled hidden states, activations.
It knows texts, weights and the keys of the cache, not what learns from the features."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import mapped
from nlptransfer.data import JOINT
from nlptransfer.models import partial
from nlptransfer.models.architectures import embeddings_of, layers_of
from nlptransfer.models.arrays import Part, cached_in_parts, sha256
from nlptransfer.models.inference import Function, passed, planned, window_means
from nlptransfer.models.rows import texts_of_rows
from nlptransfer.models.tokens import LongText, RowLimits, TokenRows, as_read, limits_of, token_blocks
from nlptransfer.progress import progress_bar
from nlptransfer.vectors import RESERVED

RECIPE = 2
"""Version of the computation; arrays of another one are computed again."""
PART_ROWS, PART_TOKENS = 2048, 2**16
"""Rows, or tokens with padding, from which a part is full: what a killed run computes again at most."""


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
    return through(key, model, flat, lambda: tokens, lambda rows: tokens.places(rows)[0])


def through(
    key: Mapping[str, Any],
    model: nn.Module,
    function: Function,
    encoded: Callable[[], TokenRows],
    places: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return what ``compute`` gives of encoded texts, from the cache or part by part; all processes call this.

    Parts are some of the batches that are planned of all texts together, and so change no number. ``places`` says where
    the results of some rows go, if not one a row; all places together are 0, 1, ... each once.
    """

    def parts() -> Iterator[Part]:
        tokens = encoded()
        with progress_bar("encoding texts", len(tokens)) as bar:
            done = 0

            def make(batches: Sequence[np.ndarray], order: np.ndarray, firsts: np.ndarray | None) -> np.ndarray:
                values = np.concatenate(passed(model, function, tokens, batches, share=True, bar=bar))[order]
                return values if firsts is None else window_means(values, firsts)

            for batches in _in_parts(planned(model, tokens), tokens):
                rows = np.concatenate([batch if places is None else places(batch) for batch in batches])
                order, firsts = np.argsort(rows), None
                rows = rows[order]
                if places is None and tokens.windows is not None:
                    rows, firsts = np.unique(texts_of_rows(tokens, rows), return_index=True)
                name = json.dumps([batch.tolist() for batch in batches])
                yield Part(name, rows, functools.partial(make, batches, order, firsts))
                done += sum(map(len, batches))
                # What is in the cache counts as well.
                bar.advance(done - bar.done)

    return cached_in_parts(key, parts)


def _in_parts(batches: Sequence[np.ndarray], tokens: TokenRows) -> Iterator[list[np.ndarray]]:
    """Deal out batches to parts, each with all windows of its texts: these are of one length, and so lie together."""
    part, size, lengths = list[np.ndarray](), 0.0, tokens.lengths
    for batch, following in zip_longest(batches, batches[1:]):
        part.append(batch)
        size += len(batch) * max(1 / PART_ROWS, int(lengths[batch].max()) / PART_TOKENS)
        if following is None or (size >= 1 and np.diff(texts_of_rows(tokens, np.array([batch[-1], following[0]])))):
            yield part
            part, size = [], 0.0


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
        "texts": _hash_of_texts(texts),
    }


def _hash_of_texts(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        # With its length: where one ends and the next begins.
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_of_modules(modules: Iterable[nn.Module]) -> str:
    """Hash the weights of modules, as they are in memory, by sha256."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
