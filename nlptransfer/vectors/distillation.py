"""Distill word vectors out of an encoder, word by word; this file does not know what they are used for."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from nlptransfer.errors import BaseModelError, VectorsError
from nlptransfer.files import content_stamp
from nlptransfer.hub import BaseModel, from_pretrained, weights_hash
from nlptransfer.progress import progress_bar
from nlptransfer.settings import check
from nlptransfer.vectors.formats import Block, array_blocks
from nlptransfer.vectors.store import WordVectors, cache_place, cached_vectors
from nlptransfer.vectors.tokenizer import PAD, UNKNOWN, is_unspaced, split_words, word_mark

logger = logging.getLogger("nlptransfer")

VECTORS_RECIPE = 1
"""Version of the distillation; another one is computed again."""
_MAX_PIECES = 64
_BATCH_SIZE = 1024
_SIF = 1e-4


def distill_for_texts(texts: Sequence[str], encoder: BaseModel, *, dimensions: int = 256) -> WordVectors:
    """Distill vectors for the words of these texts, by frequency, and the whole words of the encoder's vocabulary."""
    counts = Counter(word for words in split_words(texts) for word in words)
    words = whole_words((word for word, _ in counts.most_common()), encoder)
    if is_unspaced(texts):
        # A vocabulary mostly of spaced scripts would not be segmented as such text needs it.
        words = [word for word in words if word in counts or is_unspaced([word])]
    return distill_vectors(words, encoder, dimensions=dimensions)


def whole_words(words: Iterable[str], encoder: BaseModel) -> list[str]:
    """List the words of a corpus, then the other whole words of the encoder's vocabulary, which has rare ones last."""
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, encoder)
    reserved = {PAD, UNKNOWN, *tokenizer.all_special_tokens}
    places = tokenizer.get_vocab()
    known = dict.fromkeys(word for word in words if word.strip() and word not in reserved)
    begins = word_mark(places)
    for piece in sorted(places, key=places.__getitem__):
        if piece in reserved or piece.startswith(("##", "[unused", "<")) or not piece.startswith(begins):
            continue
        word = tokenizer.convert_tokens_to_string([piece]).strip() if begins else piece
        if word and word == word.lower() and not any(map(str.isspace, word)) and "\ufffd" not in word:
            known[word] = None
    return list(known)


def distill_vectors(words: Sequence[str], encoder: BaseModel, *, dimensions: int = 256) -> WordVectors:
    """Distill word vectors: each word by itself through the encoder, then PCA and SIF weights.

    A word's vector is the mean of its last hidden states, [CLS] and [SEP] included, on its ``dimensions`` main
    components (all where the encoder is narrower, or words are no more), times a / (a + p) with p of Zipf's law (SIF,
    Arora et al. 2017; the recipe of model2vec). A word without tokens is zero. The result stays in the cache.
    ``words`` are most frequent first, and repeats are passed over.
    """
    check(dimensions >= 1, "dimensions", dimensions, "at least 1")
    words = list(dict.fromkeys(words))
    if not words:
        raise VectorsError("expected words to distill, found none")
    source = f"{encoder.id} distilled"

    def make(_: Path) -> Iterator[Block]:
        logger.info("%s: %s words through the encoder, kept in the cache for the next time", source, f"{len(words):,}")
        # Zipf's law: the word at place i is as frequent as 1 / (i + 2).
        inverse = 1 / np.arange(2, len(words) + 2)
        weights = (_SIF / (_SIF + inverse / inverse.sum())).astype(np.float32)[:, None]
        return array_blocks(source, words, _main_components(_word_states(words, encoder), dimensions) * weights)

    return cached_vectors(_cached(f"distilled {dimensions}", encoder, words), source, make)


def _word_states(words: list[str], encoder: BaseModel) -> np.ndarray:
    """Encode words; those of the encoder's vocabulary come from the cache."""
    vocabulary = whole_words((), encoder)
    if not vocabulary or not set(vocabulary) <= set(words):
        return _encode_words(words, encoder)
    folder, source = _cached("states", encoder, vocabulary), f"{encoder.id} word by word"
    cached = cached_vectors(
        folder, source, lambda _: array_blocks(source, vocabulary, _encode_words(vocabulary, encoder))
    )
    states = np.empty((len(words), cached.dimensions), dtype=np.float32)
    places = cached.rows(words)
    states[places >= 0] = cached.matrix[places[places >= 0]]
    if others := [word for word, place in zip(words, places, strict=True) if place < 0]:
        states[places < 0] = _encode_words(others, encoder)
    return states


def _cached(kind: str, encoder: BaseModel, words: list[str]) -> Path:
    stamps = f"{VECTORS_RECIPE}\0{weights_hash(encoder)}\0{content_stamp(encoder.path)}\0{kind}\0"
    return cache_place(f"{kind.partition(' ')[0]}-", stamps, "\n".join(words))


def _encode_words(words: list[str], encoder: BaseModel) -> np.ndarray:
    """Return the mean of each word's last hidden states, (words, hidden) float32."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, encoder)
    config = from_pretrained(AutoConfig, encoder)
    if config.is_encoder_decoder:
        found = f"{config.model_type} with a decoder"
        raise BaseModelError(f"{encoder.id}: expected an encoder, found {found}: take another")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = from_pretrained(AutoModel, encoder, use_safetensors=True, dtype=torch.float32)
    model.eval().to(device)
    # Byte-level BPE has other pieces for a word that follows a space, as most words of a text do.
    space = " " if word_mark(tokenizer.get_vocab()) == "Ġ" else ""
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
    from sklearn.decomposition import PCA

    if len(states) <= dimensions:
        return states
    # It makes the largest entry of each axis positive, so that all machines agree.
    pca = PCA(min(dimensions, states.shape[1]), svd_solver="covariance_eigh")
    return np.asarray(pca.fit_transform(states.astype(np.float64)), dtype=np.float32)
