"""Split texts into words, or into pairs of letters where words are not spaced."""

import re
from itertools import pairwise

from nlptransfer.data.columns import UNSPACED

_WORD = re.compile(r"\w+")
_WORD_LETTERS = bytes(letter if _WORD.match(chr(letter)) else ord(" ") for letter in range(256))
_RUN = re.compile(f"({UNSPACED.pattern}+)|(?:(?!{UNSPACED.pattern})\\w)+")


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case; of Chinese, Japanese, Thai, ... pairs of letters."""
    if text.isascii():
        return {*text.lower().encode().translate(_WORD_LETTERS).decode().split()}
    lower = text.casefold()
    if not UNSPACED.search(lower):
        return {*_WORD.findall(lower)}
    words = set[str]()
    for run in _RUN.finditer(lower):
        words.update([one + other for one, other in pairwise(run[0])] if run[1] and len(run[0]) > 1 else [run[0]])
    return words
