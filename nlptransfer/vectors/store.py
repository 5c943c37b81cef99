"""Word vectors opened as memory maps: a file is converted to a folder in the cache when it is first read.

This file knows the converted folder and the cache; it does not know the formats of files, nor where vectors are made.
A converted folder, versioned by :data:`FORMAT`:

    matrix.bin    (n, d) little-endian float32, most frequent word first
    words.arrow   the n words in UTF-8, one Arrow batch
    vectors.json  format, rows, dimensions, source
    subwords.*    of a fastText model: the vectors of its n-grams
    whole.json    hashes of all these
"""

import glob
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from nlptransfer.cache import cache_folder, cached_entry, check_seal, seal
from nlptransfer.errors import BaseModelError, StorageError, VectorsError
from nlptransfer.files import SEAL, atomic_folder, content_stamp, named_path, read_json, scratch_folder
from nlptransfer.hub import Packaged, find_packaged_vectors
from nlptransfer.settings import check
from nlptransfer.storage import storage_errors
from nlptransfer.vectors.fasttext import fasttext_blocks
from nlptransfer.vectors.formats import (
    FILE_SUFFIXES,
    Block,
    array_blocks,
    download_model,
    file_kind,
    read_blocks,
    write_vectors,
)
from nlptransfer.vectors.matrices import MATRIX_SUFFIXES, matrix_blocks, matrix_file, words_file
from nlptransfer.vectors.subwords import SUBWORDS, Subwords

logger = logging.getLogger("nlptransfer")

FORMAT = 2
"""Version of the converted folder; another one is converted again."""
_META = "vectors.json"
# No dot: a misspelled file name is not looked up on the network.
_MODEL_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Coverage:
    """How much of a text the vectors know."""

    tokens: float
    """share of the running words that have a vector, 0 to 1"""
    distinct: float
    """share of the different words"""
    missing: list[tuple[str, int]]
    """words without a vector and their counts, most frequent first"""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and their vectors, both memory-mapped from a converted folder."""

    matrix: np.ndarray = field(repr=False)
    """(n, dimensions) float32, read only; most frequent word first"""
    source: str
    """name of the file, folder or model that the vectors came from; never a path"""
    folder: Path = field(repr=False)
    """the converted folder on this machine"""
    _words: Any = field(repr=False)
    subwords: Subwords | None = field(default=None, repr=False)
    """what gives other words a vector, too"""

    def __len__(self) -> int:
        return len(self.matrix)

    def __contains__(self, word: str) -> bool:
        return bool(self.rows([word])[0] >= 0)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the maps again; a pickled map would carry the whole matrix.
        return open_folder, (self.folder,)

    @property
    def dimensions(self) -> int:
        """The length of one vector."""
        return int(self.matrix.shape[1])

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the words of rows ``start`` to ``stop``, as a slice takes them."""
        return [word.decode() for word in self._words[start:stop].to_pylist()]

    def words_at(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Return the words of these rows, in their order."""
        return [word.decode() for word in self._words.take(pa.array(rows, pa.int64())).to_pylist()]

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """Return the row of each word in ``matrix``, (len(words),) int64; -1 for an unknown word."""
        # A lone surrogate, which no file can hold, is simply not found.
        wanted = pa.array([word.encode("utf-8", "surrogatepass") for word in words], pa.binary())
        rows = compute.index_in(wanted, value_set=self._words).fill_null(-1)
        return np.asarray(rows, dtype=np.int64)

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """Return the ``k`` words nearest to ``word`` by cosine, and the cosines; a VectorsError if it has no vector."""
        check(k >= 1, "k", k, "at least 1")
        row = int(self.rows([word])[0])
        if row < 0:
            raise VectorsError(f"{word!r} is not among the {len(self):,} words of {self.source}")
        # In double precision, which einsum converts to piece by piece.
        products = np.einsum("nd,d->n", self.matrix, self.matrix[row], dtype=np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", self.matrix, self.matrix, dtype=np.float64))
        cosines = np.divide(products, norms * norms[row], out=np.zeros(len(self)), where=norms * norms[row] > 0)
        cosines[row] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(k, len(self) - 1)]
        return list(zip(self.words_at(best), cosines[best].tolist(), strict=True))

    def coverage(self, texts: Iterable[Iterable[str]]) -> Coverage:
        """Measure how much of ``texts``, each split into words, the vectors know; a plain string is one word."""
        counts = Counter(word for text in texts for word in ([text] if isinstance(text, str) else text))
        rows = self.rows([*counts])
        missing = Counter({word: count for (word, count), row in zip(counts.items(), rows, strict=True) if row < 0})
        tokens, distinct = (
            (whole - unknown) / whole if whole else 0.0
            for whole, unknown in ((counts.total(), missing.total()), (len(counts), len(missing)))
        )
        return Coverage(tokens, distinct, missing.most_common())


def open_vectors(source: str | Path, *, allow_pickle: bool = False) -> WordVectors:
    """Open word vectors of any kind; a file is converted to memory maps the first time.

    ``source`` is a file of word2vec text or binary, GloVe or fastText text, plain or gzip'ed; fastText's own .bin; a
    matrix in .npy or .safetensors with its words in a file beside it (words.txt, vocab.json, tokenizer.json, or of the
    matrix's own name), or a folder with both; a folder that :func:`save_vectors` wrote; the name of what a package
    holds ("kumo/glove-6b-50d"); or that of a model of gensim's downloader ("glove-wiki-gigaword-100"). Only with
    ``allow_pickle`` are gensim's .kv and .model read, which can run code that is in them. What is not there, is broken
    or cannot be fetched is a VectorsError.
    """
    path = named_path(source)
    if (path / _META).exists():
        return open_folder(path)
    if (packaged := find_packaged_vectors(str(source))) is not None:
        return _open_packaged(packaged)
    if path.exists():
        # Not resolved: a link's own name is the better one, and the caches of hubs are full of links.
        path = path.absolute()
        file = matrix_file(path) if path.is_dir() else path
        kind = file_kind(file, allow_pickle)
        # gensim puts arrays next to a pickle.
        extra = [words_file(file)] if kind == "matrix" else sorted(file.parent.glob(f"{glob.escape(file.name)}.*.npy"))

        def blocks(folder: Path) -> Iterable[Block]:
            mb = file.stat().st_size / 1e6
            logger.info("%s is converted into the cache (%.0f MB), once", path.name, mb)
            if kind == "fasttext":
                return fasttext_blocks(file, folder)
            return matrix_blocks(file) if kind == "matrix" else read_blocks(file, allow_pickle)

        with storage_errors(path, "read"):
            stamps = [f"\0{content_stamp(each)}\0{each.stat().st_mtime_ns}" for each in (file, *extra)]
        return cached_vectors(cache_place("", f"{FORMAT}\0{path}", *stamps), path.name, blocks)
    name = str(source)
    if not _MODEL_NAME.fullmatch(name):
        raise VectorsError(f"{name}: no such file or folder")
    folder = cache_folder("vectors") / f"gensim-{name}-{FORMAT}"
    return cached_vectors(folder, name, lambda new: _model_blocks(name, new))


def save_vectors(
    path: str | Path, words: Sequence[str], matrix: np.ndarray, *, source: str | None = None
) -> WordVectors | None:
    """Save vectors: a file for others where the ending says so (.txt, .vec, .bin, also .gz), else a converted folder.

    The n ``words`` are most frequent first; of one that comes twice a reader keeps the first. ``matrix`` is (n, d)
    numbers. ``source`` is where a folder says that the vectors came from; its own name by default. The path is replaced
    whole, or not at all. Where a folder was written, its vectors are returned, opened. Words and rows that do not fit
    each other, or a number that is not finite, are a VectorsError.
    """
    path = Path(path)
    if path.suffix in (".kv", ".model", ".npz", *MATRIX_SUFFIXES):
        raise VectorsError(f"{path.name}: save as {', '.join(FILE_SUFFIXES)}, with or without .gz, or as a folder")
    blocks = array_blocks(path.name, words, matrix)
    if path.name.lower().removesuffix(".gz").endswith(FILE_SUFFIXES):
        for _ in blocks:
            pass  # every word and number is checked before a file is touched
        write_vectors(path, words, matrix)
        return None
    if path.exists() and not (path / _META).exists():
        raise VectorsError(f"{path.name}: exists already and holds no vectors, so it is not replaced")
    with atomic_folder(path) as folder:
        _convert(folder, blocks, source or path.name)
        seal(folder)
    return open_folder(path)


def open_folder(folder: Path) -> WordVectors:
    """Open a converted folder; a VectorsError where it is none, or damaged."""
    try:
        # What an older nlptransfer saved has none.
        if (folder / SEAL).exists():
            check_seal(folder)
        meta = read_json(folder / _META)
        matrix = np.memmap(folder / "matrix.bin", "<f4", "r", shape=(meta["rows"], meta["dimensions"]))
        words = pa.ipc.open_file(pa.memory_map(str(folder / "words.arrow"))).get_batch(0).column(0)
        if meta["format"] != FORMAT or len(words) != len(matrix):
            raise ValueError("its files do not fit each other, or it is of another version")
        subwords = Subwords.open(folder) if (folder / SUBWORDS).exists() else None
        return WordVectors(matrix, str(meta["source"]), folder, words, subwords)
    except StorageError as error:
        raise VectorsError(f"{error}: save or download them again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected, reason = "a file of vectors, or a folder that save_vectors wrote", f"{type(error).__name__}: {error}"
        raise VectorsError(f"{folder}: expected {expected}, found neither ({reason})") from error


def _open_packaged(packaged: Packaged) -> WordVectors:
    """Open what a package holds; its files are checked when they are converted, and then the copy is taken."""
    if packaged.place is None:
        raise VectorsError(f"{packaged.id}: expected its package installed, found none: {packaged.install}")

    def blocks(_: Path) -> Iterable[Block]:
        try:
            folder = packaged.folder()
        except BaseModelError as error:
            raise VectorsError(str(error)) from error
        logger.info(
            "%s is taken from the installed package, as published (sha256 %s...)", packaged.id, packaged.sha256[:12]
        )
        return matrix_blocks(folder / packaged.weights)

    return cached_vectors(cache_place("", f"{FORMAT}\0{packaged.id}", packaged.sha256), packaged.id, blocks)


def cached_vectors(folder: Path, source: str, blocks: Callable[[Path], Iterable[Block]]) -> WordVectors:
    """Open a folder of the cache; ``blocks`` makes what is missing or damaged, and may put more into the new folder."""

    def make(new: Path) -> None:
        _convert(new, blocks(new), source)

    return cached_entry(folder, source, make, open_folder)


def cache_place(kind: str, *parts: str | bytes) -> Path:
    """Name a folder of the cache after all that its vectors depend on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass"))
    return cache_folder("vectors") / f"{kind}{digest.hexdigest()[:32]}"


def _model_blocks(name: str, folder: Path) -> Iterator[Block]:
    with scratch_folder(folder / "download") as temporary:
        path = temporary / f"{name}.gz"
        download_model(name, path)
        yield from read_blocks(path)


def _convert(folder: Path, blocks: Iterable[Block], source: str) -> None:
    """Write blocks as a converted folder, of each word the first vector; the matrix is never held in memory."""
    known: dict[bytes, int] = {}
    count = dimensions = 0
    with (folder / "matrix.bin").open("wb") as matrix:
        for words, vectors in blocks:
            new = [row for row, word in enumerate(words) if known.setdefault(word, count + row) == count + row]
            matrix.write(np.asarray(vectors[new], dtype="<f4").data)
            dimensions, count = vectors.shape[1], count + len(words)
    if not known:
        raise VectorsError(f"{source}: no words in it")
    if count > len(known):
        logger.warning("%s: %d words come more than once, the first of each is kept", source, count - len(known))
    batch = pa.record_batch([pa.array(list(known), pa.binary())], names=["words"])
    with pa.OSFile(str(folder / "words.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    meta = {"format": FORMAT, "rows": len(known), "dimensions": dimensions, "source": source}
    (folder / _META).write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
