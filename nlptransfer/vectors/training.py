"""Train word vectors by gensim, from nothing or from others; this file knows no labels, nor where texts come from."""

import logging
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.errors import VectorsError
from nlptransfer.progress import progress_bar
from nlptransfer.settings import check
from nlptransfer.vectors.distillation import VECTORS_RECIPE
from nlptransfer.vectors.formats import Block, array_blocks
from nlptransfer.vectors.sources import vocabulary
from nlptransfer.vectors.store import WordVectors, cache_place, cached_vectors
from nlptransfer.vectors.tokenizer import PAD, UNKNOWN, build_tokenizer, split_words, surface_words

logger = logging.getLogger("nlptransfer")

# gensim silently drops what follows in a longer text.
_GENSIM_TEXT = 10_000


def train_vectors(
    texts: Iterable[str],
    *,
    dimensions: int = 100,
    window: int = 5,
    min_count: int = 3,
    epochs: int = 10,
    seed: int = 0,
) -> tuple[list[str], np.ndarray]:
    """Train word2vec on running text: skip-gram with 5 negative samples (Mikolov et al. 2013, by gensim).

    ``window`` words to each side are context, and words rarer than ``min_count`` get no vector; it is a VectorsError if
    all are. The same texts and seed give the same words, most frequent first, and (n, dimensions) float32 vectors.
    """
    for name, value in (("dimensions", dimensions), ("window", window), ("min_count", min_count), ("epochs", epochs)):
        check(value >= 1, name, value, "at least 1")
    sentences, counts = _sentences(split_words(list(texts)))
    if not counts or max(counts.values()) < min_count:
        found = f"the most frequent of {len(counts)} comes {max(counts.values(), default=0)} times"
        raise VectorsError(
            f"expected words that come at least min_count={min_count} times, found that {found}: give more text"
        )
    from gensim.models import Word2Vec

    with _ticking(counts, epochs) as tick:
        model = Word2Vec(
            sentences, vector_size=dimensions, window=window, min_count=min_count, epochs=epochs, sg=1,
            seed=seed, workers=1, hashfxn=_stable_hash, callbacks=[tick],
        )  # fmt: skip
    return list(model.wv.index_to_key), np.ascontiguousarray(model.wv.vectors, dtype=np.float32)


def continued_vectors(
    vectors: WordVectors,
    texts: Sequence[str],
    *,
    max_words: int = 100_000,
    window: int = 5,
    min_count: int = 3,
    epochs: int = 10,
    learning_rate: float = 0.025,
    seed: int = 0,
) -> WordVectors:
    """Train word vectors further on texts, as :func:`train_vectors` does; the result stays in the cache.

    A file of vectors has no contexts. So they are learned first, and the vectors of new words with them, while those of
    the known words are held; then all learn. Known words that the texts do not have stay as they are.

    At most ``max_words`` known words are kept, those of the texts before others; words of the texts without a vector
    get one where they come ``min_count`` times. Either part takes ``epochs`` passes, at ``learning_rate`` in the
    beginning, and ``window`` words to each side are context. Known words come first, then new ones by frequency.
    """
    known, matrix = vocabulary(vectors, texts, max_words, unit_length=False)
    settings = {
        "window": window, "min_count": min_count, "epochs": epochs, "alpha": learning_rate, "seed": seed,
    }  # fmt: skip
    recipe = f"{VECTORS_RECIPE}\0continued\0{sorted(settings.items())}"
    folder = cache_place("continued-", recipe, "\0", "\n".join(known), "\0", "\0".join(texts), "\0", matrix.tobytes())
    source = f"{vectors.source} continued"

    def make(_: Path) -> Iterator[Block]:
        sentences, counts = _sentences(surface_words(build_tokenizer(known), texts))
        is_known = {*known, PAD, UNKNOWN}
        new = [word for word, count in counts.most_common() if count >= min_count and word not in is_known]
        logger.info("%s are trained further on %d texts, with %d new words", vectors.source, len(texts), len(new))
        trained = _trained_further(known, matrix, new, sentences, counts, settings)
        return array_blocks(source, [*known, *new], trained)

    return cached_vectors(folder, source, make)


def _trained_further(
    known: list[str],
    matrix: np.ndarray,
    new: list[str],
    sentences: list[list[str]],
    counts: Counter[str],
    settings: dict[str, Any],
) -> np.ndarray:
    from gensim.models import Word2Vec

    trained = np.concatenate([matrix, np.zeros((len(new), matrix.shape[1]), dtype=np.float32)])
    rows = {word: row for row, word in enumerate([*known, *new]) if counts[word]}
    if not rows:
        raise VectorsError("expected words of the texts that have a vector, or come often enough for one, found none")
    model = Word2Vec(
        hashfxn=_stable_hash, vector_size=matrix.shape[1], min_count=1, sg=1, workers=1,
        **{name: value for name, value in settings.items() if name != "min_count"},
    )  # fmt: skip
    model.build_vocab_from_freq({word: counts[word] for word in rows})
    places = np.array([rows[word] for word in model.wv.index_to_key])
    is_known = places < len(known)
    model.wv.vectors[is_known] = matrix[places[is_known]]
    with _ticking(counts, 2 * model.epochs) as tick:
        for hold_known in (True, False):
            # A rate that rises again is worth a warning to gensim.
            model.min_alpha_yet_reached = model.alpha
            # What each word's own steps are multiplied by.
            model.wv.vectors_lockf = np.where(is_known & hold_known, 0, 1).astype(np.float32)
            model.train(sentences, total_examples=len(sentences), epochs=model.epochs, callbacks=[tick])
    trained[places] = model.wv.vectors
    return trained


def _sentences(words_of_texts: Iterable[list[str]]) -> tuple[list[list[str]], Counter[str]]:
    sentences = [
        [sys.intern(word) for word in words[start : start + _GENSIM_TEXT]]
        for words in words_of_texts
        for start in range(0, len(words), _GENSIM_TEXT)
    ]
    return sentences, Counter(word for words in sentences for word in words)


@contextmanager
def _ticking(counts: Counter[str], epochs: int) -> Iterator[Any]:
    """Yield a callback for gensim that moves a progress bar on after each epoch."""
    from gensim.models.callbacks import CallbackAny2Vec

    with progress_bar(f"word2vec on {counts.total():,} words", epochs, "epochs") as bar:

        class Tick(CallbackAny2Vec):
            def on_epoch_end(self, model: Any) -> None:
                bar.advance()

        yield Tick()


def _stable_hash(word: str) -> int:
    """Hash a word alike in every process, which Python's own hash does not."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))
