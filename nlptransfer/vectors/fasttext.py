"""fastText's own files of word vectors (.bin): the words, and the n-grams that their vectors are made of.

    the settings of its training; for each word its UTF-8, a zero and nine bytes that are passed over; then a
    (words + buckets, d) matrix of little-endian float32. The vector of a word is the mean of its row and of the rows of
    its n-grams. A second matrix, by which training can go on, is not read.

gensim reads such a file into twice its size of memory, or by single bytes where it is compressed; here it is mapped.
What is broken is a VectorsError. This file does not know the cache.
"""

import gzip
import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nlptransfer.errors import VectorsError
from nlptransfer.storage import storage_errors
from nlptransfer.vectors.formats import Block, checked, in_utf8, reading
from nlptransfer.vectors.subwords import sums, write_subwords

_SETTINGS, _COUNTS, _MATRIX = struct.Struct("<2i12id"), struct.Struct("<3i2q"), struct.Struct("<?2q")
_BLOCK = 20_000
# The one word whose vector is its row alone.
_END_OF_TEXT = b"</s>"


def fasttext_blocks(path: Path, folder: Path) -> Iterator[Block]:
    """Read the words of a fastText model and their vectors in the file's own order, in bounded memory.

    The vectors of its n-grams, if it has any, are saved in ``folder`` first; a file in gzip is unpacked there, too.
    """
    with reading(path) as stream, tempfile.TemporaryFile(dir=folder) as unpacked:
        if isinstance(stream, gzip.GzipFile):
            with storage_errors(folder):
                shutil.copyfileobj(stream, unpacked, 1 << 20)
                unpacked.flush()
            stream = unpacked
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        yield from in_utf8(path.name, _blocks(path.name, content, folder))


def _blocks(name: str, content: mmap.mmap, folder: Path) -> Iterator[Block]:
    try:
        words, matrix, min_n, max_n = _parts(name, content)
    except (struct.error, ValueError, OverflowError) as error:
        raise VectorsError(f"{name}: cut off or broken ({error}): download it again") from error
    has_ngrams = max_n > 0 and len(matrix) > len(words)
    subwords = write_subwords(folder, matrix[len(words) :], min_n, max_n) if has_ngrams else None
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        vectors = matrix[start : start + len(block)].astype(np.float32)
        if subwords is not None:
            ngrams = [
                [] if word == _END_OF_TEXT else subwords.ngrams(word.decode("utf-8", "replace")) for word in block
            ]
            counts = np.array([1 + len(each) for each in ngrams], dtype=np.float32)
            vectors = (vectors + sums(subwords.matrix, ngrams)) / counts[:, None]
        yield checked(name, "record", range(start + 1, start + 1 + len(block)), block, vectors)


def _parts(name: str, content: mmap.mmap) -> tuple[list[bytes], np.ndarray, int, int]:
    """Return the words, the (words + buckets, d) matrix, and the lengths of n-grams."""
    # The magic number and the version go before.
    dimensions, *_, buckets, min_n, max_n, _, _ = _SETTINGS.unpack_from(content)[2:]
    count, _, labels, _, pruned = _COUNTS.unpack_from(content, _SETTINGS.size)
    place, words = _SETTINGS.size + _COUNTS.size, list[bytes]()
    for _ in range(count):
        end = content.find(b"\0", place)
        if end < 0:
            raise ValueError(f"it ends after {len(words)} of {count} words")
        words.append(content[place:end])
        place = end + 10
    is_quantized, rows, width = _MATRIX.unpack_from(content, place + 8 * max(0, pruned))
    if labels or is_quantized:
        what = f"a fastText classifier of {labels} labels{', quantized' if is_quantized else ''}"
        raise VectorsError(
            f"{name}: expected word vectors, found {what}: give a model that fastText trained by skipgram or cbow"
        )
    if rows != count + buckets or width != dimensions or min(count, width) < 1:
        raise ValueError(f"{rows} x {width} numbers of {count} words, {buckets} n-grams, {dimensions} dimensions")
    matrix = np.frombuffer(content, "<f4", rows * width, place + 8 * max(0, pruned) + _MATRIX.size)
    return words, matrix.reshape(rows, width), min_n, max_n
