"""Hold the texts of rows: as a list, or where they are many in a mapped file. Does not know what is in them."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np

from nlptransfer import mapped

CHUNK = 2**14
"""Texts that are read at a time."""


class MappedTexts(Sequence[str]):
    """Texts in a mapped file, one after the other, some of which these are, in an order; a slice of them is a list."""

    def __init__(self, content: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> None:
        self.content, self.ends, self.rows = content, ends, rows

    @classmethod
    def of(cls, parts: Iterable[Sequence[str]]) -> "MappedTexts":
        """Write texts that come part by part."""
        sizes = [np.zeros(1, np.int64)]

        def encoded() -> Iterator[np.ndarray]:
            for part in parts:
                each = [text.encode() for text in part]
                sizes.append(np.fromiter(map(len, each), np.int64, len(each)))
                yield np.frombuffer(b"".join(each), np.uint8)

        content = mapped.concatenated(encoded())
        ends = np.cumsum(np.concatenate(sizes))
        return cls(content, ends, np.arange(len(ends) - 1))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if not isinstance(place, slice):
            return self._read(self.rows[[place]])[0]
        return self._read(self.rows[place])

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(_chunks(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MappedTexts):
            return NotImplemented
        return other.content is self.content and np.array_equal(other.rows, self.rows)

    def __hash__(self) -> int:
        return hash((id(self.content), len(self.rows)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has not the file.
        return list, ([*self],)

    def _read(self, rows: np.ndarray) -> list[str]:
        view, places = self.content.data, (self.ends[rows].tolist(), self.ends[rows + 1].tolist())
        texts = [str(view[start:end], "utf-8") for start, end in zip(*places, strict=True)]
        mapped.release(self.content)
        return texts


def held(parts: Iterable[Sequence[str]]) -> Sequence[str]:
    """Hold texts that come part by part: in a list, or where they are large in a mapped file."""
    more, few, size = iter(parts), deque[Sequence[str]](), 0
    for part in more:
        few.append(part)
        if (size := size + sum(map(len, part))) > mapped.MEMORY:
            return MappedTexts.of(mapped.drained(few, more))
    return [*chain.from_iterable(few)]


def taken(texts: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """Return the texts at places (rows,), in that order."""
    if isinstance(texts, MappedTexts):
        return MappedTexts(texts.content, texts.ends, texts.rows[rows])
    return [texts[row] for row in rows.tolist()]


def joined_texts(parts: Iterable[Sequence[str]]) -> Sequence[str]:
    """Return the texts of all parts, one after the other."""
    full = [part for part in parts if len(part)]
    if len(full) == 1:
        return full[0]
    in_files = [part for part in full if isinstance(part, MappedTexts)]
    if len(in_files) == len(full) > 0 and all(part.content is in_files[0].content for part in in_files):
        return MappedTexts(in_files[0].content, in_files[0].ends, np.concatenate([part.rows for part in in_files]))
    return held(chain.from_iterable(map(_chunks, full)))


def hashable(texts: Sequence[str]) -> Hashable:
    """Return what is equal for equal texts, to know them again by."""
    return texts if isinstance(texts, MappedTexts) else tuple(texts)


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
