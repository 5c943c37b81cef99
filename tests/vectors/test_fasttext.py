"""fastText's own .bin against gensim's reader, what its n-grams give other words, and broken ones."""

import copy
import logging
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from gensim.models.fasttext import load_facebook_vectors

from helpers.fasttext_files import save_fasttext
from helpers.tables import write
from nlptransfer.errors import VectorsError
from nlptransfer.vectors.sources import vocabulary
from nlptransfer.vectors.store import open_vectors
from nlptransfer.vectors.subwords import SUBWORDS, Subwords, write_subwords

SENTENCES = [["the", "film", "was", "good", "!"], ["a", "café", "film", "电影", "naïvely", "10"]] * 3
DIMENSIONS = 5

pytestmark = pytest.mark.usefixtures("own_cache")


def matrix_place(content: bytes, rows: int = 60) -> int:
    """Where the first number of the matrix is."""
    shape = struct.pack("<?2q", False, rows, DIMENSIONS)
    return content.index(shape) + len(shape)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_fasttext(tmp_path_factory.mktemp("fasttext") / "v.bin", SENTENCES)


@pytest.mark.parametrize("settings", [{}, {"min_n": 2, "max_n": 3}, {"max_n": 0, "bucket": 0}, {"sg": 1, "hs": 1}])
@pytest.mark.parametrize("packed", [False, True])
def test_words_and_vectors_as_gensim_reads_them(tmp_path, settings, packed):
    path = save_fasttext(tmp_path / "v.bin", SENTENCES, **settings)
    keyed = load_facebook_vectors(str(path))
    if packed:
        path = write(tmp_path / "v.bin.gz", path.read_bytes())
    opened = open_vectors(path)
    assert opened.words() == keyed.index_to_key
    np.testing.assert_allclose(opened.matrix, keyed.vectors, rtol=1e-5, atol=1e-7)
    if "max_n" in settings and not settings["max_n"]:
        assert opened.subwords is None
    else:
        assert opened.subwords is not None
        np.testing.assert_array_equal(opened.subwords.matrix, keyed.vectors_ngrams)


def test_ngrams_give_other_words_the_vectors_of_gensim(model):
    keyed, subwords = load_facebook_vectors(str(model)), open_vectors(model).subwords
    words = ["unheard", "cafés", "电影院", "10,000", "x", "FILM"]
    assert subwords is not None and not set(words) & set(keyed.key_to_index)
    np.testing.assert_allclose(
        subwords.vectors(words), [keyed.get_vector(word) for word in words], rtol=1e-5, atol=1e-7
    )
    assert subwords.vectors([]).shape == (0, DIMENSIONS)
    assert [subwords.knows(word) for word in (*words, "!", "n't", "")] == [True] * 6 + [False] * 3
    assert not Subwords(subwords.folder, 5, 5).knows("an")


def test_the_end_of_a_text_has_no_ngrams(tmp_path):
    path = save_fasttext(tmp_path / "v.bin", [["</s>", "film"]] * 3)
    # As fastText has it, while gensim adds n-grams to it.
    content = path.read_bytes()
    rows = np.frombuffer(content, "<f4", 2 * DIMENSIONS, matrix_place(content, 52)).reshape(2, DIMENSIONS)
    opened = open_vectors(path)
    (row,) = opened.rows(["</s>"])
    np.testing.assert_array_equal(opened.matrix[row], rows[row])


def test_a_word_that_is_no_utf8_is_left_out(tmp_path, model, caplog):
    path = write(tmp_path / "v.bin", model.read_bytes().replace("café".encode(), b"caf\xc3\xc3"))
    words = open_vectors(model).words()
    assert open_vectors(path).words() == [word for word in words if word != "café"]
    assert f"v.bin: 1 of the {len(words)} words are not UTF-8, and are left out" in caplog.text


def test_copies_open_the_map_again(model, tmp_path):
    subwords = open_vectors(model).subwords
    assert subwords is not None
    for again in (copy.deepcopy(subwords), pickle.loads(pickle.dumps(subwords))):
        assert isinstance(again.matrix, np.memmap) and again.matrix is not subwords.matrix
        np.testing.assert_array_equal(again.matrix, subwords.matrix)
    subwords.save(tmp_path)
    assert Subwords.open(tmp_path).vectors(["films"]).tolist() == subwords.vectors(["films"]).tolist()


def test_folders_without_them(tmp_path):
    with pytest.raises(VectorsError, match=rf"^{tmp_path}: expected the n-grams of characters in subwords\.npy and"):
        Subwords.open(tmp_path)
    write_subwords(tmp_path, np.zeros((4, 2), dtype=np.float32), 3, 6)
    for wrong in (np.zeros(4, dtype=np.float32), np.zeros((4, 2))):
        np.save(tmp_path / SUBWORDS, wrong)
        with pytest.raises(VectorsError, match=r"found ValueError: an array of shape \(4,"):
            Subwords.open(tmp_path)


# Words of the texts that the vocabulary lacks

TEXTS = ["The films were good!", "cafés and films ! ♪", "n't 10 badly"]


def test_words_of_the_texts_get_vectors_by_their_ngrams(model, caplog):
    caplog.set_level(logging.INFO, "nlptransfer")
    opened, keyed = open_vectors(model), load_facebook_vectors(str(model))
    words, matrix = vocabulary(opened, TEXTS, 100, unit_length=False)
    new = ["films", "were", "cafés", "and", "badly"]
    assert words == [*opened.words(), *new]
    np.testing.assert_allclose(matrix[-5:], [keyed.get_vector(word) for word in new], rtol=1e-5, atol=1e-7)
    assert "v.bin: 5 words of the texts have vectors by n-grams alone" in caplog.text
    scaled = vocabulary(opened, TEXTS, 100, unit_length=True)[1]
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-5)


def test_words_of_the_texts_come_before_others_where_not_all_are_kept(model):
    opened = open_vectors(model)
    used = [word for word in opened.words() if word in ("the", "good", "!", "10")]
    assert vocabulary(opened, TEXTS, 6, unit_length=False)[0] == [*used, "films", "were"]
    assert vocabulary(opened, TEXTS, 2, unit_length=False)[0] == used[:2]


# Broken files


def test_classifiers_are_named(tmp_path, model):
    content = bytearray(model.read_bytes())
    # What a supervised model says of its labels, and a quantized one of its matrix.
    struct.pack_into("<i", content, 64 + 8, 2)
    with pytest.raises(
        VectorsError, match=r"^v\.bin: expected word vectors, found a fastText classifier of 2 labels: "
    ):
        open_vectors(write(tmp_path / "v.bin", bytes(content)))
    content[matrix_place(content) - struct.calcsize("<?2q")] = 1
    with pytest.raises(VectorsError, match=r"^v\.ftz: .*a fastText classifier of 2 labels, quantized: give a model"):
        open_vectors(write(tmp_path / "v.ftz", bytes(content)))


@pytest.mark.parametrize("size", [30, 70, 100, 300, 1200])
def test_files_that_are_cut_off(tmp_path, model, size):
    with pytest.raises(VectorsError, match=r"^v\.bin: cut off or broken \(.*\): download it again"):
        open_vectors(write(tmp_path / "v.bin", model.read_bytes()[:size]))


def test_files_that_do_not_add_up(tmp_path, model):
    content = bytearray(model.read_bytes())
    struct.pack_into("<i", content, 8, DIMENSIONS + 1)
    with pytest.raises(
        VectorsError, match=r"cut off or broken \(60 x 5 numbers of 10 words, 50 n-grams, 6 dimensions\)"
    ):
        open_vectors(write(tmp_path / "v.bin", bytes(content)))
    struct.pack_into("<i", content, 8, DIMENSIONS)
    struct.pack_into("<f", content, matrix_place(content) + 4 * DIMENSIONS + 8, np.nan)
    with pytest.raises(VectorsError, match=r"^v\.bin, record 2: number 3 is nan, expected a finite one"):
        open_vectors(write(tmp_path / "v.bin", bytes(content)))
