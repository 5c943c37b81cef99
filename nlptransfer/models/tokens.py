"""Encode texts as token ids: each in one row, truncated where it is too long, or in windows.
It knows tokenizers and special tokens, not models."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from threading import Lock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from nlptransfer import mapped
from nlptransfer.data import JOINT, hashable
from nlptransfer.memo import once
from nlptransfer.progress import counted
from nlptransfer.settings import check
from nlptransfer.vectors import ids_of_chunks

LongText = Literal["truncate", "head_tail", "windows"]
"""How a text of more tokens than a model reads is handled: see :func:`encode`."""
TOKENS = "tokens"
"""The kind of shared work that keeps the tokens of texts."""
ENCODE_CHUNK = 4096
"""Texts that are tokenized at a time: the tokenizer's encodings are much larger than their ids."""
_BLOCK = 2**22
"""Tokens that are worked on at a time: what says where they are is much larger than they are."""


@dataclass(frozen=True)
class RowLimits:
    """What a model asks of rows besides a largest length; it is saved with the tokenizer."""

    least: int = 1
    """tokens of a batch's longest row, with padding"""
    one_length: bool = False
    """whether predictions depend on padding, so that rows of one length alone are predicted together"""
    embeddings: int | None = None
    """how many ids have embeddings, where the tokenizer has more; None: all"""


@dataclass(frozen=True)
class TokenRows:
    """Token ids of many texts, one after the other, without padding."""

    ids: np.ndarray
    """(tokens of all rows,) int32"""
    offsets: np.ndarray
    """(rows + 1,) int64: row i is ``ids[offsets[i]:offsets[i + 1]]``"""
    pad_id: int = 0
    type_ids: np.ndarray | None = None
    """(tokens of all rows,) int8, where the tokenizer gives segments that are not all 0 (XLNet)"""
    pad_left: bool = False
    """whether padding goes before a row"""
    windows: np.ndarray | None = None
    """(texts + 1,) int64: text i is rows ``windows[i]`` to ``windows[i + 1]``; None: each row is a text"""
    long_text: LongText = "truncate"
    """how texts of too many tokens were handled"""
    limits: RowLimits = RowLimits()
    """what the model asks of them"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def one_length(self) -> bool:
        return self.limits.one_length

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (len(indices), longest row) int64, at least ``least`` wide."""
        places, real = self.places(indices)
        input_ids = np.full(real.shape, self.pad_id, dtype=np.int64)
        input_ids[real] = self.ids[places]
        inputs = {"input_ids": input_ids, "attention_mask": real.astype(np.int64)}
        if self.type_ids is not None:
            inputs["token_type_ids"] = np.zeros(real.shape, dtype=np.int64)
            inputs["token_type_ids"][real] = self.type_ids[places]
        mapped.release(self.ids)
        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of these rows' tokens in ``ids``, and their mask in a batch, (rows, longest) bool."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        width = max(self.limits.least, int(lengths.max(initial=0)))
        padding_before = (width - lengths) * self.pad_left
        columns = np.arange(width) - padding_before[:, None]
        real = (columns >= 0) & (columns < lengths[:, None])
        return (starts[:, None] + columns)[real], real


def encode(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int | None,
    long_text: LongText = "truncate",
    unknown: Callable[[str], int] | None = None,
) -> TokenRows:
    """Tokenize texts, each row of at most ``max_length`` tokens, special ones included.

    With a ``max_length`` of None texts of any length stay whole; one that has no room between the special tokens is a
    SettingError. A longer text is handled by ``long_text``. truncate: its first tokens. head_tail: a quarter from its
    head, the rest from its tail (Sun et al. 2019, section 5.3.1: of 510 the first 128 and the last 382). windows: all
    tokens, in rows that each begin three quarters of a row after the one before; the last ends with the text.

    ``unknown`` gives the id of a word that the tokenizer does not know.
    """
    special = tokenizer.backend_tokenizer.num_special_tokens_to_add(False)
    expected = f"more than the {special} special tokens of each text"
    check(max_length is None or max_length > special, "max_length", max_length, expected)
    room = None if max_length is None else max_length - special
    bare, sizes = _tokens(texts, tokenizer) if unknown is None else _tokenize(texts, tokenizer, unknown)
    # The special tokens are the same for all texts, but show only where there is a token between them.
    longest = as_read(texts[int(sizes.argmax())], tokenizer) if special and len(texts) else ""
    before, after, segment = _frame(tokenizer, longest)
    has_types = "token_type_ids" in tokenizer.model_input_names
    lengths, rows, type_ids = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()

    def parts() -> Iterator[np.ndarray]:
        ends = np.cumsum(sizes)
        for some in token_blocks(ends):
            places, of_rows, of_texts = _read(sizes[some], room, long_text)
            lengths.append(of_rows)
            rows.append(of_texts)
            if has_types and (segment or before[1].any() or after[1].any()):
                segments = np.full(len(places), segment, dtype=np.int8)
                type_ids.append(_joined(before[1], segments, after[1], of_rows))
            inner = bare[ends[some][0] - sizes[some][0] if len(ends) else 0 :][places]
            yield _joined(before[0], inner, after[0], of_rows)
            mapped.release(bare)

    if not special and (room is None or sizes.max(initial=0) <= room):
        ids, lengths, rows = bare, [sizes], [np.ones_like(sizes)]
    else:
        ids = mapped.concatenated(parts())
    every = np.concatenate(type_ids) if type_ids else None
    windows = np.concatenate([[0], np.cumsum(np.concatenate(rows))])
    return TokenRows(
        ids,
        np.concatenate([[0], np.cumsum(np.concatenate(lengths) + special)]),
        tokenizer.pad_token_id or 0,
        every if every is not None and every.any() else None,
        tokenizer.padding_side == "left",
        windows if windows[-1] > len(texts) else None,
        long_text,
        limits_of(tokenizer),
    )


def joined_rows(parts: Sequence[TokenRows]) -> TokenRows:
    """Put the rows of several tokenizers of one base one after the other."""
    types = [np.zeros(len(each.ids), np.int8) if each.type_ids is None else each.type_ids for each in parts]
    counts = [np.ones(len(each), int) if each.windows is None else np.diff(each.windows) for each in parts]
    return replace(
        parts[0],
        ids=np.concatenate([each.ids for each in parts]),
        offsets=np.cumsum(np.concatenate([[0], *(each.lengths for each in parts)])),
        type_ids=np.concatenate(types) if any(map(np.any, types)) else None,
        windows=np.cumsum(np.concatenate([[0], *counts])),
    )


def encode_words(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, long_text: LongText) -> TokenRows:
    """Encode words whose vectors will be pooled: in place of windows all in one row of any length."""
    return encode(texts, tokenizer, None if long_text == "windows" else tokenizer.model_max_length, long_text)


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Count the tokens of each text, special ones included, (texts,) int64."""
    return _tokens(texts, tokenizer)[1] + tokenizer.backend_tokenizer.num_special_tokens_to_add(False)


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens of all texts,) int32 ids, without special ones, and (texts,) int64 tokens of each text."""
    return once((TOKENS, tokenizer, hashable(texts)), partial(_tokenize, texts, tokenizer))


def _tokenize(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, unknown: Callable[[str], int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    sizes, known = list[int](), limits_of(tokenizer).embeddings
    starts = range(0, len(texts), ENCODE_CHUNK)
    chunks = ([as_read(text, tokenizer) for text in texts[start : start + ENCODE_CHUNK]] for start in starts)

    def parts(rows_of_chunks: Iterator[list[list[int]]]) -> Iterator[np.ndarray]:
        yield np.zeros(0, dtype=np.int32)
        for rows in rows_of_chunks:
            sizes.extend(map(len, rows))
            ids = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
            if known is not None:
                ids[ids >= known] = tokenizer.pad_token_id if tokenizer.unk_token is None else tokenizer.unk_token_id
            yield ids

    with _untruncated(tokenizer) as backend:
        named = None if unknown is None else (_named(chunk, tokenizer, backend, unknown) for chunk in chunks)
        rows = counted(named or ids_of_chunks(backend, chunks), "tokenizing", len(texts))
        return mapped.concatenated(parts(rows)), np.array(sizes, dtype=np.int64)


def _named(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, backend: Tokenizer, unknown: Callable[[str], int]
) -> list[list[int]]:
    """Return the ids of the tokens of each text, with those that ``unknown`` gives for words that are not known."""
    # The fast one does not say where the tokens of a text are.
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    rows = [encoding.ids for encoding in encodings]
    for text, encoding, row in zip(texts, encodings, rows, strict=True):
        for place in [place for place, token in enumerate(row) if token == tokenizer.unk_token_id]:
            word = text[slice(*encoding.offsets[place])]
            if word != tokenizer.unk_token:
                row[place] = unknown(backend.normalizer.normalize_str(word))
    return rows


def as_read(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """Put the prompt before a text, and the tokenizer's separator, or a line end, between those of several columns."""
    separator = f" {tokenizer.sep_token} " if tokenizer.sep_token else "\n"
    return prompt_of(tokenizer) + text.replace(JOINT, separator)


def prompt_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return what stands before each text, as the base was trained; it is saved with the tokenizer."""
    return str(tokenizer.init_kwargs.get("prompt") or "")


def limits_of(tokenizer: PreTrainedTokenizerFast) -> RowLimits:
    return RowLimits(**tokenizer.init_kwargs.get("row_limits", {}))


def limit(tokenizer: PreTrainedTokenizerFast, **limits: Any) -> None:
    """Set some of the limits of a tokenizer's rows; where all are as usual, nothing is saved of them."""
    every = replace(limits_of(tokenizer), **limits)
    if every != RowLimits():
        tokenizer.init_kwargs["row_limits"] = asdict(every)


class _Untruncated:
    """Lets a tokenizer neither truncate nor pad within a block. Threads share it: the last to leave turns that back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside: WeakKeyDictionary[Any, tuple[int, Any, Any]] = WeakKeyDictionary()
        """how many are inside, truncation and padding before, by tokenizer"""

    @contextmanager
    def __call__(self, tokenizer: PreTrainedTokenizerFast) -> Iterator[Tokenizer]:
        backend = tokenizer.backend_tokenizer
        with self._lock:
            inside, *before = self._inside.get(tokenizer) or (0, backend.truncation, backend.padding)
            if not inside:
                backend.no_padding()
                backend.no_truncation()
            self._inside[tokenizer] = inside + 1, *before
        try:
            yield backend
        finally:
            with self._lock:
                inside, truncation, padding = self._inside.pop(tokenizer)
                if inside > 1:
                    self._inside[tokenizer] = inside - 1, truncation, padding
                else:
                    # The tokenizer is saved with the model, with its own settings.
                    if truncation:
                        backend.enable_truncation(**truncation)
                    if padding:
                        backend.enable_padding(**padding)


_untruncated = _Untruncated()


def _frame(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Read off a text the (2, tokens) ids and segments of the special ones before and after it, and its own segment.

    Those around an empty text are all before it.
    """
    with _untruncated(tokenizer) as backend:
        shown = backend.encode(text)
    both = np.array([shown.ids, shown.type_ids], dtype=np.int64)
    own = np.flatnonzero(np.array(shown.special_tokens_mask) == 0)
    if not len(own):
        return both, both[:, :0], 0
    return both[:, : own[0]], both[:, own[-1] + 1 :], int(both[1, own[0]])


def _read(sizes: np.ndarray, room: int | None, long_text: LongText) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places of the tokens to read, row by row; each row's size; and the number of rows of each text.

    The tokens of texts of these sizes lie one after the other, and a row has ``room`` of them, or None: all.
    """
    if room is None:
        room = max(1, int(sizes.max(initial=1)))
    firsts = np.cumsum(sizes) - sizes
    over = np.maximum(sizes - room, 0)
    if long_text == "windows":
        step = room - room // 4
        rows = 1 + -(-over // step)
        begins = np.repeat(firsts, rows) + np.minimum(ranges(np.zeros_like(rows), rows) * step, np.repeat(over, rows))
        lengths = np.repeat(sizes - over, rows)
        return ranges(begins, lengths), lengths, rows
    lengths = sizes - over
    places = ranges(firsts, lengths)
    if long_text == "head_tail":
        head = -(-room // 4)
        places += np.repeat(over, lengths) * (ranges(np.zeros_like(lengths), lengths) >= head)
    return places, lengths, np.ones_like(sizes)


def _joined(before: np.ndarray, inner: np.ndarray, after: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Put the same tokens before and after each row of ``inner``, whose rows have these sizes."""
    ends = np.cumsum(sizes + len(before) + len(after))
    starts = ends - len(after) - sizes
    joined = np.empty(int(ends.max(initial=0)), dtype=inner.dtype)
    joined[ranges(starts, sizes)] = inner
    joined[starts[:, None] - len(before) + np.arange(len(before))] = before
    joined[ends[:, None] - len(after) + np.arange(len(after))] = after
    return joined


def token_blocks(ends: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows, at least one, that have some millions of tokens together; ``ends`` are of each row."""
    starts = np.flatnonzero(np.diff(ends // _BLOCK, prepend=-1)).tolist() or [0]
    return (slice(start, stop) for start, stop in pairwise([*starts, len(ends)]))


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Join the ranges with these starts and sizes."""
    joined: np.ndarray = np.arange(int(sizes.sum())) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return joined
