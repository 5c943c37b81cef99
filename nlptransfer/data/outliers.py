"""Find texts that are unlike the others by their letters: script, language, markup, damage. Knows no labels, models."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from nlptransfer.data.columns import UNSPACED
from nlptransfer.data.normalization import ENTITY, TAG, URL, USER
from nlptransfer.data.terms import words_of
from nlptransfer.data.traits import script_of

LEAST_LETTERS = 3
"""Letters from which a text has a script."""
RARE_SCRIPT, FEW_USUAL_LETTERS = 0.01, 0.1
"""Share of the texts up to which a script that is the main one there is not usual; and share of a text's letters that
are of usual scripts, up to which the text is of another one."""
COMMON_WORDS, COMMON_SHARE = 300, 0.005
"""Words by which a language is known: the most frequent, as far as they are in this share of the texts."""
LEAST_WORDS = 8
"""Words from which a text has a language."""
FEW_COMMON = 0.25
"""Share of common words, over its median, up to which a text is of another language."""
MOSTLY = 0.5
"""Share of a text's characters from which it is mostly markup, damage or code."""
READ = 20_000
"""Characters of a text that are looked at."""

EMPTY, MARKUP, DAMAGE, CODE = "nothing but signs, addresses or names", "mostly markup", "mostly damaged", "mostly code"
DAMAGED, LEFT_OVER = "damaged characters", "remains of markup"
SCRIPT, LANGUAGE = "another script", "another language or noise"
ODD = (EMPTY, CODE, MARKUP, DAMAGE, SCRIPT, LANGUAGE)
"""Reasons that leave little of a text to learn from."""

# UTF-8 that was read as Latin-1 or Windows-1252 is a run of these; whether it is, decoding tells.
_HIGH = re.compile("[\x80-\xffŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]{2,}")
_BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+|锟斤拷")
_CODE = re.compile(r"(?=\S*[a-z])(?=\S*[A-Z])(?=\S*\d)[A-Za-z0-9+/=_-]{40,}|[0-9a-fA-F]{32,}")
# Tags, entities, also those that lost a sign (" #39;", "quot;", "&lt"), and escapes that were not undone ("\\n").
_LEFT_OVER = re.compile(
    r"#\d{2,4};|\b(?:amp|quot|nbsp|lt|gt);|&(?:lt|gt|amp|quot|nbsp)\b|</?(?:br|p|b|i|a|div|span)\b[^<>]*>"
    r"|\\[nrt\"'](?![a-z])|\\u[0-9a-fA-F]{4}"
)


def unlike_others(texts: Sequence[str]) -> list[str]:
    """Say of each text why it is unlike the others, "" of most: the first of these reasons.

    - ``EMPTY``: without markup, addresses, user names and punctuation nothing is left;
    - ``CODE``, ``MARKUP``, ``DAMAGE``: half of the characters or more are base64 or hexadecimal digits; tags, entities
      and addresses; or UTF-8 that was read as Windows-1252 ("Ã©"), replacement and control characters;
    - ``SCRIPT``: hardly a letter is of a script that is the main one of more than 1% of the texts;
    - ``LANGUAGE``: few of its words are among the most frequent of all texts, a fourth at most of what is usual. So
      languages of one script are distinguished without a model, from ``LEAST_WORDS`` words on, and where most texts are
      of one language; it may also be names or jargon. Not of Chinese, Japanese, Thai, ...: words are not spaced there;
    - ``DAMAGED``, ``LEFT_OVER``: some damage or markup within a text that is mostly sound.
    """
    reasons = [_reason(text[:READ]) for text in texts]
    for places, reason in ((_other_script(texts), SCRIPT), (_other_language(texts), LANGUAGE)):
        for place in places:
            if reasons[place] in ("", DAMAGED, LEFT_OVER):
                reasons[place] = reason
    return reasons


def _reason(text: str) -> str:
    plain = USER.sub(" ", URL.sub(" ", ENTITY.sub(" ", TAG.sub(" ", text))))
    # Emoji are content, for sentiment at least: of the signs only what is neither letter, digit nor symbol is nothing.
    if not any(letter.isalnum() or (ord(letter) > 0x2190 and letter.isprintable()) for letter in plain):
        return EMPTY
    size = len(text.strip())
    if _length(_CODE.finditer(plain)) >= MOSTLY * size:
        return CODE
    damage = sum(map(len, _damage(text)))
    if damage >= MOSTLY * size:
        return DAMAGE
    if len(text) - len(plain) >= MOSTLY * size:
        return MARKUP
    return DAMAGED if damage else LEFT_OVER if _LEFT_OVER.search(text) else ""


def _damage(text: str) -> Iterator[str]:
    if text.isascii() and text.isprintable():
        return
    yield from _BROKEN.findall(text)
    for run in _HIGH.findall(text):
        # What Windows-1252 leaves undefined, programs read as the control character of that byte.
        raw = b"".join(letter.encode("latin-1" if ord(letter) < 256 else "cp1252") for letter in run)
        sound = raw.decode("utf-8", errors="ignore")
        if sound and len(sound.encode()) >= MOSTLY * len(raw):
            yield run


def _length(matches: Iterator[re.Match[str]]) -> int:
    return sum(match.end() - match.start() for match in matches)


def _other_script(texts: Sequence[str]) -> list[int]:
    letters = [_letters_of(text[:READ]) for text in texts]
    mains = Counter(max(counts, key=lambda script: counts[script]) for counts in letters if counts)
    usual = {script for script, count in mains.items() if count > RARE_SCRIPT * len(texts)}
    return [
        place
        for place, counts in enumerate(letters)
        if counts.total() >= LEAST_LETTERS
        and sum(counts[script] for script in usual) <= FEW_USUAL_LETTERS * counts.total()
    ]


def _letters_of(text: str) -> Counter[str]:
    """Count the letters of each script."""
    counts = Counter({"LATIN": sum(map(str.isalpha, text))}) if text.isascii() else Counter(map(script_of, text))
    counts.pop("", None)
    return +counts


def _other_language(texts: Sequence[str]) -> list[int]:
    spaced = [place for place, text in enumerate(texts) if text.isascii() or not UNSPACED.search(text)]
    if len(spaced) <= len(texts) / 2:
        return []
    words, counts = [], Counter[str]()
    for place in spaced:
        some = words_of(texts[place][:READ])
        counts.update(some)
        words.append(some if len(some) >= LEAST_WORDS else set())
    least = max(2, COMMON_SHARE * len(spaced))
    common = {word for word, count in counts.most_common(COMMON_WORDS) if count >= least}
    shares = {place: len(some & common) / len(some) for place, some in zip(spaced, words, strict=True) if some}
    usual = float(np.median([*shares.values()])) if shares else 0.0
    return [place for place, share in shares.items() if share <= FEW_COMMON * usual]
