"""Matrices with their words beside them, as people have them: which list is taken, what is left out, what is wrong."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from tokenizers import Tokenizer, decoders, models

from helpers.tables import write
from nlptransfer.errors import VectorsError
from nlptransfer.vectors.store import open_vectors

WORDS = ["the", "café", "new york", "电影", "5", "the end"]
MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 3)).astype(np.float32)
BY_ROW = {str(row): word for row, word in enumerate(WORDS)}
ROWS = dict(reversed([(word, row) for row, word in enumerate(WORDS)]))

pytestmark = pytest.mark.usefixtures("own_cache")


def folder_with(place: Path, name: str = "v.npy", matrix: np.ndarray = MATRIX, **lists: object) -> Path:
    """A matrix in a folder, and lists of words by their names, with __ for a dot."""
    place.mkdir(exist_ok=True)
    if name.endswith(".npy"):
        np.save(place / name, matrix)
    else:
        save_file({"embeddings": np.ascontiguousarray(matrix)}, place / name)
    for file, words in lists.items():
        content = words if isinstance(words, str | bytes) else json.dumps(words)
        write(place / file.replace("__", "."), content)
    return place


def lines(words: list[str] = WORDS, end: str = "\n") -> str:
    return "".join(word + end for word in words)


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
@pytest.mark.parametrize(
    "lists",
    [
        {"words__txt": lines()},
        {"vocab__txt": lines(end="\r\n")},
        {"v__vocab": lines().removesuffix("\n")},
        {"v__words__txt": "\ufeff" + lines()},
        {"v__txt": "".join(f"{word}\t{9 - row}\n" for row, word in enumerate(WORDS))},
        {"vocab__txt": "".join(f"{word} {9 - row} \n" for row, word in enumerate(WORDS))},
        {"words__json": WORDS},
        {"vocab__json": ROWS},
        {"v__json": BY_ROW},
        {"names__tsv": lines(), "README__md": "of words"},
        {"words__txt": lines(), "config__json": {"dim": 3}, "other__txt": "more"},
        {"v__vocab": lines(), "words__txt": "others"},
    ],
    ids=lambda lists: " ".join(lists),
)
def test_lists_of_words(tmp_path, caplog, name, lists):
    caplog.set_level(logging.INFO, "nlptransfer")
    folder = folder_with(tmp_path / "folder", name, **lists)
    for source in (folder, folder / name):
        opened = open_vectors(source)
        assert (opened.words(), opened.source) == (WORDS, source.name)
        np.testing.assert_array_equal(opened.matrix, MATRIX)
    assert f"{name}: its words are in {next(iter(lists)).replace('__', '.')}" in caplog.text


def test_words_in_parquet(tmp_path):
    folder = folder_with(tmp_path / "folder")
    parquet.write_table(pa.table({"index": WORDS}), folder / "glove_index.parquet")
    assert open_vectors(folder).words() == WORDS
    parquet.write_table(pa.table({"index": WORDS, "count": [1] * len(WORDS)}), folder / "glove_index.parquet")
    with pytest.raises(VectorsError, match=r"^v\.npy with glove_index\.parquet: cannot be read \(too many values"):
        open_vectors(folder)


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8])
def test_kinds_of_numbers_and_order(tmp_path, kind):
    matrix = np.asfortranarray((10 * MATRIX).astype(kind))
    for name in ("v.npy", "v.safetensors"):
        opened = open_vectors(folder_with(tmp_path / name, name, matrix, words__txt=lines()))
        np.testing.assert_array_equal(opened.matrix, matrix.astype(np.float32))


def test_numbers_that_numpy_does_not_know(tmp_path):
    tensor = torch.from_numpy(MATRIX).bfloat16()
    save_tensors({"embedding.weight": tensor}, tmp_path / "v.safetensors")
    write(tmp_path / "v.txt", lines())
    np.testing.assert_array_equal(open_vectors(tmp_path / "v.safetensors").matrix, tensor.float().numpy())


def test_words_that_are_no_utf8_and_rows_without_one_are_left_out(tmp_path, caplog):
    folder = folder_with(
        tmp_path / "folder", words__txt="the\ncafé\n\n电影\n5\nend\n".encode().replace(b"\xc3\xa9", b"\xe9")
    )
    opened = open_vectors(folder)
    assert opened.words() == ["the", "电影", "5", "end"]
    np.testing.assert_array_equal(opened.matrix, MATRIX[[0, 3, 4, 5]])
    assert "words.txt: 1 of the 5 words are not UTF-8, and are left out" in caplog.text


def test_another_list_or_matrix_is_read_anew(tmp_path):
    folder = folder_with(tmp_path / "folder", words__txt=lines())
    open_vectors(folder)
    write(folder / "words.txt", lines([*WORDS[:-1], "last"]))
    assert open_vectors(folder).words()[-1] == "last"
    np.save(folder / "v.npy", 2 * MATRIX)
    np.testing.assert_array_equal(open_vectors(folder).matrix, 2 * MATRIX)


# Folders of model2vec

PIECES = {"[PAD]": 0, "[UNK]": 1, "the": 2, "##ing": 3, "film": 4, "café": 5}


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(PIECES, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    return tokenizer


def test_folder_of_model2vec(tmp_path):
    folder = folder_with(tmp_path / "potion", "model.safetensors", MATRIX, config__json={"model_type": "model2vec"})
    write(folder / "modules.json", "[]")
    wordpiece().save(str(folder / "tokenizer.json"))
    opened = open_vectors(folder)
    assert opened.words() == ["the", "film", "café"]
    np.testing.assert_array_equal(opened.matrix, MATRIX[[2, 4, 5]])


def test_folder_of_model2vec_whose_words_share_rows(tmp_path):
    mapping, weights = np.array([0, 1, 1, 0, 1, 0]), np.arange(6, dtype=np.float32)
    tensors = {"embeddings": MATRIX[:2], "mapping": mapping, "weights": weights}
    save_file(tensors, tmp_path / "model.safetensors")
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    opened = open_vectors(tmp_path / "model.safetensors")
    assert opened.words() == ["the", "film", "café"]
    np.testing.assert_array_equal(opened.matrix, (MATRIX[mapping] * weights[:, None])[[2, 4, 5]])


@pytest.mark.parametrize(
    "extra", [{"weights": np.ones(5)}, {"weights": np.ones((6, 1, 1))}, {"mapping": np.full(6, 9)}]
)
def test_folder_of_model2vec_that_does_not_fit(tmp_path, extra):
    save_file({"embeddings": MATRIX, **extra}, tmp_path / "model.safetensors")
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(VectorsError, match=r"^model\.safetensors with tokenizer\.json: (cannot be read|expected one)"):
        open_vectors(tmp_path)


@pytest.mark.parametrize(
    ("pieces", "decoder", "words"),
    [
        (["<s>", "▁the", "▁film", "s", "▁电影", "▁"], decoders.Metaspace(), ["the", "film", "电影"]),
        (["<s>", "Ġthe", "ĠcafÃ©", "s", "Ġfilm", "ing"], decoders.ByteLevel(), ["the", "café", "film"]),
    ],
)
def test_pieces_that_begin_a_word(tmp_path, pieces, decoder, words):
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoder
    folder = folder_with(tmp_path / "folder", "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    assert open_vectors(folder).words() == words


# What does not fit

WRONG = {
    "no list": (
        {},
        r"v\.npy: expected one list of its words beside it, found none: call it v\.words\.txt, a word a line",
    ),
    "two lists": ({"a__txt": "", "b__json": []}, r"v\.npy: expected one list .*, found a\.txt, b\.json: call it"),
    "two of its name": (
        {"v__txt": "", "v__vocab": ""},
        r"v\.npy: expected one list .*, found v\.txt, v\.vocab: call it",
    ),
    "too few": (
        {"words__txt": lines(WORDS[:-1])},
        r"v\.npy with words\.txt: .*found 5 words and an array of shape \(6, 3\)",
    ),
    "too many": ({"words__json": [*WORDS, "x"]}, r"v\.npy with words\.json: .*found 7 words and an array"),
    "vectors": (
        {"v__txt": "the 0.25 -0.5 1.0\n"},
        r"v\.txt: expected a list of words, found a file of word vectors: give",
    ),
    "no words": (
        {"words__json": list(range(6))},
        r"v\.npy with words\.json, record 1: expected a word of text, found 0",
    ),
    "a row twice": (
        {"vocab__json": {**ROWS, "x": 0}},
        r"v\.npy with vocab\.json: cannot be read \(expected 7 words with",
    ),
    "no rows": ({"vocab__json": {"the": None}}, r"v\.npy with vocab\.json: cannot be read \("),
    "no JSON": ({"words__json": "the"}, r"v\.npy with words\.json: cannot be read \(Expecting value"),
    "no tokenizer": ({"tokenizer__json": {"model": 1}}, r"v\.npy with tokenizer\.json: cannot be read \("),
}


@pytest.mark.parametrize("what", WRONG)
def test_lists_that_do_not_fit(tmp_path, what):
    lists, message = WRONG[what]
    folder = folder_with(tmp_path / "folder", **lists)
    with pytest.raises(VectorsError, match=f"^{message}"):
        open_vectors(folder / "v.npy")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (MATRIX[:, None], r"found 6 words and an array of shape \(6, 1, 3\) of float32"),
        (np.where(MATRIX[2, 1] == MATRIX, np.nan, MATRIX), "record 3: number 2 is nan, expected a finite one"),
        (np.array([{}] * 6), "cannot be read .*objects in dtype"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, matrix, message):
    with pytest.raises(VectorsError, match=rf"^v\.npy with words\.txt[:,] .*{message}"):
        open_vectors(folder_with(tmp_path / "folder", matrix=matrix, words__txt=lines()))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": MATRIX, "b": MATRIX}, r"expected one matrix, a row a word, found a \(6, 3\), b \(6, 3\)"),
        ({"a": MATRIX[0]}, r"expected one matrix, a row a word, found a \(3,\)"),
        ({"a": MATRIX, "bias": MATRIX[0]}, r"expected one matrix, a row a word, found a \(6, 3\), bias \(3,\)"),
        ({}, "expected one matrix, a row a word, found nothing"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "v.safetensors")
    write(tmp_path / "words.txt", lines())
    with pytest.raises(VectorsError, match=rf"^v\.safetensors: {message}"):
        open_vectors(tmp_path)


def test_broken_and_compressed_matrices(tmp_path):
    folder = folder_with(tmp_path / "folder", "v.safetensors", words__txt=lines())
    write(folder / "v.safetensors", (folder / "v.safetensors").read_bytes()[:-1])
    with pytest.raises(VectorsError, match=r"^v\.safetensors with words\.txt: cannot be read \(.*\): save them again"):
        open_vectors(folder)
    np.save(tmp_path / "v.npy", MATRIX)
    with pytest.raises(
        VectorsError, match=r"^v\.npy\.gz: expected a matrix that can be mapped, found one in gzip: unpack"
    ):
        open_vectors(write(tmp_path / "v.npy.gz", (tmp_path / "v.npy").read_bytes()))


def test_folders_of_several_matrices(tmp_path):
    folder_with(tmp_path, "v.npy", words__txt=lines())
    folder_with(tmp_path, "w.safetensors")
    with pytest.raises(
        VectorsError, match=r"expected a file of vectors, or a folder .*, found v\.npy, w\.safetensors: name"
    ):
        open_vectors(tmp_path)
