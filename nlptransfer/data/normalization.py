"""Write texts in one form, as texts of two sources differ; a classifier predicts in the form that it learned from."""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

from nlptransfer.settings import check

Normalization = Literal["none", "nfkc", "lower", "web"]
"""The names of :data:`NORMALIZATIONS`, as a setting has them."""
_MOST_STEPS = 10
_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„‟", '"'))
# With its semicolon: without, "?a=1&copy=2" would hold one.
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# A letter follows the bracket: "i <3 you" and "2 < 3 > 1" have no tag. Never past another bracket: time stays linear.
TAG = re.compile(r"<(?:/?[A-Za-z]|!)[^<>]*>")
# Addresses are ASCII: text of a script without spaces may follow at once. The last sign is no full stop.
URL = re.compile(r"(?:https?://|(?<![A-Za-z0-9.])www\.(?=[A-Za-z0-9]))[!#-;=?-~]*[A-Za-z0-9/]", re.IGNORECASE)
# Not within an e-mail address.
USER = re.compile(r"(?<![A-Za-z0-9_.+@-])@\w+")
_LONG_RUN = re.compile(r"([^\W\d_])\1{3,}")


def normalize(name: str, texts: Iterable[str]) -> list[str]:
    """Bring texts into the form ``name`` of :data:`NORMALIZATIONS`; a SettingError where there is no such form."""
    check(name in NORMALIZATIONS, "normalization", name, f"one of {', '.join(NORMALIZATIONS)}")
    return [*texts] if name == "none" else [NORMALIZATIONS[name](text) for text in texts]


def _nfkc(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).split()) or text


def _without_web(text: str) -> str:
    # Stand-ins as in TweetEval (Barbieri et al. 2020).
    text = ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = USER.sub("@user", URL.sub("http", TAG.sub(" ", text)))
    return _LONG_RUN.sub(r"\1\1\1", text)


def _settled(step: Callable[[str], str], text: str) -> str:
    """Repeat ``step`` and NFKC until nothing changes, as "&amp;lt;" is an entity in an entity; else NFKC alone."""
    plain = form = _nfkc(text)
    for _ in range(_MOST_STEPS):
        before, form = form, _nfkc(step(form))
        if not form or form.isspace():
            break
        if form == before:
            return form
    return plain


NORMALIZATIONS: dict[str, Callable[[str], str]] = {
    "none": str,
    "nfkc": _nfkc,
    "lower": partial(_settled, str.lower),
    "web": partial(_settled, _without_web),
}
"""Each form by its name; none empties a text that is not empty, and each leaves its own result as it is.

- ``none``: the text as it is;
- ``nfkc``: Unicode NFKC, curly quotes as plain ones, runs of white space as one blank, none at the ends;
- ``lower``: nfkc in lower case;
- ``web``: nfkc without HTML entities and tags, addresses as "http", users as "@user", a letter at most thrice in a row.
"""
