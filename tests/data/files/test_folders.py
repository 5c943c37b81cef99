"""Which files of a folder are read, as which split, and in which order."""

import logging

import pytest

from helpers.tables import write
from nlptransfer.data.files.folders import files_of_splits
from nlptransfer.data.files.parsing import FileSettings
from nlptransfer.data.reading import open_source, stream_tables
from nlptransfer.errors import DataError

CSV = "text,label\na,1\n"
FOLDERS = {
    "train.csv dev.jsonl TEST.tsv notes.txt": {
        "train": "train.csv",
        "validation": "dev.jsonl",
        "test": "TEST.tsv",
    },
    "train.txt test.txt": {"train": "train.txt", "test": "test.txt"},
    "train.csv train_unlabeled.csv": {"train": "train.csv"},
    "data/train-00000-of-00001-0123456789abcdef.parquet README.md": {
        "train": "data/train-00000-of-00001-0123456789abcdef.parquet"
    },
    "train_1.csv train_2.csv train_10.csv": {"train": "train_1.csv train_2.csv train_10.csv"},
    "part-00000 part-00001 _SUCCESS .part-00000.crc": {"all": "part-00000 part-00001"},
    "part-9.csv.gz part-10.csv.gz": {"all": "part-9.csv.gz part-10.csv.gz"},
    "part-00000-ab-c000.snappy.parquet part-00001-ab-c000.snappy.parquet _SUCCESS": {
        "all": "part-00000-ab-c000.snappy.parquet part-00001-ab-c000.snappy.parquet"
    },
    "en/train.csv en/test.csv": {"train": "en/train.csv", "test": "en/test.csv"},
    "a/b/train/x.csv a/b/test/x.csv": {"train": "a/b/train/x.csv", "test": "a/b/test/x.csv"},
    "train.csv films_test.csv train_more.csv": {"train": "train.csv", "test": "films_test.csv"},
    "films.csv README.md": {"all": "films.csv"},
    "contest.csv": {"all": "contest.csv"},
}


def fill(folder, names: str) -> None:
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, CSV)


@pytest.mark.parametrize("names", FOLDERS)
def test_folders(tmp_path, names):
    fill(tmp_path, names)
    found = files_of_splits(tmp_path)
    expected = {split: files.split() for split, files in FOLDERS[names].items()}
    assert {split: [str(file.relative_to(tmp_path)) for file in files] for split, files in found.items()} == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "found nothing"),
        ("films.csv books.csv", r"or the numbered parts of one table, found books\.csv, films\.csv"),
        ("train.csv train.jsonl", r"expected one train split, found two \(train\.csv, train\.jsonl\); keep one"),
        ("train.csv train/a.csv", r"found two \(train\.csv, train/a\.csv\)"),
        ("train-a.csv train-b.csv test.csv", r"expected one train split, found two \(train-a\.csv, train-b\.csv\)"),
        ("train-00000-of-00003.csv train-00002-of-00003.csv", r"expected 3 parts, found 2, without 1; copy these"),
    ],
)
def test_folders_that_are_refused(tmp_path, names, message):
    fill(tmp_path, names)
    with pytest.raises(DataError, match=message):
        files_of_splits(tmp_path)


def test_parts_are_one_table_in_order(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    for number in (10, 9):
        write(tmp_path / f"train-{number}.csv", f"text,label\nrow {number},a\nmore {number},b\n")
    write(tmp_path / "notes.txt", "")
    opened = open_source(tmp_path)
    assert opened.table("train").values("text") == ["row 9", "more 9", "row 10", "more 10"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: not read: notes.txt",
        f"{tmp_path}: train rows are read from 2 files: train-9.csv, train-10.csv",
    ]
    assert [table.first_row for table in stream_tables(tmp_path)] == [1, 3]


def test_a_split_that_a_word_of_the_name_says_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    fill(tmp_path, "train.csv films-test.csv")
    assert [*open_source(tmp_path).parts] == ["train", "test"]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: test rows are read from films-test.csv"]


def test_parts_of_other_columns_are_refused(tmp_path):
    write(tmp_path / "part-1.csv", CSV)
    write(tmp_path / "part-2.csv", "text,labels\na,1\n")
    with pytest.raises(DataError, match=r"part-2\.csv: expected the columns of part-1\.csv, found 'label' in one of"):
        open_source(tmp_path).table("all")


def test_what_datasets_saves(tmp_path):
    import datasets

    whole = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, dev=whole.select([1])).save_to_disk(tmp_path / "two")
    assert open_source(tmp_path / "one").table("all").values("text") == ["a", "b"]
    two = open_source(tmp_path / "two")
    assert {split: two.table(split).values("text") for split in two.parts} == {"train": ["a", "b"], "validation": ["b"]}
    (table,) = stream_tables(tmp_path / "one")
    assert table.values("label") == ["x", "y"]
    with pytest.raises(DataError, match="expected one table, found the splits train, validation; name the file of one"):
        list(stream_tables(tmp_path / "two", FileSettings()))
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"one: broken folder of save_to_disk: .*; save it again"):
        open_source(tmp_path / "one")


@pytest.mark.parametrize(
    "names",
    [
        "train-00000-of-00002.parquet train-00001-of-00002.parquet test-00000-of-00001.parquet",
        "data/train-00000-of-00001-0123456789abcdef.parquet",
        "train/b.csv train/a.csv test/a.csv",
        "data/train/1.csv data/val/1.csv",
        "films_train.csv films-test.csv my.valid.csv",
        "training.csv evaluation.csv",
        "my_train_data/a.csv my_test_data/a.csv",
        "2020_train_v2.csv 2020_test_v2.csv",
        "en/train.csv en/dev.csv",
        "raw/train/x.csv raw/test/x.csv",
    ],
)
def test_splits_are_those_of_datasets(tmp_path, names):
    from datasets.data_files import DataFilesDict, get_data_patterns

    fill(tmp_path, names)
    theirs = DataFilesDict.from_patterns(get_data_patterns(str(tmp_path)), base_path=str(tmp_path))
    ours = {split: [str(file) for file in files] for split, files in files_of_splits(tmp_path).items()}
    assert ours == {str(split): [*files] for split, files in theirs.items()}
