"""Word vectors made here: trained on one's own text, or distilled out of an encoder."""

import hashlib
import logging
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.errors import BaseModelError, VectorsError
from nlptransfer.files import cache_folder
from nlptransfer.hub import BaseModel, find_base, from_pretrained, is_encoder, weights_hash
from nlptransfer.progress import progress_bar
from nlptransfer.segmentation import PAD, UNKNOWN, build_tokenizer, is_unspaced, split_words, surface_words
from nlptransfer.settings import check
from nlptransfer.vectors import WordVectors, cached_vectors, open_vectors

logger = logging.getLogger("nlptransfer")

_RECIPE = 1
"""Version of the distillation; another one is computed again."""
# gensim silently drops what follows in a longer text.
_GENSIM_TEXT = 10_000
_MAX_PIECES = 64
_SIF = 1e-4


def train_vectors(
    texts: Iterable[str],
    *,
    dimensions: int = 100,
    window: int = 5,
    min_count: int = 3,
    epochs: int = 10,
    skip_gram: bool = True,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> tuple[list[str], np.ndarray]:
    """Train word2vec on one's own text (Mikolov et al. 2013, by gensim), with 5 negative samples.

    Args:
        texts: running text.
        dimensions: the length of a vector.
        window: how many words to each side are context.
        min_count: words that are rarer get no vector.
        epochs: passes over the text.
        skip_gram: predict the context from the word; otherwise the word from its context (CBOW).
        seed: same texts and seed, same vectors, as long as ``workers`` is 1.
        workers: threads.
        progress: show a bar on a terminal.

    Returns:
        The words, most frequent first, and their (n, dimensions) float32 vectors.

    Raises:
        VectorsError: no word comes ``min_count`` times.
        SettingError: a number that makes no sense.
    """
    for name, value in (("dimensions", dimensions), ("window", window), ("min_count", min_count), ("epochs", epochs)):
        check(value >= 1, name, value, "at least 1")
    sentences = _sentences(split_words(list(texts)))
    counts = Counter(word for words in sentences for word in words)
    if not counts or max(counts.values()) < min_count:
        found = f"the most frequent of {len(counts)} comes {max(counts.values(), default=0)} times"
        raise VectorsError(
            f"expected words that come at least min_count={min_count} times, found that {found}: give more text"
        )
    model = _word2vec(sentences, counts, progress, {
        "vector_size": dimensions, "window": window, "min_count": min_count, "epochs": epochs, "sg": int(skip_gram),
        "seed": seed, "workers": workers,
    })  # fmt: skip
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
    progress: bool = True,
) -> WordVectors:
    """Word vectors trained further on texts: skip-gram with 5 negative samples (Mikolov et al. 2013, by gensim).

    A file of vectors has no contexts. So they are learnt first, and the vectors of new words with them, while those of
    the known words are held; then all learn. Known words that the texts do not have stay as they are. The result stays
    in the cache, under the vectors, the texts and the settings.

    Args:
        vectors: those to begin with.
        texts: running text, cut into words as the vectors have them.
        max_words: known words that are kept, those of the texts before others.
        window: how many words to each side are context.
        min_count: words of the texts that come as often get a vector, where they have none.
        epochs: passes over the texts, in either part.
        learning_rate: at the beginning of either part.
        seed: same vectors, texts and seed, same result.
        progress: show a bar on a terminal.

    Returns:
        The known words, then the new ones, most frequent first.
    """
    known, matrix = vocabulary(vectors, texts, max_words, unit_length=False)
    settings = {
        "window": window, "min_count": min_count, "epochs": epochs, "alpha": learning_rate, "seed": seed,
    }  # fmt: skip
    digest = hashlib.sha256(f"{_RECIPE}\0continued\0{sorted(settings.items())}\0".encode())
    for part in ("\n".join(known), "\0".join(texts)):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(matrix.tobytes())

    def make() -> tuple[list[str], np.ndarray]:
        sentences = _sentences(surface_words(build_tokenizer(known), texts))
        counts = Counter(word for words in sentences for word in words)
        is_known = {*known, PAD, UNKNOWN}
        new = [word for word, count in counts.most_common() if count >= min_count and word not in is_known]
        logger.info("%s: trained further on %d texts, with %d new words", vectors.source, len(texts), len(new))
        return [*known, *new], _trained_further(known, matrix, new, sentences, counts, progress, settings)

    folder = cache_folder("vectors") / f"continued-{digest.hexdigest()[:32]}"
    return cached_vectors(folder, f"{vectors.source} continued", make)


def _trained_further(
    known: list[str],
    matrix: np.ndarray,
    new: list[str],
    sentences: list[list[str]],
    counts: Counter[str],
    progress: bool,
    settings: dict[str, Any],
) -> np.ndarray:
    """(known and new words, dimensions): the vectors of the known words, then of the new ones, as training leaves them.

    Args:
        matrix: (known words, dimensions)
    """
    from gensim.models import Word2Vec

    found = np.concatenate([matrix, np.zeros((len(new), matrix.shape[1]), dtype=np.float32)])
    rows = {word: row for row, word in enumerate([*known, *new]) if counts[word]}
    if not rows:
        raise VectorsError("expected words of the texts that have a vector, or come often enough for one, found none")
    own = {**settings, "vector_size": matrix.shape[1], "min_count": 1, "sg": 1, "workers": 1}
    model = Word2Vec(hashfxn=_stable_hash, **own)
    model.build_vocab_from_freq({word: counts[word] for word in rows})
    places = np.array([rows[word] for word in model.wv.index_to_key])
    is_known = places < len(known)
    model.wv.vectors[is_known] = matrix[places[is_known]]
    with progress_bar(progress) as bar:
        task = bar.add_task(f"word2vec on {counts.total():,} words", total=2 * model.epochs)
        for held in (True, False):
            # A rate that rises again is worth a warning to gensim.
            model.min_alpha_yet_reached = model.alpha
            # What each word's own steps are multiplied by.
            model.wv.vectors_lockf = np.where(is_known & held, 0, 1).astype(np.float32)
            model.train(sentences, total_examples=len(sentences), epochs=model.epochs, callbacks=[_ticking(bar, task)])
    found[places] = model.wv.vectors
    return found


def _sentences(words_of_texts: Iterable[list[str]]) -> list[list[str]]:
    """The words of texts, of very long ones in parts."""
    return [
        [sys.intern(word) for word in words[start : start + _GENSIM_TEXT]]
        for words in words_of_texts
        for start in range(0, len(words), _GENSIM_TEXT)
    ]


def _word2vec(sentences: list[list[str]], counts: Counter[str], progress: bool, settings: dict[str, Any]) -> Any:
    from gensim.models import Word2Vec

    with progress_bar(progress) as bar:
        task = bar.add_task(f"word2vec on {counts.total():,} words", total=settings["epochs"])
        # Python's own hash of a string differs from process to process.
        return Word2Vec(sentences, hashfxn=_stable_hash, callbacks=[_ticking(bar, task)], **settings)


def _ticking(bar: Any, task: Any) -> Any:
    from gensim.models.callbacks import CallbackAny2Vec

    class Tick(CallbackAny2Vec):
        def on_epoch_end(self, model: Any) -> None:
            bar.advance(task)

    return Tick()


def _stable_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def vectors_for(
    texts: Sequence[str], base: str | None, revision: str | None, *, dimensions: int = 256, allow_pickle: bool = False
) -> tuple[WordVectors, dict[str, Any]]:
    """The word vectors that a base names, and where they come from.

    Args:
        texts: running text; where ``base`` names an encoder, vectors for its words are distilled.
        base: a file or name of word vectors, an encoder, or None for the default encoder.
        revision: of an encoder on the hub.
        dimensions: of distilled vectors.
        allow_pickle: whether gensim's own files, which are pickles and can run code, are opened.
    """
    from nlptransfer import distributed  # it imports torch, which making vectors from text does without

    with distributed.main_first():
        if base is not None and not is_encoder(base):
            check(revision is None, "revision", revision, "none, as a file of word vectors has no revisions")
            vectors = open_vectors(base, allow_pickle=allow_pickle)
            return vectors, {"kind": "vectors", "name": vectors.source}
        encoder = find_base(base, revision)
        vectors = distil_for_texts(texts, encoder, dimensions=dimensions)
        return vectors, {"kind": "distilled", "name": encoder.id, "revision": encoder.revision}


def vocabulary(
    vectors: WordVectors, texts: Sequence[str], max_words: int, *, unit_length: bool
) -> tuple[list[str], np.ndarray]:
    """The words to keep, those of the texts before others, and their vectors.

    Args:
        unit_length: whether each vector is scaled to length 1.

    Returns:
        At most ``max_words`` words, most frequent first, and their (words, dimensions) float32.
    """
    places = np.arange(min(len(vectors), max_words))
    if len(vectors) > max_words:
        sample = vectors.words(0, 20_000)
        # Unspaced text is cut by all the words; spaced text by habits that a sample shows.
        habit = build_tokenizer(vectors.words() if is_unspaced(sample) else sample)
        found = vectors.rows(sorted({word for words in surface_words(habit, texts) for word in words}))
        found = np.sort(found[found >= 0])[:max_words]
        places = np.union1d(found, np.setdiff1d(places, found)[: max_words - len(found)])
    matrix = np.array(vectors.matrix[places], dtype=np.float32)
    if unit_length:
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix /= np.where(norms > 0, norms, 1)
    return vectors.words_at(places), matrix


def distil_for_texts(
    texts: Sequence[str], encoder: BaseModel, *, dimensions: int = 256, progress: bool = True
) -> WordVectors:
    """Word vectors out of an encoder for the words of these texts and the whole words of its own vocabulary.

    Args:
        texts: running text, whose words come first, by frequency.
        encoder: the frozen encoder.
        dimensions: how many components are kept.
        progress: show a bar on a terminal.
    """
    counts = Counter(word for words in split_words(texts) for word in words)
    words = whole_words((word for word, _ in counts.most_common()), encoder)
    if is_unspaced(texts):
        # A vocabulary mostly of spaced scripts would not be cut as such text needs it.
        words = [word for word in words if word in counts or is_unspaced([word])]
    return distil_vectors(words, encoder, dimensions=dimensions, progress=progress)


def whole_words(words: Iterable[str], encoder: BaseModel) -> list[str]:
    """The words of a corpus, then the whole words of the encoder's own vocabulary that are not among them.

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
    """What marks the beginning of a word: SentencePiece and byte-level BPE have it; WordPiece marks what goes on."""
    pieces = list(pieces)
    return next((mark for mark in ("▁", "Ġ") if sum(piece.startswith(mark) for piece in pieces) > 1), None)


def distil_vectors(
    words: Sequence[str],
    encoder: BaseModel,
    *,
    dimensions: int = 256,
    batch_size: int = 1024,
    progress: bool = True,
) -> WordVectors:
    """Word vectors out of an encoder: each word by itself through it, fewer dimensions, rare words up.

    A word's vector is the mean of its last hidden states, [CLS] and [SEP] included; then the main
    components (PCA; left out where there are no more words than ``dimensions``), and weights a / (a + p)
    with p of Zipf's law (SIF, Arora et al. 2017; the recipe of model2vec). A word of which the tokenizer
    makes nothing is zero. The result stays in the cache, under the weights, the words and the settings.

    Args:
        words: most frequent first; of a word that comes twice the first is kept.
        encoder: the frozen encoder.
        dimensions: how many components are kept; the encoder's width where that is smaller, or words are too few.
        batch_size: words in a batch.
        progress: show a bar on a terminal.

    Raises:
        VectorsError: there are no words, or the tokenizer makes nothing of any.
        BaseModelError: the model is no encoder, or its weights are not whole.
        SettingError: a number that makes no sense.
    """
    check(dimensions >= 1, "dimensions", dimensions, "at least 1")
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    words = list(dict.fromkeys(words))
    if not words:
        raise VectorsError("expected words to distil, found none")
    source = f"{encoder.id} distilled"

    def make() -> tuple[list[str], np.ndarray]:
        logger.info("%s: %s words through the encoder, kept in the cache for the next time", source, f"{len(words):,}")
        states = _word_states(words, encoder, batch_size, progress)
        return words, _main_components(states, dimensions) * _zipf_weights(len(words))

    return cached_vectors(_cached(f"distilled {dimensions}", encoder, words), source, make)


def _word_states(words: list[str], encoder: BaseModel, batch_size: int, progress: bool) -> np.ndarray:
    """As ``_encode_words``; where the encoder's own words are among them, those come from the cache.

    They are most of the words of a small corpus, and the same for every one.
    """
    own = whole_words((), encoder)
    if not own or not set(own) <= set(words):
        return _encode_words(words, encoder, batch_size, progress)
    kept = cached_vectors(
        _cached("states", encoder, own),
        f"{encoder.id} word by word",
        lambda: (own, _encode_words(own, encoder, batch_size, progress)),
    )
    states = np.empty((len(words), kept.dimensions), dtype=np.float32)
    places = kept.rows(words)
    states[places >= 0] = kept.matrix[places[places >= 0]]
    if others := [word for word, place in zip(words, places, strict=True) if place < 0]:
        states[places < 0] = _encode_words(others, encoder, batch_size, progress)
    return states


def _cached(kind: str, encoder: BaseModel, words: list[str]) -> Path:
    """Where the cache keeps what an encoder and its tokenizer make of words."""
    digest = hashlib.sha256(f"{_RECIPE}\0{weights_hash(encoder)}\0{kind}\0".encode())
    for file in sorted(path for path in encoder.path.glob("*") if _shapes_tokens(path)):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    digest.update("\n".join(words).encode("utf-8", "surrogatepass"))
    return cache_folder("vectors") / f"{kind.partition(' ')[0]}-{digest.hexdigest()[:32]}"


_READ_BY_TOKENIZER = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "config.json",
}  # fmt: skip


def _shapes_tokens(path: Path) -> bool:
    return path.is_file() and (path.name in _READ_BY_TOKENIZER or path.suffix == ".model")


def _encode_words(words: list[str], encoder: BaseModel, batch_size: int, progress: bool) -> np.ndarray:
    """(words, hidden) float32: the mean of each word's last hidden states."""
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
    with progress_bar(progress) as bar, torch.inference_mode():
        task = bar.add_task(f"{encoder.id}, word by word", total=len(words))
        for rows in _batches_of_one_length(ids, batch_size):
            batch = torch.tensor([ids[row] for row in rows], device=device)
            hidden = model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
            mean = hidden.mean(dim=1).float().cpu().numpy()
            states = np.zeros((len(words), mean.shape[1]), dtype=np.float32) if states is None else states
            states[rows] = mean
            bar.advance(task, len(rows))
    if states is None:
        raise VectorsError(f"{encoder.id}: expected words, found none of which its tokenizer makes anything")
    return states


def _batches_of_one_length(ids: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows of equal length together: nothing is padded, and a word's vector hangs on no other word."""
    order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row]))
    start = 0
    while start < len(order):
        length = len(ids[order[start]])
        stop = start
        while stop < len(order) and stop - start < batch_size and len(ids[order[stop]]) == length:
            stop += 1
        yield order[start:stop]
        start = stop


def _main_components(states: np.ndarray, dimensions: int) -> np.ndarray:
    """(n, min(dimensions, hidden)) states on their main axes; as they are where there are no more rows than that."""
    if len(states) <= dimensions:
        return states
    centred = states - states.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :dimensions]
    # An axis may point either way: make its largest entry positive, on every machine.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return (centred @ axes).astype(np.float32)


def _zipf_weights(count: int) -> np.ndarray:
    """(count, 1) SIF weights a / (a + p) for words that come in the order of their frequency."""
    inverse = 1 / np.arange(2, count + 2)
    share = inverse / inverse.sum()
    return (_SIF / (_SIF + share)).astype(np.float32)[:, None]
