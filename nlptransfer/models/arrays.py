"""Arrays that are made once, and kept on disk: whole, or in parts until all are there.
It knows keys and rows, not what the arrays hold."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from nlptransfer import distributed
from nlptransfer.cache import cache_folder, open_entry, remove, seal, warn_of_cache
from nlptransfer.errors import SettingError, StorageError
from nlptransfer.files import atomic_folder, size_mb
from nlptransfer.storage import storage_errors

log = logging.getLogger("nlptransfer")

CACHE_LIMIT = "NLPTRANSFER_CACHE_GB"
"""Environment variable: the GiB that the feature cache may hold, by default ``CACHE_GB``."""
CACHE_GB = 20.0
_ARRAY = "array.npy"


@dataclass(frozen=True)
class Part:
    """Some rows of an array."""

    name: str
    """of all that they depend on besides the key of the array"""
    rows: np.ndarray
    """their places there, ascending"""
    make: Callable[[], np.ndarray]


def cached(key: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array from the cache, made and saved there the first time; all processes call this together.

    It is memory-mapped and read-only; ``key`` is all that it depends on, as JSON. Where the cache cannot be written it
    stays in memory, with a warning. An NLPTRANSFER_CACHE_GB that is no number is a SettingError.
    """
    return _entry(key, lambda _: _whole(make()))


def cached_in_parts(key: Mapping[str, Any], parts: Callable[[], Iterable[Part]]) -> np.ndarray:
    """Return an array as :func:`cached` does, made part by part: each row is in one of them.

    The cache keeps each part until all are there, so that a process that was killed goes on from the last one. Memory
    holds one at a time.
    """

    def make(folder: Path) -> "_Made":
        if left := _parts_of(folder):
            log.info("%d parts of the features are in the cache, and the others are computed", len(left))
        made = [_part(folder, part) for part in parts()]
        return partial(_write, made), partial(_joined, made)

    return _entry(key, make)


_Made = tuple[Callable[[Path], object], Callable[[], np.ndarray]]
"""What writes an array to a file, and what returns it in memory."""


def _whole(array: np.ndarray) -> _Made:
    return lambda file: np.save(file, array, allow_pickle=False), lambda: array


@dataclass(frozen=True)
class _SavedPart:
    folder: Path
    rows: np.ndarray
    values: np.ndarray
    """memory-mapped, or in memory where the cache cannot be written"""


def _part(array: Path, part: Part) -> _SavedPart:
    folder = array.with_name(f"{array.name}-{sha256(part.name)[:16]}")
    values = _opened_by_all(folder)
    return _SavedPart(folder, part.rows, _saved(folder, _whole(part.make())) if values is None else values)


def _parts_of(folder: Path) -> list[Path]:
    return [*folder.parent.glob(f"{folder.name}-*")]


def _write(parts: Sequence[_SavedPart], file: Path) -> None:
    """Write an array to a file; not by a memory map, as the process would end where the disk is full."""
    dtype, shape = parts[0].values.dtype, parts[0].values.shape[1:]
    size = dtype.itemsize * math.prod(shape)
    with file.open("wb") as stream:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (_count(parts), *shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        first = stream.tell()
        for part in parts:
            # Mapped once more: what is read of it stays in memory as long as it is mapped.
            again = _opened(part.folder)
            values = part.values if again is None else again
            ends = np.flatnonzero(np.diff(part.rows, append=-1) != 1) + 1
            for start, end in pairwise([0, *ends]):
                stream.seek(first + int(part.rows[start]) * size)
                stream.write(values[start:end].data)


def _joined(parts: Sequence[_SavedPart]) -> np.ndarray:
    values = parts[0].values
    every = np.empty((_count(parts), *values.shape[1:]), values.dtype)
    for part in parts:
        every[part.rows] = part.values
    return every


def _count(parts: Sequence[_SavedPart]) -> int:
    return sum(len(part.rows) for part in parts)


def _entry(key: Mapping[str, Any], make: Callable[[Path], _Made]) -> np.ndarray:
    limit, folder = _limit(), cache_folder("features") / sha256(json.dumps(key, sort_keys=True))
    array = _opened_by_all(folder)
    is_new = array is None
    if array is None:
        array = _saved(folder, make(folder))
    if distributed.is_main() and folder.exists():
        for part in _parts_of(folder):
            remove(part)
        if is_new:
            _evict(folder, limit)
    return array


def _opened_by_all(folder: Path) -> np.ndarray | None:
    """Open an entry; None where a process has none, as then all make it together."""
    array = _opened(folder)
    return None if distributed.largest(int(array is None)) else array


def _opened(folder: Path) -> np.ndarray | None:
    array = open_entry(folder, "features", _mapped)
    if array is not None:
        with suppress(OSError):  # a cache that may only be read serves too
            os.utime(folder)
    return array


def _mapped(folder: Path) -> np.ndarray:
    with storage_errors(folder, "read"):
        return cast(np.ndarray, np.load(folder / _ARRAY, mmap_mode="r", allow_pickle=False))


def _saved(folder: Path, made: _Made) -> np.ndarray:
    write, whole = made
    distributed.on_main(lambda: _save(folder, write))
    array = _opened(folder)
    return whole() if array is None else array


def _save(folder: Path, write: Callable[[Path], object]) -> None:
    try:
        with atomic_folder(folder) as new:
            write(new / _ARRAY)
            seal(new)
    except StorageError as error:
        warn_of_cache(error)


def _evict(newest: Path, limit: float) -> None:
    """Remove what was used longest ago until the cache fits its limit, but not the newest entry."""
    entries = []
    for entry in newest.parent.iterdir():
        with suppress(FileNotFoundError):  # another run evicts too
            entries.append((entry.stat().st_mtime_ns, size_mb(entry), entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= limit:
            break
        if entry != newest:
            remove(entry)
            total -= size


def _limit() -> float:
    """Return the MiB that the cache may hold."""
    value = os.environ.get(CACHE_LIMIT) or str(CACHE_GB)
    try:
        size = float(value)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise SettingError(f"{CACHE_LIMIT}={value!r}: expected the GiB that the feature cache may hold, from 0")
    return size * 2**10


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
