"""Split running text into words: by the tokenizer that fits a vocabulary, or by what a corpus shows.

Vocabularies differ in habit: lower-cased or not, with accents or without, ``don't`` as one word or as ``do`` + ``n't``,
numbers as digits or as ``##``, words written without spaces. Each habit is read off the vocabulary itself, so that text
meets the words that the vectors know. This file knows words and their ids, and no vectors.
"""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from nlptransfer.errors import VectorsError

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1
RESERVED = 2
"""Rows of the vector matrix before the first word: padding and unknown, both zero."""
# Scripts that put no space between words: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_LETTERS = r"\p{L}[\p{L}\p{M}]*"
_NUMBER = r"\d+(?:[.,]\d+)*"
_HIDDEN = r"##+(?:[.,]#+)*|#(?:[.,]#+)+"
_ANY_MARK = r"[^\p{L}\p{M}\p{Nd}\p{Cc}\p{Cf}\s]"
# Penn Treebank habit: the clitic is a word of its own, "do n't", "it 's".
_CLITIC = r"(?:n't|'(?:s|re|ve|ll|d|m))\b"
_APART = re.compile(r"\s(?:'|n't)", re.IGNORECASE)
_PARTED = rf"\p{{L}}[\p{{L}}\p{{M}}]*?(?=n't\b)|{_CLITIC}|{_LETTERS}(?:'(?!(?:s|re|ve|ll|d|m|t)\b){_LETTERS})*"
_JOINED = rf"{_LETTERS}(?:'{_LETTERS})*"
# In unspaced scripts the model segments what is between marks, but a decimal number is one word.
_RUN = r"\d+(?:[.,]\d+)+|[\p{L}\p{M}\p{N}]+"
_PLAIN = {'"': ("“", "”", "„", "‟", "``", "''"), "'": ("‘", "‚"), "-": ("–", "—", "―", "−"), "...": ("…",)}
"""Plain marks, and those that a text may have instead; they are one where the vocabulary has only the plain one."""
_STAND_INS = {
    "<url>": r"https?://\S+|www\.\S+",
    "<user>": r"@\w+",
    "<hashtag>": r"#(?=\w)",
    "<number>": _NUMBER,
    "<num>": _NUMBER,
}
"""Words that stand for all of a kind (GloVe's vectors of Twitter have them), and a pattern of the kind."""
_MAX_RUNS = 200
_MANY_TEXTS, _MOST_PIECES = 256, 2**18
"""Texts among which enough words recur, and what stands between spaces that is remembered."""


def is_unspaced(words: Sequence[str]) -> bool:
    """Return whether over 30% of the first 5,000 words or texts have a script without spaces."""
    sample = words[:5000]
    return bool(sample) and sum(bool(_UNSPACED.search(word)) for word in sample) > 0.3 * len(sample)


def build_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Build the tokenizer over words, most frequent first, no word twice; the word at place i has the id i + 2.

    Spaced scripts are split by a pattern and looked up (WordLevel), unspaced ones segmented into the likeliest words
    (Unigram, Kudo 2018) by Zipf's law. Punctuation that the vocabulary does not have is passed over. A word that stands
    for padding or for unknown words is a VectorsError.
    """
    for reserved in (PAD, UNKNOWN):
        if reserved in words:
            raise VectorsError(f"the vocabulary holds {reserved!r}, which is reserved: take that word out of it")
    vocabulary = {PAD: PAD_ID, UNKNOWN: UNKNOWN_ID, **{word: i for i, word in enumerate(words, start=2)}}
    if is_unspaced(words):
        mass = math.log(sum(1 / rank for rank in range(1, len(words) + 1)))
        scores = [(word, -math.log(rank) - mass) for rank, word in enumerate(words, start=1)]
        # No text matches the reserved pieces: their score is far below every path through real ones.
        tokenizer = Tokenizer(models.Unigram([(PAD, -1e4), (UNKNOWN, -1e4), *scores], unk_id=UNKNOWN_ID))
        pattern, is_joined = _RUN, False
    else:
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        is_joined = "n't" not in vocabulary
        pattern = rf"{_NUMBER}|{_JOINED if is_joined else _PARTED}"
    stand_ins = [re.escape(name) for name in _STAND_INS if name in vocabulary]
    hidden = [_HIDDEN] if _hides_digits(vocabulary) else []
    tokenizer.normalizer = _normalizer(words, is_joined)
    tokenizer.pre_tokenizer = _split("|".join([*stand_ins, *hidden, pattern, _marks(words)]))
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def split_words(texts: Sequence[str], vocabulary_size: int = 20_000) -> Iterator[list[str]]:
    """Yield the words of each text, lower-cased; for unspaced scripts at most ``vocabulary_size`` pieces (BPE)."""
    if is_unspaced(texts):
        # Byte pairs and not Unigram: its trainer breaks ties by chance, and takes four times as long.
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = _normalizer((), is_joined=False)
        tokenizer.pre_tokenizer = _split(rf"{_NUMBER}|\p{{L}}[\p{{L}}\p{{M}}]{{0,63}}|{_ANY_MARK}")
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size, max_token_length=4, min_frequency=3, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    else:
        tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
        tokenizer.normalizer = _normalizer((), is_joined=True)
        tokenizer.pre_tokenizer = _split(rf"{_NUMBER}|{_JOINED}|{_ANY_MARK}")
    yield from surface_words(tokenizer, texts)


def surface_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the words of each text as the tokenizer sees them, also those that it does not know."""
    for text in texts:
        if isinstance(tokenizer.model, models.WordLevel):
            normal = tokenizer.normalizer.normalize_str(text)
            yield [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        else:
            yield tokenizer.encode(text).tokens


def ids_of_chunks(tokenizer: Tokenizer, chunks: Iterable[Sequence[str]]) -> Iterator[list[list[int]]]:
    """Yield the ids of the tokens of each text, without special ones, chunk by chunk.

    Words of many texts are looked up once, which is several times as fast, where the tokenizer is one of
    :func:`build_tokenizer` that splits at spaces: in ASCII a clitic that stands apart, as in "do n't", is all that has
    to do with what is beyond a space.
    """
    splits, known = _splits_at_spaces(tokenizer), dict[str, list[int]]()
    for texts in chunks:
        are_many = splits and len(texts) >= _MANY_TEXTS
        are_plain = (are_many and text.isascii() and not _APART.search(text) for text in texts)
        pieces = [text.split(" ") if is_plain else None for text, is_plain in zip(texts, are_plain, strict=True)]
        new = [piece for piece in dict.fromkeys(chain.from_iterable(filter(None, pieces))) if piece not in known]
        whole = [text for text, of_text in zip(texts, pieces, strict=True) if of_text is None]
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast([*new, *whole], add_special_tokens=False)]
        known |= zip(new, ids, strict=False)
        others = iter(ids[len(new) :])
        yield [next(others) if one is None else [*chain.from_iterable(map(known.__getitem__, one))] for one in pieces]
        if len(known) > _MOST_PIECES:
            known = {}


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    split = tokenizer.pre_tokenizer
    if not isinstance(tokenizer.model, models.WordLevel) or not isinstance(split, pre_tokenizers.Split):
        return False
    pattern = json.loads(split.__getstate__())["pattern"].get("Regex", "")
    return any(f"{_NUMBER}|{words}|" in f"|{pattern}|" for words in (_JOINED, _PARTED))


def word_mark(pieces: Collection[str]) -> str:
    """Return the mark at the beginning of a word: SentencePiece and byte-level BPE have one, WordPiece has none."""
    return next((mark for mark in ("▁", "Ġ") if sum(piece.startswith(mark) for piece in pieces) > 1), "")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "removed", invert=True)


def _marks(words: Sequence[str]) -> str:
    """Return a pattern of marks: the vocabulary's words without letter or digit, and pictures, known or not."""
    marks = [word for word in words if not any(s.isalpha() or s.isdecimal() or s.isspace() for s in word)]
    runs = sorted([mark for mark in marks if len(mark) > 1][:_MAX_RUNS], key=len, reverse=True)
    single = "".join(re.escape(mark) for mark in marks if len(mark) == 1)
    return "|".join([*map(re.escape, runs), rf"[\p{{So}}{single}]"])


def _hides_digits(vocabulary: Iterable[str]) -> bool:
    """Return whether numbers above 9 are written as ``##`` (the vectors of Google News)."""
    return "##" in vocabulary and "10" not in vocabulary


def _normalizer(words: Sequence[str], is_joined: bool) -> normalizers.Normalizer:
    """Write a text as the vocabulary does."""
    known = set(words)
    steps = [*_unicode_form(words), normalizers.Replace("’", "'")]
    for plain, others in _PLAIN.items():
        if folded := [other for other in others if other not in known]:
            steps.append(normalizers.Replace(Regex("|".join(folded)), plain))
    sample = words[:20_000]
    if sum(word != word.lower() for word in sample) <= 0.02 * len(sample):
        steps.append(normalizers.Lowercase())
    for name, pattern in _STAND_INS.items():
        if name in known:
            steps.append(normalizers.Replace(Regex(pattern), f"{name} "))
    if _hides_digits(known):
        steps.append(normalizers.Replace(Regex(r"\d(?=[.,]?\d)|(?<=\d)\d|(?<=\d[.,])\d"), "#"))
    if is_joined:
        # Possessive: a million spaces are looked at once.
        steps.append(normalizers.Replace(Regex(rf"(?<=\p{{L}})\s++(?={_CLITIC})"), ""))
    return normalizers.Sequence(steps)


def _unicode_form(words: Sequence[str]) -> list[normalizers.Normalizer]:
    """Keep accents and signs such as ``ﬁ`` or ``Ａ`` if the vocabulary has any, else write them plainly."""
    odd = [word for word in words if not word.isascii()]
    if not words or any(unicodedata.normalize("NFKC", word) != word for word in odd):
        return [normalizers.NFC()]
    if any(unicodedata.category(sign) == "Mn" for word in odd for sign in unicodedata.normalize("NFD", word)):
        return [normalizers.NFKC()]
    return [normalizers.NFKD(), normalizers.StripAccents(), normalizers.NFKC()]
