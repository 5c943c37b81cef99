"""Running text -> words: the tokenizer that fits a vocabulary, and the words of a corpus.

Vocabularies differ in habit: lower-cased or not, ``don't`` as one word or as ``do`` + ``n't``, words
written without spaces. Each habit is read off the vocabulary itself, so that text meets the words
that the vectors know.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from nlptransfer.errors import VectorsError

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1

# Scripts that put no space between words: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_LETTERS = r"[\p{L}\p{M}]+"
_NUMBER = r"\d+(?:[.,]\d+)*"
_MARK = r"[^\w\s]"
_JOINED = rf"{_LETTERS}(?:'{_LETTERS})*|{_NUMBER}|{_MARK}"
# Penn Treebank habit: the clitic is a word of its own, "do n't", "it 's".
_CLITIC = r"(?:n't|'(?:s|re|ve|ll|d|m))\b"
_PARTED = rf"[\p{{L}}\p{{M}}]+?(?=n't)|{_CLITIC}|{_LETTERS}|{_NUMBER}|{_MARK}"


def is_unspaced(words: Sequence[str]) -> bool:
    """Whether most of these words or texts are of a script that is written without spaces."""
    sample = words[:5000]
    return bool(sample) and sum(bool(_UNSPACED.search(word)) for word in sample) > 0.3 * len(sample)


def build_tokenizer(words: Sequence[str]) -> Tokenizer:
    """The tokenizer over a vocabulary of whole words; the word at place i has the id i + 2.

    Spaced scripts are cut by a pattern and looked up (WordLevel). Unspaced ones are cut into the
    likeliest words of the vocabulary (Unigram, Kudo 2018), with Zipf's law for their frequency.

    Args:
        words: the vocabulary, most frequent first, no word twice.

    Raises:
        VectorsError: a word that stands for padding or for unknown words.
    """
    for reserved in (PAD, UNKNOWN):
        if reserved in words:
            raise VectorsError(f"the vocabulary holds {reserved!r}, which is reserved: take that word out of it")
    if is_unspaced(words):
        mass = math.log(sum(1 / rank for rank in range(1, len(words) + 1)))
        scores = [(word, -math.log(rank) - mass) for rank, word in enumerate(words, start=1)]
        # No text matches the reserved pieces: their score is far below every path through real ones.
        tokenizer = Tokenizer(models.Unigram([(PAD, -1e4), (UNKNOWN, -1e4), *scores], unk_id=UNKNOWN_ID))
        pattern = rf"[A-Za-z]+|{_NUMBER}|{_MARK}|[\p{{L}}\p{{M}}\p{{N}}]+"
    else:
        vocabulary = {PAD: PAD_ID, UNKNOWN: UNKNOWN_ID, **{word: i for i, word in enumerate(words, start=2)}}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        pattern = _PARTED if "n't" in vocabulary else _JOINED
    tokenizer.normalizer = _normalizer(words, join=pattern == _JOINED)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def split_words(texts: Sequence[str], vocabulary_size: int = 20_000) -> Iterator[list[str]]:
    """The words of each text, lower-cased; for unspaced scripts, pieces learned from the texts themselves.

    Args:
        texts: running text; read twice where pieces have to be learned.
        vocabulary_size: how many pieces are learned at the most.
    """
    if is_unspaced(texts):
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = _normalizer((), join=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{_LETTERS}|{_NUMBER}|{_MARK}"), "removed", invert=True)
        tokenizer.train_from_iterator(
            texts, trainers.UnigramTrainer(vocab_size=vocabulary_size, show_progress=False, max_piece_length=6)
        )
        for text in texts:
            yield tokenizer.encode(text).tokens
    else:
        yield from surface_words(build_tokenizer(["don't"]), texts)


def surface_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[str]]:
    """The words of each text as the tokenizer sees them, also those that it does not know."""
    for text in texts:
        if isinstance(tokenizer.model, models.Unigram):
            yield tokenizer.encode(text).tokens
        else:
            normal = tokenizer.normalizer.normalize_str(text)
            yield [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _normalizer(words: Sequence[str], join: bool) -> normalizers.Normalizer:
    """NFC, straight apostrophes, lower case unless the vocabulary has capitals; clitics joined on request."""
    sample = words[:20_000]
    is_cased = sum(word != word.lower() for word in sample) > 0.02 * len(sample)
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), normalizers.Replace("’", "'")]
    if not is_cased:
        steps.append(normalizers.Lowercase())
    if join:
        steps.append(normalizers.Replace(Regex(rf"\s+(?={_CLITIC})"), ""))
    return normalizers.Sequence(steps)
