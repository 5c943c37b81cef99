"""Data from every kind of source as four splits; and what data that cannot be read or split says."""

import json
import logging
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.corpora import counts, hashes, rows_of, texts_by_split
from helpers.folders import SHARED, needs_shared
from nlptransfer.data.dataset import Data, DataSettings, Split, folds_of, load_data, load_split
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError, SettingError

DATA = SHARED / "data"
ROWS = re.compile(r"\b(train|validation|test) ([\d,]*\d)")


# Where splits come from


def test_one_table_becomes_four_stratified_splits():
    data = load_data(rows_of({"a": 600, "b": 300, "c": 100}))
    assert data.labels == Labels(("a", "b", "c"))
    assert counts(data.test, data) == {"a": 120, "b": 60, "c": 20}
    assert counts(data.validation, data) == {"a": 48, "b": 24, "c": 8}
    assert counts(data.calibration, data) == {"a": 24, "b": 12, "c": 4}
    assert repr(data) == "Data('data', 3 labels (a, b, c), rows: train 680, validation 80, calibration 40, test 200)"


def test_rows_keep_their_order_and_label():
    texts, labels = rows_of({"a": 60, "b": 60})
    data = load_data((texts, labels))
    place = {text: row for row, text in enumerate(texts)}
    for split in data.splits.values():
        found = [place[text] for text in split.texts]
        assert found == sorted(found)
        assert data.labels.decode(split.targets) == [labels[row] for row in found]


@pytest.mark.parametrize("given", [(), ("test",), ("val",), ("dev", "test")])
def test_what_is_missing_is_carved_out_of_train(given):
    train, other = rows_of({"a": 50, "b": 50}), (["x", "y", "z"], ["a", "b", "a"])
    data = load_data({"train": train, **dict.fromkeys(given, other)}, DataSettings(calibration_size=0))
    test, validation = "test" in given, {"val", "dev"} & set(given)
    assert data.test.texts == other[0] if test else len(data.test) == 20
    assert data.validation.texts == other[0] if validation else len(data.validation) == (10 if test else 8)
    carved = [split for split in (data.train, data.validation, data.test) if split.texts != other[0]]
    assert sorted(text for split in carved for text in split.texts) == sorted(train[0])


def test_test_and_calibration_may_be_empty():
    off = DataSettings(test_size=0, calibration_size=0)
    data = load_data(rows_of({"a": 30, "b": 10}), off)
    assert {name: len(split) for name, split in data.splits.items() if len(split)} == {"train": 36, "validation": 4}
    multi = load_data((["w", "x", "y", "z"], [["a"], ["b"], ["a"], ["b"]]), off)
    assert multi.test.targets.shape == (0, 2) and multi.test.fingerprint()["rows"] == 0


def test_small_calibration_is_skipped_with_a_line(caplog):
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        data = load_data(rows_of({"a": 100, "b": 100}))
    assert len(data.calibration) == 0
    assert [record.getMessage() for record in caplog.records][1:] == [
        "No rows are set aside to calibrate probabilities: it would be 8, and 20 are the least that help"
    ]


@pytest.mark.parametrize(
    ("pool", "share", "rows"), [(100, 0.05, 0), (112, 0.05, 20), (180, 0.05, 20), (600, 0.05, 30), (180, 0.0, 0)]
)
def test_multi_label_data_spares_rows_for_thresholds(pool, share, rows):
    tags = [[name for bit, name in enumerate("abcd") if row >> bit & 1] for row in range(pool)]
    train = [f"text {row}" for row in range(pool)], tags
    data = load_data({"train": train, "test": (["x"], [["a"]])}, DataSettings(calibration_size=share))
    assert abs(len(data.calibration) - rows) <= 1
    assert all(counts(data.calibration, data)[name] >= 0.35 * rows for name in "abcd")


def test_carved_splits_have_a_largest_size():
    source = {"train": rows_of({str(label): 700 for label in range(20)}), "test": rows_of({"0": 1, "1": 1})}
    data = load_data(source, DataSettings(validation_size=0.5, calibration_size=0.4))
    assert (len(data.validation), len(data.calibration)) == (5000, 2000)
    assert set(counts(data.validation, data).values()) == {250}
    assert set(counts(data.calibration, data).values()) == {100}


def test_a_budget_counts_given_validation_rows():
    train, dev = rows_of({"a": 300, "b": 100}), ([f"dev {row}" for row in range(80)], ["a", "a", "a", "b"] * 20)
    data = load_data({"train": train, "dev": dev}, DataSettings(max_train_rows=100, validation_size=0.2))
    assert counts(data.validation, data) == {"a": 15, "b": 5}
    assert len(data.train) + len(data.calibration) == 80
    with pytest.raises(DataError, match="leaves 1 rows to train on: expected 2 or more, to keep 1 distinct texts of"):
        load_data({"train": train, "dev": dev}, DataSettings(max_train_rows=2))
    with pytest.raises(DataError, match=r"max_train_rows=3, validation_size=0.1: expected a validation row or more"):
        load_data({"train": train, "dev": (["x", "x"], ["a", "b"])}, DataSettings(max_train_rows=3))


def test_folder_and_file_agree_with_memory(tmp_path):
    texts, labels = rows_of({"a": 30, "b": 30})
    lines = "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in zip(texts, labels, strict=True))
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "films.jsonl").write_text(lines)
    assert hashes(load_data(tmp_path)) == hashes(load_data((texts, labels)))
    assert hashes(load_data(tmp_path / "films.jsonl")) == hashes(load_data((texts, labels)))
    assert load_data(str(tmp_path / "films.jsonl")).name == "films"


def test_every_form_in_memory_gives_the_same_splits():
    import datasets
    import pandas as pd
    import pyarrow as pa

    texts, labels = rows_of({"a": 30, "b": 30})
    columns = {"text": texts, "label": labels}
    whole = hashes(load_data((texts, labels)))
    forms = [
        columns, pd.DataFrame(columns), pa.table(columns), datasets.Dataset.from_dict(columns),
        datasets.Dataset.from_dict(columns).to_iterable_dataset(), (pd.Series(texts), np.array(labels)),
        [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)],
    ]  # fmt: skip
    assert all(hashes(load_data(form)) == whole for form in forms)
    named = pd.DataFrame({"said": texts, "mood": labels, "n": range(60)})
    assert hashes(load_data(named, text_column="said", label_column="mood")) == whole


def test_matrices_of_0_and_1_have_named_labels():
    matrix = np.array([[row % 2, row % 3 == 0] for row in range(60)], dtype=int)
    texts = [f"text {row}" for row in range(60)]
    data = load_data((texts, matrix), label_names=["odd", "third"], test_size=0)
    assert data.labels == Labels(("odd", "third"), multi_label=True)
    split = data.train
    for text, target in zip(split.texts, split.targets.tolist(), strict=True):
        assert target == matrix[int(text.split()[1])].tolist()
    with pytest.raises(DataError, match="label_names"):
        load_data((texts, matrix))


def test_class_labels_keep_their_order_and_hidden_ones_are_left_alone(caplog):
    import datasets

    names = datasets.ClassLabel(names=["z", "q", "a"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    columns = {"text": [f"text {row}" for row in range(40)], "label": [row % 2 * 2 for row in range(40)]}
    train = datasets.Dataset.from_dict(columns, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features)
    data = load_data(datasets.DatasetDict(train=train, test=hidden))
    assert data.labels.names == ("z", "a")
    assert len(data.test) == 8 and "x" not in data.test.texts
    assert "no row of test has a label, so it is not used" in caplog.text


def test_rows_without_text_or_label_are_dropped_and_counted_once(caplog):
    texts, labels = rows_of({"a": 20, "b": 20})
    train = [*texts, None, " \n", "x", "y"], [*labels, "a", "b", None, float("nan")]
    data = load_data({"train": train, "test": (["u", "v"], ["a", ""])})
    assert len(data.train) + len(data.validation) == 40 and len(data.test) == 1
    assert [record.getMessage() for record in caplog.records if "without text" in record.getMessage()] == [
        "train split of data: left out are 2 rows without text and 2 without label",
        "test split of data: left out are 0 rows without text and 1 without label",
    ]


def test_text_is_kept_but_for_normalization():
    texts, labels = rows_of({"a": 10, "b": 10})
    data = load_data(([*texts, " cafe\u0301\n"], [*labels, "a"]), DataSettings(test_size=0))
    assert {*data.train.texts, *data.validation.texts} == {*texts, " café\n"}


def test_texts_are_normalized_before_identical_ones_are_looked_for():
    texts, labels = rows_of({"a": 40, "b": 40})
    again = [f"TEXT  {text[5:]}" for text in texts]
    data = load_data((texts + again, labels * 2), DataSettings(normalization="lower"))
    sides = texts_by_split(data)
    assert set().union(*sides) == set(texts) and sum(map(len, sides)) == 80
    assert all(list(split.texts.count(text) for text in set(split.texts)) == [2] * (len(split) // 2)
               for split in data.splits.values())  # fmt: skip
    raw = load_data((texts + again, labels * 2))
    assert set().union(*texts_by_split(raw)) == {*texts, *again} and hashes(raw) != hashes(data)


def test_given_splits_and_those_to_evaluate_are_normalized_too():
    train, test = rows_of({"a": 20, "b": 20}), (["Text 1 of A&lt;br&gt;", "<br>"], ["a", "b"])
    data = load_data({"train": train, "test": test}, DataSettings(normalization="lower"))
    assert data.test.texts == ["text 1 of a&lt;br&gt;", "<br>"]
    data = load_data({"train": train, "test": test}, DataSettings(normalization="web"))
    assert data.test.texts == ["Text 1 of A", "<br>"]
    assert load_split(test, data.labels, DataSettings(normalization="web")).texts == data.test.texts
    assert load_split(test, data.labels).texts == test[0]


# Splits as values


def test_split_take_and_fingerprint():
    split = Split(["a", "b", "c"], np.array([0, 1, 0]))
    assert split.take([2, 0]).texts == ["c", "a"] and split.take([2, 1]).targets.tolist() == [0, 1]
    assert split.take(range(2)).texts == ["a", "b"]
    assert split.take(np.array([True, False, True])).texts == ["a", "c"]
    assert len(split.take([])) == 0 and split.take([]).targets.dtype == np.int64
    assert repr(split) == "Split(3 rows)"
    others = [split.take([1, 0, 2]), Split(["ab", "", "c"], split.targets), Split(split.texts, np.array([0, 1, 1]))]
    assert len({each.fingerprint()["hash"] for each in (split, *others)}) == 4 and split.fingerprint()["rows"] == 3
    assert Split(split.texts, split.targets.astype(np.int32)).fingerprint() == split.fingerprint()
    with pytest.raises(DataError, match="expected a target a text, found 1 texts, 2 targets"):
        Split(["a"], np.array([0, 1]))


def lookup(data: Data, source) -> None:
    """Every row of every split is that of its number in the table of its part."""
    for split in data.splits.values():
        assert split.numbers.dtype == np.int64 and split.numbers.shape == (len(split),)
        texts, labels = source[split.part]
        assert [texts[number - 1] for number in split.numbers] == split.texts
        assert [labels[number - 1] for number in split.numbers] == data.labels.decode(split.targets)


def test_every_row_is_in_its_table_under_its_number():
    texts, labels = rows_of({"a": 60, "b": 50, "c": 1})
    train = [None, *texts[:40], "  ", *texts[40:]], ["a", *labels[:40], "b", *labels[40:-1], None]
    for chosen in ({}, {"max_train_rows": 60, "calibration_size": 0.4}, {"test_size": 0}):
        lookup(data := load_data(train, **chosen), {"train": train})
        numbers = np.concatenate([split.numbers for split in data.splits.values()])
        assert len({*numbers}) == len(numbers) and {1, 42, 113}.isdisjoint(numbers)
        assert len(numbers) == 110 or "max_train_rows" in chosen
    named = {"train": train, "validation": (["v", "", "w"], [*"aab"]), "test": (["", "t"], [*"ab"])}
    lookup(data := load_data(named), named)
    assert [split.part for split in data.splits.values()] == ["train", "validation", "train", "test"]
    assert data.validation.numbers.tolist() == [1, 3] and data.test.numbers.tolist() == [2]
    weighted = [{"text": text, "label": labels[row], "weight": row % 2} for row, text in enumerate(texts)]
    data = load_data(weighted, weight_column="weight")
    lookup(data, {"train": (texts, labels)})
    assert all(number % 2 == 0 for number in data.train.numbers)
    for fold in folds_of(data, 3):
        lookup(fold, {"train": (texts, labels)})


def test_numbers_of_rows_of_several_parts_are_not_known():
    whole = load_split(rows_of({"a": 3, "b": 2}), Labels(("a", "b")))
    assert whole.part == "train" and whole.numbers.tolist() == [1, 2, 3, 4, 5]
    part = Split.joined([whole.take([3]), whole.take([0, 1])])
    assert part.part == "train" and part.numbers.tolist() == [4, 1, 2]
    test = load_split({"test": (["x"], ["a"])}, Labels(("a", "b")))
    for other in (test, Split(["y"], np.array([0]))):
        both = Split.joined([whole, other])
        assert both.numbers is None and both.part == "" and both.take([5]).texts == other.texts
    assert [each.fingerprint() for each in (Split(test.texts, test.targets), test)] == [test.fingerprint()] * 2


# Evaluating a saved classifier


def test_load_split_takes_tables_whole_and_sources_by_split(tmp_path):
    labels = Labels(("b", "a"))
    table = (["x", "y", "z"], ["a", "b", "a"])
    assert load_split(table, labels).targets.tolist() == [1, 0, 1]
    assert load_split({"test": table}, labels).texts == ["x", "y", "z"]
    assert load_split({"train": table, "dev": (["v"], ["b"])}, labels, split="val").texts == ["v"]
    (tmp_path / "test.csv").write_text("text,label\nx,a\n")
    assert load_split(tmp_path, labels).targets.tolist() == [1]
    assert load_split(tmp_path / "test.csv", labels, split="train").texts == ["x"]


def test_load_split_follows_the_labels():
    labels = Labels(("a", "b"), multi_label=True)
    assert load_split((["x", "y"], ["b", "a"]), labels).targets.tolist() == [[0, 1], [1, 0]]
    assert load_split((["x"], ["b|a"]), labels, DataSettings(label_delimiter="|")).targets.tolist() == [[1, 1]]
    with pytest.raises(DataError, match="expected one label a row as in training, found lists of labels"):
        load_split((["x"], [["a"]]), Labels(("a", "b")))


def test_load_split_refuses():
    labels = Labels(("a", "b"))
    with pytest.raises(DataError, match="expected a test split, found train"):
        load_split({"train": (["x"], ["a"])}, labels)
    with pytest.raises(DataError, match=r"in the data, found 'c' \(2 rows, first in row 2\); known labels: a, b"):
        load_split((["x", "y", "z"], ["a", "c", "c"]), labels)


# What cannot be split

FEW = rows_of({"a": 30, "b": 30})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (rows_of({"a": 30}), "expected two labels or more to tell apart, found the same in all 30 rows: 'a'; check"),
        ((["x", "y"], [["a", "b"], ["a", "b"]]), r"found the same in all 2 rows: \['a', 'b'\]"),
        (
            rows_of({"a": 2, "b": 2}),
            r"expected 3 distinct texts or more of a label, one each for train, validation, test, found fewer of each "
            r"of the 2 labels, which leaves validation and test empty; add rows, or give a validation and a test split",
        ),
        ({"train": (["x", "z", "z"], [*"abb"]), "test": (["x"], ["a"])}, r"expected 2 .* leaves validation empty"),
        (
            {"train": FEW, "test": (["x", "y", "z"], ["a", "new", "new"])},
            r"test split of data: expected only labels seen in training in test, found 'new' \(2 rows, first in row 2\)"
            "; known labels: a, b; remove these rows, or move some of them to train",
        ),
        ({"test": FEW}, "expected a train split, found only test"),
        ((["x", "y"], [1, "a"]), "data, column 'label': expected labels of one kind, found whole numbers"),
        ((["x", ["y"]], ["a", "b"]), r"data, column 'text', row 2: expected text, found list \['y'\]"),
        (([None, "y"], ["a", None]), "expected rows .* found none: 1 rows without text, 1 without label"),
    ],
)
def test_data_that_cannot_be_split(source, message):
    with pytest.raises(DataError, match=message):
        load_data(source)


def test_columns_must_be_in_every_split(tmp_path):
    (tmp_path / "train.csv").write_text("review,label\nx,a\n")
    (tmp_path / "test.csv").write_text("text,label\nx,a\n")
    with pytest.raises(DataError, match=r"test.csv: expected the column 'review', found only 'text', 'label'"):
        load_data(tmp_path)


def test_too_few_training_rows_for_every_label():
    message = "leaves 5 rows to train on: expected 6 or more, to keep 2 distinct texts of each of the 3 labels"
    with pytest.raises(DataError, match=message):
        load_data(rows_of({"a": 50, "b": 50, "c": 50}), DataSettings(max_train_rows=5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_size": 1.0}, "test_size=1.0: expected a number from 0, below 1"),
        ({"validation_size": 0}, "validation_size=0: expected a number above 0, below 1"),
        ({"validation_size": 0.6, "calibration_size": 0.5}, "expected less than 1, to leave rows to train on"),
        ({"max_train_rows": 0}, "max_train_rows=0: expected a whole number from 1"),
        ({"label_names": 3}, r"label_names=3: expected a list \(or text with commas\) or none"),
        ({"normalization": "upper"}, "normalization='upper': expected one of 'none', 'nfkc', 'lower', 'web'"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(SettingError, match=message):
        DataSettings(**values)


# Real data


def public_sets() -> list[tuple[str, dict[str, int], int]]:
    """Name, rows by split and number of classes, as the table of the data's own README has them."""
    table = (DATA / "README.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| `")]
    return [
        (row[1].strip("`"), {split: int(n.replace(",", "")) for split, n in ROWS.findall(row[4])}, int(row[5]))
        for row in cells
    ]


@needs_shared
def test_every_public_data_set_loads_whole_and_without_leaks_of_our_own():
    sets = public_sets()
    assert len(sets) == 16
    for name, rows, classes in sets:
        data = load_data(DATA / name)
        assert data.labels.num_labels == classes and data.labels.multi_label == (name == "go_emotions"), name
        assert len(data.test) == rows["test"], name
        pool = [data.train, data.calibration, *(() if "validation" in rows else (data.validation,))]
        assert sum(map(len, pool)) == rows["train"], name
        assert len(data.validation) == rows.get("validation", len(data.validation)) > 0, name
        texts = [set(split.texts) for split in pool]
        assert sum(map(len, texts)) == len(set().union(*texts)), name
        whole = data.train.take(range(50)).texts
        assert all(unicodedata.is_normalized("NFC", text) for text in whole), name


@needs_shared
def test_real_multi_label_data_is_stratified():
    source = DATA / "go_emotions" / "test.jsonl.gz"
    data = load_data(source, DataSettings(validation_size=0.2, calibration_size=0.1))
    total = sum((counts(split, data) for split in data.splits.values()), Counter())
    assert sum(len(split) for split in data.splits.values()) == 5_427 and len(total) == 28
    for name, rows in total.items():
        for split, share in ((data.test, 0.2), (data.validation, 0.16), (data.calibration, 0.08)):
            assert abs(counts(split, data)[name] - share * rows) <= max(2, 0.01 * rows), name


@needs_shared
def test_real_budgets_count_validation_and_real_unseen_labels_are_named():
    data = load_data(DATA / "clinc150", DataSettings(max_train_rows=600))
    assert (len(data.train) + len(data.calibration), len(data.validation), len(data.test)) == (540, 60, 4_500)
    with pytest.raises(DataError, match=r"found 'oos' \(1200 rows, first in row 1\)"):
        load_split(DATA / "clinc150" / "out_of_scope.jsonl.gz", data.labels)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(12, 60), several=st.booleans())
def test_folds_hold_out_every_row_once_and_no_text_is_on_both_sides(seed: int, rows: int, several: bool) -> None:
    draw = np.random.default_rng(seed)
    texts = [f"text {number}" for number in draw.integers(rows, size=rows)]
    labels = Labels(("a", "b", "c"), multi_label=several)
    targets = (draw.random((rows, 3)) < 0.4).astype(np.float32) if several else draw.integers(3, size=rows)
    whole = Split(texts, targets)
    data = Data("few", labels, whole.take(range(rows - 5)), whole.take(range(rows - 5, rows)), *[whole.take([])] * 2)
    folds = folds_of(data, 5, seed)
    held_out = sorted(text for fold in folds for text in fold.validation.texts)
    learned = [{*fold.train.texts} for fold in folds]
    assert all(not {*fold.validation.texts} & known for fold, known in zip(folds, learned, strict=True))
    assert all(len(fold.train) + len(fold.validation) == rows for fold in folds)
    # All but those of a label that has one text.
    units = {text: set() for text in texts}
    for text, target in zip(texts, targets, strict=True):
        units[text] |= {*np.flatnonzero(target)} if several else {int(target)}
    rare = {label for label in range(3) if sum(label in one for one in units.values()) == 1}
    assert held_out == sorted(text for text in texts if not units[text] & rare)
