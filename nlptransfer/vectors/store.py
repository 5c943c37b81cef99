"""Word vectors, opened as memory maps: any file that is read once is converted to a folder and stays in a cache.

A converted folder, frozen as :data:`FORMAT`:

    matrix.npy    (n, d) float32, most frequent word first
    words.bin     the words in UTF-8, a newline after each
    offsets.npy   (n + 1,) int64, where each word begins in words.bin
    hashes.npy    (n,) uint64, sorted, a hash of each word
    order.npy     (n,) int64, the row of each of those hashes
    vectors.json  format, rows, dimensions, source
"""

import glob
import hashlib
import json
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np

from nlptransfer.errors import VectorsError
from nlptransfer.files import atomic_folder, cache_folder, content_stamp, read_json
from nlptransfer.settings import check
from nlptransfer.vectors.formats import (
    FILE_SUFFIXES,
    Block,
    array_blocks,
    check_kind,
    download_model,
    read_blocks,
    write_vectors,
)

logger = logging.getLogger("nlptransfer")

FORMAT = 1
"""Version of the converted folder; another one is converted again."""
_META = "vectors.json"
_BLOCK = 1 << 16
_NEAREST_BYTES = 64 << 20
_PRIME = np.uint64(0x9E3779B97F4A7C15)
# No dot: a misspelled file name is not looked up on the network.
_MODEL_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Coverage:
    """How much of a text the vectors know."""

    tokens: float
    """Share of the running words that have a vector, 0 to 1."""
    distinct: float
    """Share of the different words that have a vector, 0 to 1."""
    missing: list[tuple[str, int]]
    """Words without a vector and their counts, most frequent first."""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and their vectors, read from a converted folder only where they are asked for."""

    matrix: np.ndarray = field(repr=False)
    """(n, dimensions) float32 memory map, read only; most frequent word first."""
    source: str
    """The file name, folder name or model name that the vectors came from; never a path."""
    folder: Path = field(repr=False)
    """The converted folder on this machine."""
    _text: np.ndarray = field(repr=False)
    _offsets: np.ndarray = field(repr=False)
    _hashes: np.ndarray = field(repr=False)
    _order: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.matrix)

    def __contains__(self, word: str) -> bool:
        return bool(self.rows([word])[0] >= 0)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the maps again; a pickled map would carry the whole matrix.
        return _open_folder, (self.folder,)

    @property
    def dimensions(self) -> int:
        """The length of one vector."""
        return int(self.matrix.shape[1])

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The words of rows ``start`` to ``stop``, as a slice takes them; only those are decoded."""
        start, stop, _ = slice(start, stop).indices(len(self))
        if stop <= start:
            return []
        places = np.asarray(self._offsets[start : stop + 1])
        data = self._text[places[0] : places[-1]].tobytes()
        words = data.decode("utf-8").split("\n")[:-1]
        if len(words) == stop - start:
            return words
        # A word with a newline in it.
        return [data[a : b - 1].decode("utf-8") for a, b in pairwise((places - places[0]).tolist())]

    def words_at(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The words of these rows, in their order."""
        chosen = np.asarray(rows, dtype=np.int64)
        begins, ends = self._offsets[chosen].tolist(), (self._offsets[chosen + 1] - 1).tolist()
        return [self._text[a:b].tobytes().decode("utf-8") for a, b in zip(begins, ends, strict=True)]

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """The row of each word in ``matrix``, (len(words),) int64; -1 for a word that is not known."""
        found = np.full(len(words), -1, dtype=np.int64)
        for start in range(0, len(words), _BLOCK):
            found[start : start + _BLOCK] = self._rows(words[start : start + _BLOCK])
        return found

    def _rows(self, words: Sequence[str]) -> np.ndarray:
        # A lone surrogate, which no file can hold, is simply not found.
        encoded = [word.encode("utf-8", "surrogatepass") + b"\n" for word in words]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        starts = np.cumsum(lengths) - lengths
        hashes = _hash(text, lengths)
        found = np.full(len(words), -1, dtype=np.int64)
        places = np.searchsorted(self._hashes, hashes)
        pending = np.arange(len(words))
        # Words that share a hash lie side by side: step on until the word itself agrees.
        while len(pending):
            places_left = places[pending]
            inside = places_left < len(self)
            inside[inside] = self._hashes[places_left[inside]] == hashes[pending[inside]]
            pending = pending[inside]
            rows = np.asarray(self._order[places[pending]])
            same = self._same_words(rows, text, starts[pending], lengths[pending])
            found[pending[same]] = rows[same]
            pending = pending[~same]
            places[pending] += 1
        return found

    def _same_words(self, rows: np.ndarray, text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        begins = np.asarray(self._offsets[rows])
        same = np.asarray(self._offsets[rows + 1]) - begins == lengths
        kept = lengths[same]
        if kept.size:
            within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
            unlike = self._text[np.repeat(begins[same], kept) + within] != text[np.repeat(starts[same], kept) + within]
            same[same] = np.add.reduceat(unlike.astype(np.int64), np.cumsum(kept) - kept) == 0
        return same

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The ``k`` words whose vectors have the highest cosine with that of ``word``, and those cosines.

        Raises:
            VectorsError: ``word`` has no vector.
            SettingError: ``k`` is below 1.
        """
        check(k >= 1, "k", k, "at least 1")
        row = int(self.rows([word])[0])
        if row < 0:
            raise VectorsError(f"{word!r} is not among the {len(self):,} words of {self.source}")
        query = _unit(np.asarray(self.matrix[row : row + 1], dtype=np.float64))[0]
        best_rows, best = np.empty(0, dtype=np.int64), np.empty(0)
        step = max(1, _NEAREST_BYTES // (8 * self.dimensions))
        for start in range(0, len(self), step):
            cosines = _unit(np.asarray(self.matrix[start : start + step], dtype=np.float64)) @ query
            if start <= row < start + step:
                cosines[row - start] = -np.inf
            best_rows = np.concatenate([best_rows, np.arange(start, start + len(cosines))])
            best = np.concatenate([best, cosines])
            top = np.argsort(-best, kind="stable")[: min(k, len(self) - 1)]
            best_rows, best = best_rows[top], best[top]
        return list(zip(self.words_at(best_rows), best.tolist(), strict=True))

    def coverage(self, texts: Iterable[Iterable[str]]) -> Coverage:
        """How much of ``texts`` the vectors know.

        Args:
            texts: texts cut into words; a plain string counts as one word.
        """
        counts = Counter(word for text in texts for word in ([text] if isinstance(text, str) else text))
        words = list(counts)
        known = self.rows(words) >= 0
        missing = Counter({word: counts[word] for word, is_known in zip(words, known, strict=True) if not is_known})
        tokens = counts.total()
        return Coverage(
            tokens=(tokens - missing.total()) / tokens if tokens else 0.0,
            distinct=float(known.mean()) if words else 0.0,
            missing=missing.most_common(),
        )

    def export(self, path: str | Path) -> Path:
        """Write the vectors for others to read.

        Args:
            path: ``.txt`` or ``.vec`` for word2vec text, ``.bin`` for binary, each with ``.gz`` or not.

        Raises:
            VectorsError: another ending.
        """
        path = Path(path)
        if not _is_file_name(path):
            raise VectorsError(f"{path.name}: expected an ending among {', '.join(FILE_SUFFIXES)}, with or without .gz")
        words = (word for start in range(0, len(self), _BLOCK) for word in self.words(start, start + _BLOCK))
        _warn_left_out(path, write_vectors(path, words, self.matrix))
        return path


def open_vectors(source: str | Path, *, allow_pickle: bool = False) -> WordVectors:
    """Open word vectors of any kind; a file is converted to memory maps the first time.

    Args:
        source: a file of word2vec text or binary, GloVe or fastText text, plain or gzip'ed; a folder that
            :func:`save_vectors` wrote; or the name of a model of gensim's downloader ("glove-wiki-gigaword-100"),
            of which only the vectors are fetched, and no code.
        allow_pickle: whether gensim's .kv and .model may be read, which can run code that is in them.

    Raises:
        VectorsError: there is no such thing, it is broken, or it cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.exists():
        # Not resolved: a link's own name is the better one, and the caches of hubs are full of links.
        path = path.absolute()
        check_kind(path, allow_pickle)
        key = cache_folder("vectors") / _key(path)
        if not _is_converted(key):
            mb = path.stat().st_size / 1e6
            logger.info("%s: read for the first time (%.0f MB), later loads take the converted copy", path.name, mb)
            _into_cache(key, read_blocks(path, allow_pickle), path.name)
        return _open_folder(key)
    name = str(source)
    if not _MODEL_NAME.fullmatch(name):
        raise VectorsError(f"{name}: no such file or folder")
    key = cache_folder("vectors") / f"gensim-{name}-{FORMAT}"
    if not _is_converted(key):
        _into_cache(key, _model_blocks(name, key.parent), name)
    return _open_folder(key)


def save_vectors(
    path: str | Path, words: Sequence[str], matrix: np.ndarray, *, source: str | None = None
) -> WordVectors | None:
    """Save vectors: a file for others where the ending says so (.txt, .vec, .bin, also .gz), else a converted folder.

    Args:
        path: what to write; it is replaced whole, or not at all.
        words: n words, most frequent first; of a word that comes twice a reader keeps the first.
        matrix: (n, d) numbers.
        source: what a folder shall say that the vectors came from; its own name by default.

    Returns:
        The vectors, opened, where a folder was written.

    Raises:
        VectorsError: words and rows do not fit each other, or a number is not finite.
    """
    path = Path(path)
    if path.suffix in (".kv", ".model", ".npy", ".npz"):
        raise VectorsError(f"{path.name}: save as {', '.join(FILE_SUFFIXES)}, with or without .gz, or as a folder")
    blocks = array_blocks(path.name, words, matrix)
    if not _is_file_name(path):
        if path.exists() and not (path / _META).exists():
            raise VectorsError(f"{path.name}: exists already and holds no vectors, so it is not replaced")
        with atomic_folder(path) as folder:
            _convert(folder, blocks, source or path.name)
        return _open_folder(path)
    for _ in blocks:
        pass  # every word and number is checked before a file is touched
    _warn_left_out(path, write_vectors(path, words, matrix))
    return None


def cached_vectors(folder: Path, source: str, make: Callable[[], tuple[Sequence[str], np.ndarray]]) -> WordVectors:
    """What ``folder`` in the cache holds; made, checked and saved there the first time.

    Args:
        folder: named after everything that the vectors hang on.
        source: what the vectors shall say that they came from.
        make: gives the words, most frequent first, and their (n, d) vectors.

    Raises:
        VectorsError: a number is not finite, or the cache cannot be written.
    """
    if not _is_converted(folder):
        words, matrix = make()
        _into_cache(folder, array_blocks(source, words, matrix), source)
    return _open_folder(folder)


def _is_file_name(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(FILE_SUFFIXES)


def _warn_left_out(path: Path, count: int) -> None:
    if count:
        logger.warning("%s: left out %d words with white space in them, which the format cannot hold", path.name, count)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _hash(text: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each word: a polynomial of its bytes, then mixed (Steele et al. 2014, SplitMix).

    Args:
        text: uint8, the words one after another, each with the newline that ends it.
        lengths: int64, bytes of each word, newline included.
    """
    starts = np.cumsum(lengths) - lengths
    powers = np.full(int(lengths.max(initial=1)), _PRIME, dtype=np.uint64)
    powers[0] = 1
    powers = np.cumprod(powers, dtype=np.uint64)
    terms = text.astype(np.uint64)
    terms *= powers[np.arange(len(text)) - np.repeat(starts, lengths)]
    mixed = np.add.reduceat(terms, starts) if len(starts) else np.empty(0, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


# The converted folder


def _open_folder(folder: Path) -> WordVectors:
    try:
        meta = read_json(folder / _META)
        matrix, offsets, hashes, order = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("matrix", "offsets", "hashes", "order")
        )
        text = np.memmap(folder / "words.bin", dtype=np.uint8, mode="r")
        shapes = ((meta["rows"], meta["dimensions"]), (meta["rows"] + 1,), (meta["rows"],), (meta["rows"],))
        types = (np.float32, np.int64, np.uint64, np.int64)
        fits = all(
            array.shape == shape and array.dtype == kind
            for array, shape, kind in zip((matrix, offsets, hashes, order), shapes, types, strict=True)
        )
        if meta["format"] != FORMAT or not fits or offsets[-1] != len(text):
            raise ValueError("its files do not fit each other, or it is of another version")
        return WordVectors(matrix, str(meta["source"]), folder, text, offsets, hashes, order)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise VectorsError(
            f"{folder}: expected a file of vectors, or a folder that save_vectors wrote, "
            f"found neither ({type(error).__name__}: {error})"
        ) from error


def _is_converted(folder: Path) -> bool:
    if not (folder / _META).exists():
        return False
    try:
        _open_folder(folder)
    except VectorsError:
        return False
    return True


def _key(path: Path) -> str:
    """Changes whenever the file does, or what gensim has put beside it: a hash of path, sizes, times and bytes."""
    digest = hashlib.sha256(f"{FORMAT}\0{path}".encode("utf-8", "surrogateescape"))
    # Where gensim puts the large arrays of a pickle.
    for file in (path, *sorted(path.parent.glob(f"{glob.escape(path.name)}.*.npy"))):
        digest.update(f"\0{content_stamp(file)}\0{file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _model_blocks(name: str, folder: Path) -> Iterator[Block]:
    with TemporaryDirectory(dir=folder, prefix=".download.") as temporary:
        path = Path(temporary) / f"{name}.gz"
        download_model(name, path)
        yield from read_blocks(path)


def _into_cache(folder: Path, blocks: Iterable[Block], source: str) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / "vectors"
            made.mkdir()
            _convert(made, blocks, source)
            if not _is_converted(folder):
                shutil.rmtree(folder, ignore_errors=True)  # a damaged one
                made.rename(folder)
    except OSError as error:
        # The rename fails where another process was faster; its copy is as good.
        if not _is_converted(folder):
            raise VectorsError(
                f"{source}: cannot write the converted copy to {folder.parent} ({error}): "
                "make room there, or set HF_HOME to a folder with room"
            ) from error


def _convert(folder: Path, blocks: Iterable[Block], source: str) -> None:
    """Write blocks as a converted folder; by plain writes, so that no page of it counts as this process's memory."""
    hashes, lengths = [], []
    rows = dimensions = 0
    told = time.monotonic()
    with (folder / "matrix.npy").open("wb") as matrix, (folder / "words.bin").open("wb") as text:
        for words, vectors in blocks:
            if not rows:
                dimensions = vectors.shape[1]
                _write_header(matrix, 0, dimensions)
            joined = b"\n".join(words) + b"\n"
            lengths.append(np.fromiter(map(len, words), dtype=np.int64, count=len(words)) + 1)
            hashes.append(_hash(np.frombuffer(joined, dtype=np.uint8), lengths[-1]))
            text.write(joined)
            matrix.write(np.ascontiguousarray(vectors, dtype="<f4").data)
            rows += len(words)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                logger.info("%s: %s words so far", source, f"{rows:,}")
        if not rows:
            raise VectorsError(f"{source}: no words in it")
        _write_header(matrix, rows, dimensions)
    _write_index(folder, np.concatenate(hashes), np.concatenate(lengths), dimensions, source)


def _write_index(folder: Path, hashes: np.ndarray, lengths: np.ndarray, dimensions: int, source: str) -> None:
    order = np.argsort(hashes, kind="stable")
    again = _duplicates(folder / "words.bin", hashes[order], order, lengths)
    if len(again):
        logger.warning("%s: %d words come more than once, the first of each is kept", source, len(again))
        keep = np.ones(len(hashes), dtype=bool)
        keep[again] = False
        _drop_rows(folder, keep, lengths, dimensions)
        hashes, lengths = hashes[keep], lengths[keep]
        order = np.argsort(hashes, kind="stable")
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / "hashes.npy", hashes[order])
    np.save(folder / "order.npy", order.astype(np.int64))
    meta = {"format": FORMAT, "rows": len(hashes), "dimensions": dimensions, "source": source}
    (folder / _META).write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


def _duplicates(words: Path, sorted_hashes: np.ndarray, order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows whose word came before, (m,) int64; words that only share a hash are none."""
    shared = np.zeros(len(order), dtype=bool)
    shared[1:] = sorted_hashes[1:] == sorted_hashes[:-1]
    shared[:-1] |= shared[1:]
    if not shared.any():
        return np.empty(0, dtype=np.int64)
    text = words.read_bytes()
    ends = np.cumsum(lengths)
    seen: set[bytes] = set()
    again = []
    for row in np.sort(order[shared]).tolist():
        word = text[ends[row] - lengths[row] : ends[row]]
        if word in seen:
            again.append(row)
        seen.add(word)
    return np.asarray(again, dtype=np.int64)


def _drop_rows(folder: Path, keep: np.ndarray, lengths: np.ndarray, dimensions: int) -> None:
    text = np.frombuffer((folder / "words.bin").read_bytes(), dtype=np.uint8)
    (folder / "words.bin").write_bytes(text[np.repeat(keep, lengths)].tobytes())
    with (folder / "matrix.npy").open("r+b") as matrix:
        _write_header(matrix, int(keep.sum()), dimensions)
        reading = writing = matrix.tell()
        for start in range(0, len(keep), 4096):
            matrix.seek(reading)
            part = keep[start : start + 4096]
            block = np.frombuffer(matrix.read(len(part) * dimensions * 4), dtype="<f4").reshape(-1, dimensions)
            reading = matrix.tell()
            matrix.seek(writing)
            matrix.write(block[part].tobytes())
            writing = matrix.tell()
        matrix.truncate(writing)


def _write_header(matrix: BinaryIO, rows: int, dimensions: int) -> None:
    # numpy pads this header so that the count of rows may grow: the final one takes just as many bytes.
    matrix.seek(0)
    np.lib.format.write_array_header_1_0(matrix, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)})
