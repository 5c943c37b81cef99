"""Split texts into words, or into pairs of letters where words are not spaced."""

import re
from itertools import pairwise

from nlptransfer.data.columns import UNSPACED

_RUN = re.compile(f"({UNSPACED.pattern}+)|(?:(?!{UNSPACED.pattern})\\w)+")
_WORD = re.compile(r"\w+")


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case; of Chinese, Japanese, Thai, ... pairs of letters."""
    lower = text.casefold()
    if lower.isascii() or not UNSPACED.search(lower):
        return {*_WORD.findall(lower)}
    words = set[str]()
    for run in _RUN.finditer(lower):
        words.update([one + other for one, other in pairwise(run[0])] if run[1] and len(run[0]) > 1 else [run[0]])
    return words
