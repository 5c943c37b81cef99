"""Matrices of word vectors with the words in a file beside them: .npy, and .safetensors (model2vec's folder, too).

The words are a line or a JSON entry each, in the order of the rows, or have their rows as numbers: {word: row}. Nothing
is a pickle, and a matrix is mapped, not read. This file does not know the cache.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from tokenizers import Tokenizer

from nlptransfer.errors import VectorsError, abridged, first_line
from nlptransfer.files import read_json
from nlptransfer.vectors.formats import Block, array_blocks, in_utf8, logger
from nlptransfer.vectors.tokenizer import word_mark

MATRIX_SUFFIXES = (".npy", ".safetensors")
_LIST_SUFFIXES = (".txt", ".vocab", ".words", ".tsv", ".json", ".parquet")
_LISTS = ("words.txt", "words.json", "vocab.txt", "vocab.json", "tokenizer.json")
"""Names of word lists, the first that is there."""
_COUNTED = re.compile(rb"(.*\S)[ \t]+\d+")
_VECTOR = re.compile(rb"\S+(?:[ \t]+-?\d+\.\d+){3,}")


def matrix_file(folder: Path) -> Path:
    """Return the one matrix in a folder; a VectorsError where there are none or several."""
    files = sorted(file for file in folder.iterdir() if file.suffix in MATRIX_SUFFIXES)
    if len(files) != 1:
        names = abridged([file.name for file in files], 5) or "neither"
        raise VectorsError(
            f"{folder}: expected a file of vectors, or a folder that save_vectors wrote or that holds one .npy or "
            f".safetensors and a list of words, found {names}: name the file itself"
        )
    return files[0]


def words_file(matrix: Path) -> Path:
    """Return the list of words beside a matrix: of its name, or else of a usual one, or else the only list there is."""
    lists = sorted(file for file in matrix.parent.iterdir() if file.suffix in _LIST_SUFFIXES)
    alike = [file for file in lists if file.name.startswith(f"{matrix.stem}.")]
    usual = [matrix.parent / name for name in _LISTS if matrix.parent / name in lists][:1]
    candidates = alike or usual or lists
    if len(candidates) != 1:
        names = abridged([file.name for file in candidates], 5) or "none"
        raise VectorsError(
            f"{matrix.name}: expected one list of its words beside it, found {names}: call it {matrix.stem}.words.txt, "
            "a word a line in the order of the rows"
        )
    return candidates[0]


def matrix_blocks(path: Path) -> Iterator[Block]:
    """Read a matrix and its words, row by row; rows without one (a tokenizer's special tokens) are left out."""
    word_list = words_file(path)
    logger.info("%s: its words are in %s", path.name, word_list.name)
    yield from in_utf8(word_list.name, _blocks(path, word_list))


def _blocks(path: Path, word_list: Path) -> Iterator[Block]:
    where = f"{path.name} with {word_list.name}"
    try:
        matrix, words = _matrix(path), _words(word_list)
    except VectorsError:
        raise
    except Exception as error:  # safetensors and tokenizers raise the plain class
        raise VectorsError(f"{where}: cannot be read ({first_line(error)}): save them again") from error
    for block, vectors in array_blocks(where, words, matrix):
        rows = [row for row, word in enumerate(block) if word]
        yield [block[row] for row in rows], vectors[rows]


def _matrix(path: Path) -> np.ndarray:
    """Map a matrix; model2vec's may have few rows, which its words share, and numbers that they are multiplied by."""
    if path.suffix != ".safetensors":
        return cast(np.ndarray, np.load(path, mmap_mode="r", allow_pickle=False))
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    extra = {name: tensor.numpy() for name, tensor in tensors.items() if name in ("mapping", "weights")}
    if len(matrices) != 1 or len(tensors) > 1 + len(extra):
        shapes = abridged([f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()], 5)
        raise VectorsError(f"{path.name}: expected one matrix, a row a word, found {shapes or 'nothing'}")
    # numpy has no bfloat16.
    matrix: np.ndarray = (matrices[0].float() if matrices[0].dtype == torch.bfloat16 else matrices[0]).numpy()
    if "mapping" in extra:
        matrix = matrix[extra["mapping"]]
    return matrix * extra["weights"][:, None] if "weights" in extra else matrix


def _words(path: Path) -> list[str] | list[bytes]:
    """Read a list of words, in the order of the rows; one that is no word is empty."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        (column,) = parquet.read_table(path).columns
        return list(column.to_pylist())
    if path.suffix == ".json":
        return _json_words(path)
    lines = path.read_bytes().removeprefix(BOM_UTF8).rstrip(b"\n").split(b"\n")
    if _VECTOR.fullmatch(lines[0].rstrip()):
        raise VectorsError(f"{path.name}: expected a list of words, found a file of word vectors: give that one")
    # Vocabularies often have the count of each word, too.
    counted = [_COUNTED.fullmatch(line.rstrip()) for line in lines]
    return [match[1] for match in counted if match] if all(counted) else [line.removesuffix(b"\r") for line in lines]


def _json_words(path: Path) -> list[str]:
    content = read_json(path)
    if not isinstance(content, dict):
        return list(content)
    if "model" in content:
        return _whole_words(Tokenizer.from_file(str(path)))
    is_by_row = any(isinstance(word, str) for word in content.values())
    return _in_order({word: int(row) for row, word in content.items()} if is_by_row else content)


def _whole_words(tokenizer: Tokenizer) -> list[str]:
    """Return what stands for a word in a tokenizer's vocabulary, and "" for pieces of words and special tokens."""
    ids, special = tokenizer.get_vocab(), {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    mark = word_mark(ids)
    words = []
    for piece in _in_order(ids):
        is_word = piece not in special and not piece.startswith("##") and piece.startswith(mark)
        words.append((tokenizer.decode([ids[piece]]).strip() if mark else piece) if is_word else "")
    return words


def _in_order(rows: dict[str, int]) -> list[str]:
    if sorted(rows.values()) != list(range(len(rows))):
        raise ValueError(f"expected {len(rows)} words with the rows 0 to {len(rows) - 1}, found other numbers")
    return sorted(rows, key=rows.__getitem__)
