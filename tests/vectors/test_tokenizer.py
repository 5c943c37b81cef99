"""Text into words: the habits of a vocabulary, unspaced scripts, and real text where it is at hand."""

import gzip
import json
import logging
import subprocess
import sys
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from helpers.folders import SHARED, needs_shared
from nlptransfer.errors import VectorsError
from nlptransfer.vectors import tokenizer as module
from nlptransfer.vectors.tokenizer import (
    PAD,
    PAD_ID,
    UNKNOWN,
    UNKNOWN_ID,
    build_tokenizer,
    ids_of_chunks,
    is_unspaced,
    split_words,
    surface_words,
)

PLAIN = ["the", ".", "film", "don't", "it's", "2008", "3.5", "naive", "!", "well", "made"]
TREEBANK = ["the", ".", "do", "n't", "'s", "it", "o'clock", "``", "''", "...", "ca"]
CASED = ["the", "The", "Paris", "a", "Rome"]
CHINESE = [
    "，", "的", "。", "我们", "我", "在", "喜欢", "北京", "大学", "北京大学", "生活", "年", "2008", "snh48", "3.5",
]  # fmt: skip
HABITS = {"plain": PLAIN, "treebank": TREEBANK, "cased": CASED, "chinese": CHINESE}


def words_of(vocabulary: list[str], text: str) -> list[str]:
    return next(surface_words(build_tokenizer(vocabulary), [text]))


@pytest.fixture(params=HABITS.values(), ids=HABITS.keys(), scope="module")
def vocabulary(request: pytest.FixtureRequest) -> list[str]:
    return request.param


def test_ids_are_places(vocabulary):
    tokenizer = build_tokenizer(vocabulary)
    assert tokenizer.get_vocab_size() == len(vocabulary) + 2
    assert [tokenizer.token_to_id(word) for word in vocabulary] == list(range(2, len(vocabulary) + 2))
    assert (tokenizer.token_to_id(PAD), tokenizer.token_to_id(UNKNOWN)) == (PAD_ID, UNKNOWN_ID) == (0, 1)
    for place, word in enumerate(vocabulary):
        if not word.startswith(("'", "n't")):
            assert tokenizer.encode(word).ids == [place + 2]


@pytest.mark.parametrize("word", [PAD, UNKNOWN])
def test_reserved_words_are_refused(word):
    with pytest.raises(VectorsError, match=r"holds '\[.*\]', which is reserved: take that word out"):
        build_tokenizer(["a", word])


@pytest.mark.parametrize(
    ("vocabulary", "text", "words"),
    [
        (PLAIN, "DON'T! It’s 3.5 films.", ["don't", "!", "it's", "3.5", "films", "."]),
        (PLAIN, "do n't it 's\t\n 've", ["don't", "it's've"]),
        (PLAIN, "naïve ﬁlm Ｆｉｌｍ", ["naive", "film", "film"]),
        (PLAIN, "well-made \"film\" (2008) \x96 \ufeffthe", ["well", "made", "film", "2008", "the"]),
        (PLAIN, "film 😀!", ["film", "😀", "!"]),
        ([*PLAIN, "-", '"'], "well—made “film”", ["well", "-", "made", '"', "film", '"']),
        ([*PLAIN, "—", "-"], "well—made", ["well", "—", "made"]),
        ([*PLAIN, ":)", ":", "--"], "film :) : --", ["film", ":)", ":", "--"]),
        ([*PLAIN, "café"], "naïve cafe\u0301", ["naïve", "café"]),
        ([*PLAIN, "½"], "½ ﬁlm", ["½", "ﬁlm"]),
        (TREEBANK, "Don't, it’s 9 o'clock…", ["do", "n't", "it", "'s", "9", "o'clock", "..."]),
        (TREEBANK, "can't the dogs' ``the''", ["ca", "n't", "the", "dogs", "``", "the", "''"]),
        (CASED, "The Paris of ROME", ["The", "Paris", "of", "ROME"]),
        (["##", "####", "#,###", "5"], "10 2008 1,234 5 #5 3.5", ["##", "####", "#,###", "5", "5", "#.#"]),
        (
            ["<user>", "<url>", "<hashtag>", "<number>", "the"],
            "@me: the 5th #tag https://a.b/c?d=1 1,2",
            ["<user>", "the", "<number>", "th", "<hashtag>", "tag", "<url>", "<number>"],
        ),
        (CHINESE, "我们喜欢北京大学的生活。", ["我们", "喜欢", "北京大学", "的", "生活", "。"]),
        (CHINESE, "我㐀㐁在", ["我", "㐀㐁", "在"]),
        (CHINESE, "2008年，我在SNH48 3.5", ["2008", "年", "，", "我", "在", "snh48", "3.5"]),
    ],
)  # fmt: skip
def test_habits(vocabulary, text, words):
    assert words_of(vocabulary, text) == words


def test_is_unspaced():
    assert is_unspaced(["我们", "の", "ไทย"])
    assert is_unspaced(["我们"] * 4 + ["hello"] * 6)
    assert not is_unspaced(["hello", "мир", "안녕", "नमस्ते"])
    assert not is_unspaced(["我们"] * 3 + ["hello"] * 7)
    assert not is_unspaced([])


# Half a surrogate pair is refused where texts are read, and no tokenizer takes it.
TEXTS = st.text(
    st.sampled_from("aieodtn'’ .,!-35é北京大学我们的。，㐀😀\u0301\u200d\n\x96")
    | st.characters(codec="utf-8", exclude_characters="[")
)


@given(st.lists(TEXTS, max_size=5))
def test_a_text_hangs_on_no_other_and_its_words_agree_with_its_ids(texts):
    for tokenizer, vocabulary in TOKENIZERS:
        together = tokenizer.encode_batch(texts)
        for text, encoded, words in zip(texts, together, surface_words(tokenizer, texts), strict=True):
            alone = tokenizer.encode(text)
            assert alone.ids == encoded.ids and alone.offsets == encoded.offsets
            assert PAD_ID not in alone.ids
            assert [vocabulary.get(word, UNKNOWN_ID) for word in words] == alone.ids
            places = [place for offsets in alone.offsets for place in offsets]
            assert all(0 <= start <= stop <= len(text) for start, stop in alone.offsets)
            assert [start for start, _ in alone.offsets] == sorted(places[::2])


TOKENIZERS = [
    (build_tokenizer(words), {word: place for place, word in enumerate(words, start=2)}) for words in HABITS.values()
]


def test_survives_saving(vocabulary, tmp_path):
    tokenizer = build_tokenizer(vocabulary)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Don't, it 's the naïve 10 films… 我们喜欢㐀北京大学。 😀 ``the''"
    assert loaded.encode(text).ids == tokenizer.encode(text).ids
    assert list(surface_words(loaded, [text])) == list(surface_words(tokenizer, [text]))


@pytest.mark.parametrize("unit", ["a", " ", "1", "a'", "n'", "\t'", " ab", "!", "我们", "㐀", "e\u0301", "1."])
def test_long_texts_take_no_square_of_their_length(vocabulary, unit):
    tokenizer, text = build_tokenizer(vocabulary), unit * (250_000 // len(unit))
    start = time.perf_counter()
    tokenizer.encode(text)
    assert time.perf_counter() - start < 10


def test_no_text(vocabulary):
    assert build_tokenizer(vocabulary).encode("").ids == []
    assert list(surface_words(build_tokenizer(vocabulary), [])) == []
    assert list(split_words([])) == []
    assert list(split_words(["", " \n"])) == [[], []]


def test_split_words():
    assert list(split_words(["The “film” isn’t bad — 3.5 stars!", "Café ½"])) == [
        ["the", '"', "film", '"', "isn't", "bad", "-", "3.5", "stars", "!"],
        ["café", "½"],
    ]


def test_split_words_without_spaces():
    texts = ["北京大学很好。", "我喜欢北京大学。", "北京大学在北京。", "", "㐀"] * 5
    cut = list(split_words(texts))
    assert ["".join(words) for words in cut] == texts
    assert cut[:5] == cut[5:10] == list(split_words(texts))[:5]
    assert any(len(word) > 1 for words in cut for word in words)


def test_pieces_are_the_same_in_every_process():
    # Many pairs come equally often, and few of them find a place.
    code = (
        "import sys; from nlptransfer.vectors.tokenizer import split_words\n"
        "texts = [chr(0x4E00 + i * i % 97) + chr(0x4E00 + i * 7 % 89) for i in range(600)] * 3\n"
        "sys.stdout.write(ascii(list(split_words(texts, 300))))"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1 and runs.pop()


def read_texts(name: str, rows: int) -> list[str]:
    with gzip.open(SHARED / "data" / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(rows), strict=False)]


def read_vocabulary(language: str) -> list[str]:
    with gzip.open(SHARED / "vectors" / f"{language}_word2vec_100d.txt.gz", "rt", encoding="utf-8") as lines:
        return [line.split(" ", 1)[0] for line in lines][1:]


@needs_shared
def test_share_of_unknown_words():
    tokenizer = build_tokenizer(read_vocabulary("en"))
    for name, most in (("trec6", 0.018), ("ag_news", 0.022), ("sst2", 0.010)):
        ids = [word for encoded in tokenizer.encode_batch(read_texts(name, 4000)) for word in encoded.ids]
        assert ids.count(UNKNOWN_ID) / len(ids) < most


@needs_shared
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::SyntaxWarning")
def test_chinese_words_agree_with_a_segmenter():
    """Boundaries of 300 reviews against jieba's: F1 was 0.939, where every boundary of jieba's was found but 0.5%."""
    vocabulary = read_vocabulary("zh")
    jieba = pytest.importorskip("jieba")
    jieba.setLogLevel(logging.WARNING)
    texts = read_texts("chnsenticorp", 300)
    found = expected = both = unknown = words = 0
    for text, encoded in zip(texts, build_tokenizer(vocabulary).encode_batch(texts), strict=True):
        ours = {place for offsets in encoded.offsets for place in offsets}
        spans = [(start, stop) for word, start, stop in jieba.tokenize(text) if word.strip()]
        theirs = {place for span in spans for place in span}
        found, expected, both = found + len(ours), expected + len(theirs), both + len(ours & theirs)
        unknown, words = unknown + encoded.ids.count(UNKNOWN_ID), words + len(encoded.ids)
    assert 2 * both / (found + expected) > 0.92
    assert both / expected > 0.98
    assert unknown / words < 0.02


@cache
def tokenizer_of(habit: str, hides: bool) -> Tokenizer:
    return build_tokenizer([*HABITS[habit], *(["##", "#", "<url>", "<user>", "<number>"] if hides else ["10"])])


SIGNS = st.sampled_from(
    [*"aB0 .,-'#@:/<>[]&\t\n_", "  ", "film ", "n't", " 's", "the", "3.5 ", "http://x", "[PAD]", "é"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(SIGNS, max_size=9).map("".join), max_size=9), st.sampled_from(sorted(HABITS)), st.booleans())
def test_words_that_are_looked_up_once_are_those_of_the_text(texts, habit, hides):
    tokenizer = tokenizer_of(habit, hides)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MANY_TEXTS", 1)
        patch.setattr(module, "_MOST_PIECES", 9)
        chunks = ids_of_chunks(tokenizer, (texts[start : start + 2] for start in range(0, len(texts), 2)))
        assert [row for rows in chunks for row in rows] == expected
    assert module._splits_at_spaces(tokenizer) == (habit != "chinese")
