"""Rows that are left of a source are written as they were there, and read back; no file of others is overwritten."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from helpers.corpora import topic_rows
from helpers.folders import contents
from nlptransfer import Data, load_data
from nlptransfer.data import SourceRows, open_source
from nlptransfer.errors import DataError
from nlptransfer.experiments.cleaning import check_clean_to, write_clean

TEXTS, LABELS = topic_rows(60, random.Random(0))
NUMBERS = [f"{row:03}" for row in range(60)]


def csv(folder: Path) -> Any:
    rows = [f'{number};"{text}";{label}' for number, text, label in zip(NUMBERS, TEXTS, LABELS, strict=True)]
    rows[5] = "005;;" + LABELS[5]
    (folder / "own.csv").write_text("\n".join(["number;text;topic", *rows, ""]), encoding="cp1252")
    return folder / "own.csv"


def without_header(folder: Path) -> Any:
    rows = [f"{label}\t{text}\t{number}" for number, text, label in zip(NUMBERS, TEXTS, LABELS, strict=True)]
    (folder / "own.tsv").write_text("\n".join([*rows, ""]))
    return folder / "own.tsv"


def several(folder: Path) -> Any:
    rows = [{"number": number, "text": f"=é {text}", "labels": [label, "all"]}
            for number, text, label in zip(NUMBERS, TEXTS, LABELS, strict=True)]  # fmt: skip
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "own.jsonl"


def frame(_: Path) -> Any:
    return pd.DataFrame({"number": NUMBERS, "text": TEXTS, "label": LABELS})


def pairs(_: Path) -> Any:
    return TEXTS, LABELS


def class_labels(_: Path) -> Any:
    names = sorted(set(LABELS))
    features = datasets.Features({"number": datasets.Value("string"), "text": datasets.Value("string")})
    features["label"] = datasets.ClassLabel(names=names)
    rows = {"number": NUMBERS, "text": TEXTS, "label": [names.index(label) for label in LABELS]}
    return datasets.Dataset.from_dict(rows, features=features)


def splits(folder: Path) -> Any:
    (folder / "own").mkdir()
    rows = [{"number": number, "text": text, "label": label}
            for number, text, label in zip(NUMBERS, TEXTS, LABELS, strict=True)]  # fmt: skip
    (folder / "own/train.jsonl").write_text("\n".join(map(json.dumps, rows[:40])))
    (folder / "own/test.jsonl").write_text("\n".join(map(json.dumps, [*rows[40:], {"text": "no label"}])))
    return folder / "own"


def opened(source: Any) -> tuple[Data, SourceRows]:
    tables = open_source(source)
    return load_data(tables), SourceRows.of(tables)


def without_some(data: Data) -> Data:
    """Without every third row that is not test."""
    kept = {name: split.take(np.arange(len(split)) % 3 > 0) for name, split in data.splits.items() if name != "test"}
    return replace(data, **kept)


def pairs_of(data: Data, *names: str) -> list[tuple[str, Any]]:
    rows = [data.splits[name] for name in names or data.splits]
    return sorted(pair for split in rows for pair in zip(split.texts, data.labels.decode(split.targets), strict=True))


@pytest.mark.parametrize("make", [csv, without_header, several, frame, pairs, class_labels])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
def test_a_file_has_the_rows_that_are_left(make: Callable[[Path], Any], ending: str, tmp_path: Path) -> None:
    source = make(tmp_path)
    data, rows = opened(source)
    cleaned = without_some(data)
    path = check_clean_to(tmp_path / f"clean{ending}", source, rows)
    write_clean(path, data, cleaned, rows)
    again, written = opened(path)
    assert pairs_of(again) == pairs_of(cleaned) and again.labels == data.labels
    assert written.others(again)["train"].keys() == rows.others(data)["train"].keys()


@pytest.mark.parametrize("make", [csv, without_header, several, frame, pairs, class_labels, splits])
def test_a_folder_keeps_the_splits(make: Callable[[Path], Any], tmp_path: Path) -> None:
    source = make(tmp_path)
    data, rows = opened(source)
    cleaned = without_some(data)
    path = check_clean_to(tmp_path / "clean", source, rows)
    for _ in range(2):
        write_clean(path, data, cleaned, rows)
        again = load_data(path)
        for names in (("train", "calibration"), ("validation",), ("test",)):
            assert pairs_of(again, *names) == pairs_of(cleaned, *names)
        assert again.test.texts == data.test.texts
        check_clean_to(path, source, rows)


def test_columns_and_order_are_those_of_the_source(tmp_path: Path) -> None:
    source = csv(tmp_path)
    data, rows = opened(source)
    write_clean(tmp_path / "clean.csv", data, data, rows)
    written = pd.read_csv(tmp_path / "clean.csv", dtype=str)
    assert [*written] == ["number", "text", "topic"] and written["number"].tolist() == NUMBERS[:5] + NUMBERS[6:]
    others = rows.others(data)
    assert others.keys() == {"train", "validation", "calibration", "test"}
    for name, split in data.splits.items():
        assert [*others[name]] == ["number"] and split.numbers is not None
        assert others[name]["number"] == [NUMBERS[number - 1] for number in split.numbers.tolist()]


def test_test_is_as_it_was(tmp_path: Path) -> None:
    source = splits(tmp_path)
    data, rows = opened(source)
    write_clean(tmp_path / "clean", data, without_some(data), rows)
    assert set(contents(tmp_path / "clean")) == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    read = [[json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
            for folder in (source, tmp_path / "clean")]  # fmt: skip
    # What the row without a label has not is null in a table.
    assert [{**dict.fromkeys(read[0][0]), **row} for row in read[0]] == read[1]


@pytest.mark.parametrize(
    ("make", "clean_to", "message"),
    [
        (csv, "own.csv", r"own\.csv: expected an output that is not the input"),
        (csv, "clean.txt", r"clean\.txt: expected an output named \.csv, \.tsv"),
        (csv, "mine", r"mine: expected a new folder, found 'notes\.txt' in it: name another one"),
        (splits, "own", r"own/\w+\.jsonl: expected an output that is not the input"),
        (splits, "own/clean", r"expected an output that is not the input"),
        (
            splits,
            "clean.csv",
            r"clean\.csv: expected a folder, for the splits test, train, found the name of a",
        ),
    ],
)
def test_what_is_no_place_for_rows(make: Callable[[Path], Any], clean_to: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    source = make(tmp_path)
    before = contents(tmp_path)
    _, rows = opened(source)
    with pytest.raises(DataError, match=message):
        check_clean_to(tmp_path / clean_to, source, rows)
    assert contents(tmp_path) == before
