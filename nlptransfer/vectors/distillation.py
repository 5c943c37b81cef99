"""Distill word vectors out of an encoder, word by word; this file does not know what they are used for."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, cast

import numpy as np

from nlptransfer.cache import entries, open_entry
from nlptransfer.errors import BaseModelError, VectorsError
from nlptransfer.files import content_stamp
from nlptransfer.hub import (
    BaseModel,
    base_prompt,
    fast_tokenizer,
    from_pretrained,
    warn_of_unknown,
    weights_hash,
)
from nlptransfer.progress import progress_bar
from nlptransfer.settings import check
from nlptransfer.vectors.formats import Block, array_blocks
from nlptransfer.vectors.store import WordVectors, cache_place, cached_vectors, open_folder
from nlptransfer.vectors.tokenizer import PAD, UNKNOWN, is_unspaced, split_words, word_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("nlptransfer")

VECTORS_RECIPE = 1
"""Version of the distillation; another one is computed again."""
_MAX_PIECES = 64
_BATCH_SIZE = 128
_PIECE = 32
"""Batches that are saved together."""
_SIF = 1e-4


def distill_for_texts(
    texts: Sequence[str], encoder: BaseModel, *, dimensions: int = 256, max_words: int = 100_000
) -> WordVectors:
    """Distill vectors for the words of these texts, by frequency, and the whole words of the encoder's vocabulary.

    Of all these at most ``max_words`` are kept, the first ones.
    """
    check(max_words >= 1, "max_words", max_words, "at least 1")
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, encoder)
    if tokenizer.is_fast:
        warn_of_unknown(encoder, tokenizer, texts)
    counts = Counter(word for words in split_words(texts) for word in words)
    words = whole_words((word for word, _ in counts.most_common()), tokenizer)
    if is_unspaced(texts):
        # A vocabulary mostly of spaced scripts would not be segmented as such text needs it.
        words = [word for word in words if word in counts or is_unspaced([word])]
    if len(counts) > max_words:
        message = "%s: of the %s words of the texts only the %s most frequent get a vector (max_words)"
        logger.warning(message, encoder.id, f"{len(counts):,}", f"{max_words:,}")
    return distill_vectors(words[:max_words], encoder, dimensions=dimensions)


def whole_words(words: Iterable[str], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """List the words of a corpus, then the other whole words of an encoder's vocabulary, which has rare ones last."""
    reserved = {PAD, UNKNOWN, *tokenizer.all_special_tokens}
    places = tokenizer.get_vocab()
    known = dict.fromkeys(word for word in words if word.strip() and word not in reserved)
    begins = word_mark(places)
    for piece in sorted(places, key=places.__getitem__):
        if piece in reserved or piece.startswith(("##", "[unused", "<")) or not piece.startswith(begins):
            continue
        word = str(tokenizer.convert_tokens_to_string([piece])).strip() if begins else piece
        if word and word == word.lower() and not any(map(str.isspace, word)) and "\ufffd" not in word:
            known[word] = None
    return list(known)


def distill_vectors(words: Sequence[str], encoder: BaseModel, *, dimensions: int = 256) -> WordVectors:
    """Distill word vectors: each word by itself through the encoder, then PCA and SIF weights.

    A word's vector is the mean of its last hidden states, [CLS] and [SEP] included, on its ``dimensions`` main
    components (all where the encoder is narrower, or words are no more), times a / (a + p) with p of Zipf's law (SIF,
    Arora et al. 2017; the recipe of model2vec). An encoder that was trained with a prompt reads it before each word,
    and the mean is that of the word's tokens alone, which scored better on validation than that of all. A word without
    tokens is zero. The result stays in the cache. ``words`` are most frequent first, and repeats are passed over.
    """
    check(dimensions >= 1, "dimensions", dimensions, "at least 1")
    words = list(dict.fromkeys(words))
    if not words:
        raise VectorsError("expected words to distill, found none")
    source = f"{encoder.id} distilled"

    def make(_: Path) -> Iterator[Block]:
        # Zipf's law: the word at place i is as frequent as 1 / (i + 2).
        inverse = 1 / np.arange(2, len(words) + 2)
        weights = (_SIF / (_SIF + inverse / inverse.sum())).astype(np.float32)[:, None]
        return array_blocks(source, words, _main_components(_word_states(words, encoder), dimensions) * weights)

    place = cache_place("distilled-", _stamps(encoder), f"\0distilled {dimensions}\0", "\n".join(words))
    return cached_vectors(place, source, make)


def _stamps(encoder: BaseModel) -> str:
    known = [str(VECTORS_RECIPE), weights_hash(encoder), content_stamp(encoder.path)]
    known += [prompt] if (prompt := base_prompt(encoder)) else []
    known += [f"first {encoder.keep_layers} layers"] if encoder.keep_layers else []
    return "\0".join(known)


def _word_states(words: list[str], encoder: BaseModel) -> np.ndarray:
    """Return the states of words, (words, hidden) float32; what any corpus had before comes from the cache.

    Those that are new are saved piece by piece, so that a run that is killed goes on from there.
    """
    place, source = cache_place("states-", _stamps(encoder)), f"{encoder.id} word by word"
    pieces, new = list[WordVectors](), set(words)
    for folder in entries(place.with_name(f"{place.name}-")):
        if (piece := open_entry(folder, source, open_folder)) is not None:
            pieces.append(piece)
            new.difference_update(piece.words())
    if new:
        for part, states in _encode_words([word for word in words if word in new], encoder):
            pieces.append(_saved_piece(place, source, part, states))
    states = np.zeros((len(words), pieces[0].dimensions if pieces else 0), dtype=np.float32)
    for piece in pieces:
        rows = piece.rows(words)
        states[rows >= 0] = piece.matrix[rows[rows >= 0]]
    if not states.any():
        raise VectorsError(f"{encoder.id}: expected words, found none of which its tokenizer makes anything")
    return states


def _saved_piece(place: Path, source: str, words: list[str], states: np.ndarray) -> WordVectors:
    folder = cache_place(f"{place.name}-", "\n".join(words))
    return cached_vectors(folder, source, lambda _: array_blocks(source, words, states))


def _encode_words(words: list[str], encoder: BaseModel) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield words, some at a time, and the mean of each one's last hidden states, (words, hidden) float32."""
    ids, mean_states = _opened(words, encoder)
    batches = list(_batches_of_one_length(ids))
    # Long and short ones by turns, so that the first show how long all take.
    batches = [batches[place] for place in np.random.default_rng(0).permutation(len(batches))]
    began, about = monotonic(), ""
    with progress_bar(f"{encoder.id}, word by word", len(words), "words") as bar:
        for start in range(0, len(batches), _PIECE):
            parts = []
            for rows in batches[start : start + _PIECE]:
                # All batches are of one size: in another one a word's numbers would differ in their last bits.
                filled = [*rows, *rows[:1] * (_BATCH_SIZE - len(rows))]
                parts.append(mean_states(filled)[: len(rows)])
                bar.advance(len(rows))
            if start == 0:
                if len(batches) > _PIECE:
                    minutes = (monotonic() - began) / 60 * len(batches) / _PIECE
                    about = f", about {minutes:.1f} minutes in all; what is done stays in the cache"
                logger.info("%s makes vectors for %s words%s", encoder.id, f"{len(words):,}", about)
            yield [words[row] for rows in batches[start : start + _PIECE] for row in rows], np.concatenate(parts)


def _opened(words: list[str], encoder: BaseModel) -> tuple[list[list[int]], Callable[[list[int]], np.ndarray]]:
    """Return the token ids of words, none of one without tokens, and what gives the (batch, hidden) mean states of
    rows of equal length."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    prompt = base_prompt(encoder)
    tokenizer = fast_tokenizer(encoder) if prompt else from_pretrained(AutoTokenizer, encoder)
    config = from_pretrained(AutoConfig, encoder)
    if config.is_encoder_decoder:
        found = f"{config.model_type} with a decoder"
        raise BaseModelError(f"{encoder.id}: expected an encoder, found {found}: take another")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = from_pretrained(AutoModel, encoder, use_safetensors=True, dtype=torch.float32)
    model.eval().to(device)
    # Byte-level BPE has other pieces for a word that follows a space, as most words of a text do.
    before = prompt + (" " if word_mark(tokenizer.get_vocab()) == "Ġ" and not prompt.endswith(" ") else "")
    longest = _MAX_PIECES + (len(tokenizer(prompt)["input_ids"]) if prompt else 0)
    options = {"truncation": True, "max_length": longest, "return_offsets_mapping": bool(prompt)}
    encoded = tokenizer([before + word for word in words], **options)
    ids: list[list[int]] = encoded["input_ids"]
    # Special tokens end where they begin, at 0.
    inner = [[end > len(before) for _, end in places] for places in encoded["offset_mapping"]] if prompt else []

    @torch.inference_mode()
    def mean_states(rows: list[int]) -> np.ndarray:
        batch = torch.tensor([ids[row] for row in rows], device=device)
        hidden = model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
        if not prompt:
            return cast(np.ndarray, hidden.mean(dim=1).float().cpu().numpy())
        mask = torch.tensor([inner[row] for row in rows], device=device)[..., None]
        return cast(np.ndarray, ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy())

    if prompt:
        ids = [row if any(mask) else [] for row, mask in zip(ids, inner, strict=True)]
    return ids, mean_states


def _batches_of_one_length(ids: list[list[int]]) -> Iterator[list[int]]:
    """Yield rows of equal length together: nothing is padded."""
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
