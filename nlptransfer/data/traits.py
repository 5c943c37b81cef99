"""List the traits of rows that may tell their labels: words, marks, lengths, other columns. Does not know labels."""

import math
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nlptransfer.data.labels import is_missing
from nlptransfer.data.normalization import ENTITY, TAG, URL, USER
from nlptransfer.data.terms import words_of

MOST_VALUES = 50
"""Values of a column that are looked at, the most frequent; the others are one."""
BINS = 20
"""Ranges of a length, or of a column of more different numbers, each of about equally many rows."""
LONGEST_VALUE = 40
"""Characters of a value that are looked at."""
MISSING, OTHER = "missing", "another value"

_FORMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "an address": (":.", URL.search),
    "a user name": ("@", USER.search),
    "a hashtag": ("#", re.compile(r"#\w").search),
    "an HTML tag": ("<", TAG.search),
    "an HTML entity": ("&", ENTITY.search),
    "a sign twice in a row": ("!?.", re.compile(r"([!?.])\1").search),
    "capitals alone": ("", str.isupper),
    "no capital": ("", str.islower),
    "white space at an end": ("", lambda text: text != text.strip()),
    "two blanks in a row": ("", re.compile("  ").search),
}
"""What is seen of a text as a whole, by its name, and signs without which it is not there."""
_EMOJI = range(0x1F300, 0x1FB00)


class Trait(NamedTuple):
    """Something that some rows have. Traits of one kind and name exclude each other."""

    kind: str
    """word, sign, script, form, start, end, length or column"""
    name: str
    """the word, the sign, the column, ..."""
    value: str = ""
    """of a start, an end, a length or a column"""


def traits_of(text: str) -> set[tuple[str, str, str]]:
    """Return all that a text shows by itself but its lengths, each as a :class:`Trait` is."""
    traits = {("word", word, "") for word in words_of(text)}
    letters = {*text}
    traits.update(("sign", letter, "") for letter in letters if _is_sign(letter))
    traits.update(("script", name, "") for name in {*map(script_of, letters)} if name)
    forms = (
        name for name, (signs, has) in _FORMS.items() if (not signs or not letters.isdisjoint(signs)) and has(text)
    )
    traits.update(("form", name, "") for name in forms)
    if any(map(str.isdigit, letters)):
        traits.add(("form", "a digit", ""))
    if any(ord(letter) in _EMOJI for letter in letters):
        traits.add(("form", "an emoji", ""))
    traits.update((("start", "start", _edge(text[0])), ("end", "end", _edge(text[-1]))))
    return traits


@lru_cache(maxsize=2**16)
def _is_sign(letter: str) -> bool:
    return letter != " " and unicodedata.category(letter)[0] not in "LMN"


@lru_cache(maxsize=2**16)
def script_of(letter: str) -> str:
    """Name the script of a letter by its Unicode name: LATIN, CJK, CYRILLIC, ...; "" of what is no letter."""
    plain = unicodedata.normalize("NFKC", letter)[0]
    if not plain.isalpha() or unicodedata.category(plain) == "Lm":
        return ""
    return unicodedata.name(plain, "").partition(" ")[0].partition("-")[0]


def lengths_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return by unit, characters and words, the range that each text's length is in."""
    return {"characters": values_of([*map(len, texts)]), "words": values_of([len(text.split()) for text in texts])}


def values_of(column: Sequence[Any]) -> list[str]:
    """Return the value of each row of a column as traits have it: a name, a range, ``MISSING`` or ``OTHER``."""
    missing = [is_missing(value) or (isinstance(value, str) and not value.strip()) for value in column]
    numbers = [math.nan if gone else _number(value) for value, gone in zip(column, missing, strict=True)]
    present = np.array([number for number, gone in zip(numbers, missing, strict=True) if not gone])
    if len({*present.tolist()}) > BINS and not np.isnan(present).any():
        return _ranges(numbers, present)
    names = [MISSING if gone else str(value)[:LONGEST_VALUE] for value, gone in zip(column, missing, strict=True)]
    frequent = {name for name, _ in Counter(names).most_common(MOST_VALUES)}
    return [name if name in frequent else OTHER for name in names]


def _ranges(numbers: Sequence[float], present: np.ndarray) -> list[str]:
    """Name the range of each number, NaN as ``MISSING``; ends are numbers that occur."""
    ordered = np.sort(present)
    tops = np.unique(ordered[np.linspace(0, len(ordered) - 1, BINS + 1).astype(int)[1:]])
    bottoms = [ordered[0], *ordered[np.searchsorted(ordered, tops[:-1], side="right")]]
    names = [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in zip(bottoms, tops, strict=True)]
    edges = tops.tolist()
    return [MISSING if math.isnan(number) else names[bisect_left(edges, number)] for number in numbers]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _edge(letter: str) -> str:
    if letter.isalpha():
        return "a capital" if letter.isupper() else "a letter"
    return "a digit" if letter.isdigit() else letter
