"""Find rows that repeat others: copies of one text, exact or nearly so. Does not know labels, features or scores."""

import unicodedata


class _Letters(dict[int, int | None]):
    """What becomes of each letter of a text that is folded, looked up once: None where it is left out."""

    def __missing__(self, letter: int) -> int | None:
        category = unicodedata.category(chr(letter))
        # Emoji are symbols and stay; their variation selectors go, and accents that stand alone (Sk), as "`".
        is_left_out = category[0] in "PZC" or category == "Sk" or 0xFE00 <= letter <= 0xFE0F
        self[letter] = stays = None if is_left_out else letter
        return stays


_LETTERS = _Letters()


def folded(text: str) -> str:
    """Write a text without what copies of it differ in: case, white space, punctuation, compatibility forms (NFKC).

    A text of nothing else stays as it is.
    """
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", lower.translate(_LETTERS)) or text
