"""Hold what is larger than memory in files that are mapped: without a name, gone with the process however it ends.

This file knows bytes and arrays, not what they mean.
"""

import mmap
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from nlptransfer.cache import cache_folder, warn_of_cache
from nlptransfer.errors import StorageError
from nlptransfer.files import temporary_root
from nlptransfer.storage import storage_errors

Part = TypeVar("Part")
MEMORY = 2**28
"""Bytes of an array, or of texts, up to which they stay in memory."""
_BLOCK = 2**24
"""Bytes of an array in a file that are worked on at a time."""


def in_file(write: Callable[[IO[bytes]], object]) -> mmap.mmap:
    """Map a file that ``write`` fills, in the cache or, where that cannot be written, among temporary files.

    A StorageError where there is no room.
    """
    folder = cache_folder("rows")
    try:
        file = _nameless(folder)
    except StorageError as error:
        warn_of_cache(error)
        file = _nameless(folder := temporary_root())
    with storage_errors(folder), file:
        write(file)
        file.flush()
        # Nobody writes through the map, but torch wants arrays that could be written.
        return mmap.mmap(file.fileno(), 0)


def _nameless(folder: Path) -> IO[bytes]:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)


def concatenated(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join arrays along their first axis, one at least, in memory or, where they are large, in a mapped file."""
    more, few, size = iter(parts), deque[np.ndarray](), 0
    for part in more:
        few.append(part)
        if (size := size + part.nbytes) > MEMORY:
            kind, shape = part.dtype, part.shape[1:]

            def write(file: IO[bytes]) -> None:
                for each in drained(few, more):
                    for block in blocks(each):
                        file.write(np.ascontiguousarray(block).data)

            return np.frombuffer(in_file(write), kind).reshape(-1, *shape)
    return few[0] if len(few) == 1 else np.concatenate(few)


def drained(few: deque[Part], more: Iterator[Part]) -> Iterator[Part]:
    """Yield the parts that were held so far, of which no more is held then, and those that follow."""
    while few:
        yield few.popleft()
    yield from more


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array: of a small one all at once, of a large one some, which do not stay in memory."""
    rows = len(array) if array.nbytes <= MEMORY else max(1, _BLOCK * len(array) // array.nbytes)
    for start in range(0, max(1, len(array)), max(1, rows)):
        yield array[start : start + rows]
        release(array)


def counted(numbers: np.ndarray, least: int = 0) -> np.ndarray:
    """Count each number from 0 on, (largest number + 1, or ``least``,) int64."""
    counts = np.zeros(least, np.int64)
    for block in blocks(numbers):
        more = np.bincount(block, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    return counts


def release(array: np.ndarray) -> None:
    """Let go of the memory that an array in a mapped file has taken so far; it is read again where it is used."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapped = getattr(base, "obj", base)
    # Windows has no such call; and what is read again costs a little time, for which little memory is no gain.
    if isinstance(mapped, mmap.mmap) and len(mapped) > MEMORY and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
