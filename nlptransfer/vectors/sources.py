"""Find the word vectors that a base names, and the words of them to keep; this file does not read or make any."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from nlptransfer.hub import find_base, find_packaged_vectors, is_encoder
from nlptransfer.settings import check
from nlptransfer.vectors.distillation import distill_for_texts
from nlptransfer.vectors.store import WordVectors, open_vectors
from nlptransfer.vectors.tokenizer import build_tokenizer, is_unspaced, surface_words

logger = logging.getLogger("nlptransfer")


def vectors_for(
    texts: Sequence[str],
    base: str | None,
    revision: str | None,
    *,
    dimensions: int = 256,
    max_words: int = 100_000,
    keep_layers: int | None = None,
    allow_pickle: bool = False,
) -> tuple[WordVectors, dict[str, Any]]:
    """Open or distill the word vectors that a base names, and say where they come from.

    A ``base`` is a file or name of word vectors, an encoder with its ``revision`` on the hub, or None for the default
    encoder; of an encoder, or its first ``keep_layers`` layers, vectors of ``dimensions`` are distilled for at most
    ``max_words`` words, those of the running ``texts`` before others.
    """
    from nlptransfer import distributed  # it imports torch, which making vectors from text does without

    with distributed.main_first():
        if base is not None and not is_encoder(base):
            check(revision is None, "revision", revision, "none, as a file of word vectors has no revisions")
            check(keep_layers is None, "keep_layers", keep_layers, "none, as word vectors have no layers")
            vectors = open_vectors(base, allow_pickle=allow_pickle)
            packaged = find_packaged_vectors(base)
            license = {} if packaged is None else {"license": packaged.license}
            return vectors, {"kind": "vectors", "name": vectors.source, **license}
        encoder = replace(find_base(base, revision), keep_layers=keep_layers)
        vectors = distill_for_texts(texts, encoder, dimensions=dimensions, max_words=max_words)
        layers = {"keep_layers": keep_layers} if keep_layers else {}
        return vectors, {"kind": "distilled", "name": encoder.id, "revision": encoder.revision, **layers}


def vocabulary(
    vectors: WordVectors, texts: Sequence[str], max_words: int, *, unit_length: bool
) -> tuple[list[str], np.ndarray]:
    """Choose at most ``max_words`` words, those of the texts before others; most frequent first, with their vectors.

    Words of the texts that have a vector by their n-grams alone come last, by their frequency in the texts. The vectors
    are (words, dimensions) float32, scaled to length 1 with ``unit_length``.
    """
    used, lacking, subwords = np.zeros(0, dtype=np.int64), list[str](), vectors.subwords
    if len(vectors) > max_words or subwords is not None:
        sample = vectors.words(0, 20_000)
        # Unspaced text is segmented by all the words; spaced text by habits that a sample shows.
        habit = build_tokenizer(vectors.words() if is_unspaced(sample) else sample)
        counts = Counter(word for words in surface_words(habit, texts) for word in words)
        by_frequency = [word for word, _ in counts.most_common()]
        rows = vectors.rows(by_frequency)
        used = np.sort(rows[rows >= 0])[:max_words]
        if subwords is not None:
            lacking = [word for word, row in zip(by_frequency, rows, strict=True) if row < 0 and subwords.knows(word)]
            lacking = lacking[: max_words - len(used)]
            logger.info("%s: %d words of the texts have vectors by n-grams alone", vectors.source, len(lacking))
    others = np.setdiff1d(np.arange(min(len(vectors), max_words)), used)
    places = np.union1d(used, others[: max_words - len(used) - len(lacking)])
    matrix = np.array(vectors.matrix[places], dtype=np.float32)
    if subwords is not None:
        matrix = np.concatenate([matrix, subwords.vectors(lacking)])
    return [*vectors.words_at(places), *lacking], of_unit_length(matrix) if unit_length else matrix


def of_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale (n, dimensions) vectors to length 1; zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast(np.ndarray, vectors / np.where(norms > 0, norms, 1))
