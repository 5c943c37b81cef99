"""Distill word vectors out of an encoder.

This file knows encoders word by word, and the cache of what they give; it does not know what the vectors are used for.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np

from nlptransfer.errors import BaseModelError, VectorsError
from nlptransfer.files import cache_folder, content_stamp
from nlptransfer.hub import BaseModel, from_pretrained, weights_hash
from nlptransfer.progress import progress_bar
from nlptransfer.settings import check
from nlptransfer.vectors.store import WordVectors, cached_vectors
from nlptransfer.vectors.tokenizer import PAD, UNKNOWN, is_unspaced, split_words

logger = logging.getLogger("nlptransfer")

RECIPE = 1
"""Version of the distillation; another one is computed again."""
_MAX_PIECES = 64
_BATCH_SIZE = 1024
_SIF = 1e-4


def distill_for_texts(texts: Sequence[str], encoder: BaseModel, *, dimensions: int = 256) -> WordVectors:
    """Distill vectors for the words of these texts and the whole words of the encoder's vocabulary.

    Args:
        texts: running text, whose words come first, by frequency.
        encoder: the frozen encoder.
        dimensions: how many components are kept.
    """
    counts = Counter(word for words in split_words(texts) for word in words)
    words = whole_words((word for word, _ in counts.most_common()), encoder)
    if is_unspaced(texts):
        # A vocabulary mostly of spaced scripts would not be segmented as such text needs it.
        words = [word for word in words if word in counts or is_unspaced([word])]
    return distill_vectors(words, encoder, dimensions=dimensions)


def whole_words(words: Iterable[str], encoder: BaseModel) -> list[str]:
    """List the words of a corpus, then the other whole words of the encoder's vocabulary.

    Args:
        words: most frequent first; of a word that comes twice the first is kept.
        encoder: a vocabulary lists its words about from frequent to rare.
    """
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, encoder)
    reserved = {PAD, UNKNOWN, *tokenizer.all_special_tokens}
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    known = dict.fromkeys(word for word in words if word.strip() and word not in reserved)
    known.update(dict.fromkeys(_pieces_that_are_words([piece for piece, _ in pieces], tokenizer, reserved)))
    return list(known)


def _pieces_that_are_words(pieces: list[str], tokenizer: Any, reserved: set[str]) -> Iterator[str]:
    begins = _word_mark(pieces)
    for piece in pieces:
        if piece in reserved or piece.startswith(("##", "[unused", "<")) or (begins and not piece.startswith(begins)):
            continue
        word = tokenizer.convert_tokens_to_string([piece]).strip() if begins else piece
        if word and word == word.lower() and not any(map(str.isspace, word)) and "\ufffd" not in word:
            yield word


def _word_mark(pieces: Iterable[str]) -> str | None:
    """Return the mark at the beginning of a word: SentencePiece and byte-level BPE have one, WordPiece has none."""
    pieces = list(pieces)
    return next((mark for mark in ("▁", "Ġ") if sum(piece.startswith(mark) for piece in pieces) > 1), None)


def distill_vectors(words: Sequence[str], encoder: BaseModel, *, dimensions: int = 256) -> WordVectors:
    """Distill word vectors: each word by itself through the encoder, then PCA and SIF weights.

    A word's vector is the mean of its last hidden states, [CLS] and [SEP] included, on the main components
    (all where there are no more words than ``dimensions``), times a / (a + p) with p of Zipf's law (SIF, Arora
    et al. 2017; the recipe of model2vec). A word without tokens is zero. The result stays in the cache.

    Args:
        words: most frequent first; of a word that comes twice the first is kept.
        encoder: the frozen encoder.
        dimensions: how many components are kept; the encoder's width where that is smaller, or words are too few.

    Raises:
        VectorsError: there are no words, or the tokenizer makes nothing of any.
        BaseModelError: the model is no encoder, or its weights are not whole.
        SettingError: a number that makes no sense.
    """
    check(dimensions >= 1, "dimensions", dimensions, "at least 1")
    words = list(dict.fromkeys(words))
    if not words:
        raise VectorsError("expected words to distill, found none")
    source = f"{encoder.id} distilled"

    def make() -> tuple[list[str], np.ndarray]:
        logger.info("%s: %s words through the encoder, kept in the cache for the next time", source, f"{len(words):,}")
        states = _word_states(words, encoder)
        return words, _main_components(states, dimensions) * _zipf_weights(len(words))

    return cached_vectors(_cached(f"distilled {dimensions}", encoder, words), source, make)


def _word_states(words: list[str], encoder: BaseModel) -> np.ndarray:
    """As ``_encode_words``; the encoder's own words, which most corpora share, come from the cache."""
    vocabulary = whole_words((), encoder)
    if not vocabulary or not set(vocabulary) <= set(words):
        return _encode_words(words, encoder)
    cached = cached_vectors(
        _cached("states", encoder, vocabulary),
        f"{encoder.id} word by word",
        lambda: (vocabulary, _encode_words(vocabulary, encoder)),
    )
    states = np.empty((len(words), cached.dimensions), dtype=np.float32)
    places = cached.rows(words)
    states[places >= 0] = cached.matrix[places[places >= 0]]
    if others := [word for word, place in zip(words, places, strict=True) if place < 0]:
        states[places < 0] = _encode_words(others, encoder)
    return states


def _cached(kind: str, encoder: BaseModel, words: list[str]) -> Path:
    """Return the folder of the cache for what an encoder and its tokenizer make of words."""
    stamps = f"{RECIPE}\0{weights_hash(encoder)}\0{content_stamp(encoder.path)}\0{kind}\0"
    digest = hashlib.sha256((stamps + "\n".join(words)).encode("utf-8", "surrogatepass"))
    return cache_folder("vectors") / f"{kind.partition(' ')[0]}-{digest.hexdigest()[:32]}"


def _encode_words(words: list[str], encoder: BaseModel) -> np.ndarray:
    """Return the mean of each word's last hidden states, (words, hidden) float32."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, encoder)
    config = from_pretrained(AutoConfig, encoder)
    if config.is_encoder_decoder:
        raise BaseModelError(
            f"{encoder.id}: expected an encoder, found {config.model_type} with a decoder: take another"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = from_pretrained(AutoModel, encoder, use_safetensors=True, dtype=torch.float32)
    model.eval().to(device)
    # Byte-level BPE has other pieces for a word that follows a space, as most words of a text do.
    space = " " if _word_mark(tokenizer.get_vocab()) == "Ġ" else ""
    ids = tokenizer([space + word for word in words], truncation=True, max_length=_MAX_PIECES)["input_ids"]
    states: np.ndarray | None = None
    with progress_bar(logger.isEnabledFor(logging.INFO)) as bar, torch.inference_mode():
        task = bar.add_task(f"{encoder.id}, word by word", total=len(words))
        for rows in _batches_of_one_length(ids):
            batch = torch.tensor([ids[row] for row in rows], device=device)
            hidden = model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
            mean = hidden.mean(dim=1).float().cpu().numpy()
            states = np.zeros((len(words), mean.shape[1]), dtype=np.float32) if states is None else states
            states[rows] = mean
            bar.advance(task, len(rows))
    if states is None:
        raise VectorsError(f"{encoder.id}: expected words, found none of which its tokenizer makes anything")
    return states


def _batches_of_one_length(ids: list[list[int]]) -> Iterator[list[int]]:
    """Yield rows of equal length together: nothing is padded, and a word's vector depends on no other word."""
    order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row]))
    for _, group in groupby(order, key=lambda row: len(ids[row])):
        rows = list(group)
        yield from (rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE))


def _main_components(states: np.ndarray, dimensions: int) -> np.ndarray:
    """Project (n, hidden) states on their main axes; they stay as they are where n is no more than ``dimensions``."""
    from sklearn.decomposition import PCA

    if len(states) <= dimensions:
        return states
    # It makes the largest entry of each axis positive, so that all machines agree.
    pca = PCA(min(dimensions, states.shape[1]), svd_solver="covariance_eigh")
    return cast(np.ndarray, pca.fit_transform(states.astype(np.float64)).astype(np.float32))


def _zipf_weights(count: int) -> np.ndarray:
    """Return SIF weights a / (a + p) for words in the order of their frequency, (count, 1) float32."""
    inverse = 1 / np.arange(2, count + 2)
    share = inverse / inverse.sum()
    return cast(np.ndarray, (_SIF / (_SIF + share)).astype(np.float32)[:, None])
