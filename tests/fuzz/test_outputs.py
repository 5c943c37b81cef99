"""Predictions of damaged and odd files into files: whole, with each row that was read, or not there at all."""

import csv
import gzip
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from helpers.classifiers import LABELS, changed
from helpers.fuzzing import Fuzzer, HalfFileError
from helpers.odd_files import column, damaged
from nlptransfer import Classifier, Word2Vec
from nlptransfer.data import read_texts

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz")


@pytest.fixture(scope="module")
def classifier(bases: Any) -> Classifier:
    return changed(Word2Vec(head_type="linear", dimensions=4), bases("bert"), LABELS)


def count(path: Path) -> int:
    """The rows of a file of predictions."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_metadata(path).num_rows
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".jsonl" in path.suffixes:
        return len([json.loads(line) for line in text.split("\n")[:-1]])
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    return len([*csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)]) - 1


def predicted(classifier: Classifier, source: Path, output: Path) -> None:
    try:
        classifier.predict_file(source, output)
        if count(output) != len([*read_texts(source)]):
            raise HalfFileError(f"{count(output)} rows")
    except HalfFileError:
        raise
    except Exception as error:
        if left := [path.name for path in output.parent.iterdir()]:
            raise HalfFileError(f"left after an error: {left}") from error
        raise
    if [path.name for path in output.parent.iterdir()] != [output.name]:
        raise HalfFileError("something beside the output")


def test_predictions_into_files(fuzz: Fuzzer, classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for seed, draw in fuzz.draws(25):
        if draw.random() < 0.7:
            name, content = damaged(draw)
            (tmp_path / name).write_bytes(content)
        else:
            name = "odd.parquet"
            texts = pyarrow.array([f"word{row} word7" for row in range(12)])
            table = pyarrow.table(
                {"text": texts, **{f"column {n}": column(draw, 12) for n in range(draw.choice([1, 3]))}}
            )
            try:
                pyarrow.parquet.write_table(table, tmp_path / name)
            except (pyarrow.ArrowException, OSError, TypeError):  # what parquet cannot hold
                continue
        output = tmp_path / "out" / f"out{draw.choice(ENDINGS)}"
        fuzz.attempt(f"{seed} {name} -> {output.name}", partial(predicted, classifier, tmp_path / name, output))
        (tmp_path / name).unlink()
        output.unlink(missing_ok=True)
