"""Splits: whole, without leaks, stratified, the same every time; and what data that cannot be split says."""

import json
import logging
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer.data import Data, DataSettings, Split, load_data, load_split
from nlptransfer.errors import DataError, SettingError
from nlptransfer.labels import Labels

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public data sets in ../shared/data")


def rows_of(sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """Distinct texts, so many of each label."""
    pairs = [(f"text {number} of {label}", label) for label, size in sizes.items() for number in range(size)]
    return [text for text, _ in pairs], [label for _, label in pairs]


def counts(split: Split, data: Data) -> Counter[str]:
    names = data.labels.decode(split.targets)
    return Counter(name for row in names for name in ([row] if isinstance(row, str) else row))


def hashes(data: Data) -> dict[str, str]:
    return {name: found["hash"] for name, found in data.fingerprints().items()}


def texts_of(data: Data) -> list[set[str]]:
    return [set(split.texts) for split in data.splits.values()]


# Where splits come from


def test_one_table_becomes_four_stratified_splits():
    data = load_data(rows_of({"a": 600, "b": 300, "c": 100}))
    assert data.labels == Labels(("a", "b", "c"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 680,
        "validation": 80,
        "calibration": 40,
        "test": 200,
    }
    assert counts(data.test, data) == {"a": 120, "b": 60, "c": 20}
    assert counts(data.validation, data) == {"a": 48, "b": 24, "c": 8}
    assert counts(data.calibration, data) == {"a": 24, "b": 12, "c": 4}
    assert repr(data) == ("Data('data', 3 labels (a, b, c), rows: train 680, validation 80, calibration 40, test 200)")


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


def test_sizes_of_zero_switch_splits_off():
    off = DataSettings(test_size=0, validation_size=0, calibration_size=0)
    data = load_data(rows_of({"a": 3, "b": 1}), off)
    assert {name: len(split) for name, split in data.splits.items() if len(split)} == {"train": 4}
    multi = load_data((["x", "y"], [["a"], ["b"]]), off)
    assert multi.test.targets.shape == (0, 2) and multi.test.fingerprint()["rows"] == 0


def test_small_calibration_is_skipped_with_a_line(caplog):
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        data = load_data(rows_of({"a": 100, "b": 100}))
        wide = load_data(rows_of({str(label): 20 for label in range(40)}))
    assert len(data.calibration) == len(wide.calibration) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "no calibration split: it would have 8 rows, and 20 are the least that helps",
        "no calibration split: it would have 32 rows, and 80 are the least that helps",
    ]


def test_carved_splits_have_a_largest_size():
    sizes = {str(label): 700 for label in range(99)}
    data = load_data({"train": rows_of(sizes), "test": rows_of({"0": 1, "1": 1})}, DataSettings(validation_size=0.5))
    assert (len(data.validation), len(data.calibration)) == (5000, 2000)
    assert set(counts(data.validation, data).values()) == {50, 51}
    assert set(counts(data.calibration, data).values()) == {20, 21}


def test_folder_and_file_agree_with_memory(tmp_path):
    texts, labels = rows_of({"a": 30, "b": 30})
    lines = "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in zip(texts, labels, strict=True))
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "films.jsonl").write_text(lines)
    assert hashes(load_data(tmp_path)) == hashes(load_data((texts, labels)))
    assert hashes(load_data(tmp_path / "films.jsonl")) == hashes(load_data((texts, labels)))
    assert load_data(str(tmp_path / "films.jsonl")).name == "films"


def test_class_labels_keep_their_order():
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "q", "a"])}
    )
    columns = {"text": [f"text {row}" for row in range(40)], "label": [row % 2 * 2 for row in range(40)]}
    train = datasets.Dataset.from_dict(columns, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features)
    data = load_data(datasets.DatasetDict(train=train, test=hidden))
    assert data.labels.names == ("z", "a")
    assert len(data.test) == 8 and "x" not in data.test.texts


def test_hidden_test_labels_are_logged(caplog):
    train = rows_of({"a": 20, "b": 20})
    load_data({"train": train, "test": (["x", "y"], [None, None])})
    assert "no row of test has a label: it is left alone" in caplog.text


def test_csv_numbers_are_names_in_numeric_order(tmp_path):
    rows = "".join(f"some text {number},{number % 11}\n" for number in range(66))
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    assert load_data(tmp_path / "a.csv").labels.names == tuple(map(str, range(11)))


def test_rows_without_text_or_label_are_dropped_and_counted_once(caplog):
    texts, labels = rows_of({"a": 20, "b": 20})
    data = load_data(
        {
            "train": ([*texts, None, " \n", "x", "y"], [*labels, "a", "b", None, float("nan")]),
            "test": (["u", "v"], ["a", ""]),
        }
    )
    assert len(data.train) + len(data.validation) == 40 and len(data.test) == 1
    dropped = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert dropped == ["rows dropped: train: 2 without text, 2 without label; test: 0 without text, 1 without label"]


def test_text_is_kept_but_for_normalisation():
    texts, labels = rows_of({"a": 10, "b": 10})
    data = load_data(([*texts, " cafe\u0301\n"], [*labels, "a"]), DataSettings(test_size=0, validation_size=0))
    assert data.train.texts == [*texts, " café\n"]


# Splits that hold


@st.composite
def tables(draw):
    """Enough distinct texts of every label, and some texts that repeat, with the same label or another."""
    sizes = draw(st.lists(st.integers(3, 40), min_size=2, max_size=4))
    texts, labels = rows_of({f"label {number}": size for number, size in enumerate(sizes)})
    again = draw(st.lists(st.tuples(st.integers(0, len(texts) - 1), st.integers(0, len(sizes) - 1)), max_size=15))
    pairs = [*zip(texts, labels, strict=True), *((texts[row], f"label {label}") for row, label in again)]
    pairs = draw(st.permutations(pairs))
    return [text for text, _ in pairs], [label for _, label in pairs]


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 5))
def test_splits_are_a_partition_with_identical_texts_on_one_side(table, seed):
    data = load_data(table, DataSettings(split_seed=seed, calibration_size=0.2))
    found = [
        (text, name)
        for split in data.splits.values()
        for text, name in zip(split.texts, data.labels.decode(split.targets), strict=True)
    ]
    assert sorted(found) == sorted(zip(*table, strict=True))
    sides = texts_of(data)
    assert sum(map(len, sides)) == len(set().union(*sides))
    for split in (data.train, data.validation, data.test):
        assert set(counts(split, data)) == set(data.labels.names)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=5),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
    st.integers(0, 3),
)
def test_every_label_has_its_share_within_one_row(sizes, test, validation, calibration, seed):
    table = rows_of({str(number): size for number, size in enumerate(sizes)})
    data = load_data(table, DataSettings(None, None, None, seed, test, validation, calibration))
    for name, size in enumerate(sizes):
        in_test = counts(data.test, data)[str(name)]
        assert abs(in_test - test * size) <= 1
        assert abs(counts(data.validation, data)[str(name)] - validation * (size - in_test)) <= 1
        if len(data.calibration):
            left = size - in_test - counts(data.validation, data)[str(name)]
            # The row that train must keep may be one that calibration asked for.
            wanted = min(calibration * (size - in_test), left - 1)
            assert abs(counts(data.calibration, data)[str(name)] - wanted) <= 1


def test_repeated_texts_cost_at_most_one_group():
    texts, labels = rows_of({"a": 200, "b": 200})
    data = load_data((texts + texts[:100] * 4, labels + labels[:100] * 4))
    for name, size in (("a", 600), ("b", 200)):
        assert abs(counts(data.test, data)[name] - 0.2 * size) <= 5


def test_texts_with_two_labels_are_not_gathered_in_one_split():
    texts, labels = rows_of({"a": 400, "b": 400})
    both = texts[:200]
    data = load_data((texts + both, labels + ["b"] * 200), DataSettings(calibration_size=0))
    assert 20 <= len(set(data.test.texts) & set(both)) <= 60


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_has_no_say(random):
    rows = list(zip(*rows_of({"a": 40, "b": 25}), strict=True))
    before = texts_of(load_data(tuple(zip(*rows, strict=True))))
    random.shuffle(rows)
    assert texts_of(load_data(tuple(zip(*rows, strict=True)))) == before


def test_the_split_seed_alone_decides():
    table = rows_of({"a": 300, "b": 300})
    assert hashes(load_data(table)) == hashes(load_data(table))
    assert texts_of(load_data(table)) != texts_of(load_data(table, DataSettings(split_seed=1)))
    assert load_data(table).test.texts == load_data(table, DataSettings(calibration_size=0)).test.texts


def test_splits_are_the_same_on_every_machine():
    data = load_data(rows_of({"a": 15, "b": 15}))
    assert data.validation.texts == ["text 12 of a", "text 0 of b"]
    assert data.validation.fingerprint() == {
        "rows": 2,
        "hash": "2f52858143c0b245bb17a1805157ad098eaffc536cfb01def33d2a0b573bbd8f",
    }


@pytest.mark.parametrize("carved", [True, False])
def test_fewer_training_rows_are_part_of_more(carved):
    train = rows_of({"a": 500, "b": 100, "c": 8})
    source = train if carved else {"train": train, "dev": rows_of({"a": 1}), "test": rows_of({"b": 1})}
    pools = []
    for most in (6, 10, 60, 300, 100_000):
        data = load_data(source, DataSettings(max_train_rows=most))
        pool = [data.train, data.calibration, *([data.validation] if carved else [])]
        pools.append(set().union(*(split.texts for split in pool)))
        assert len(pools[-1]) == (min(most, len(pools[-1])) if most > 300 else most)
        assert set(counts(data.train, data)) == {"a", "b", "c"}
        total = sum((counts(split, data) for split in pool), Counter())
        everything = 608 - (len(data.test) if carved else 0)
        for name, size in (("a", 500), ("b", 100)):
            if 60 <= most <= 300:
                assert abs(total[name] - most * size * (everything / 608) / everything) <= 2
    assert all(fewer < more for fewer, more in zip(pools, pools[1:], strict=False))


def test_training_rows_of_multi_label_data_are_nested_too():
    random = np.random.default_rng(0)
    rows = [[name for name, share in zip("abcde", (0.5, 0.3, 0.1, 0.02, 0.6), strict=True) if random.random() < share]
            for _ in range(1500)]  # fmt: skip
    table = ([f"text {row}" for row in range(1500)], rows)
    pools = []
    for most in (50, 400):
        data = load_data(table, DataSettings(max_train_rows=most))
        pools.append(set(data.train.texts + data.validation.texts + data.calibration.texts))
        assert len(pools[-1]) == most and set(counts(data.train, data)) == set("abcde")
    assert pools[0] < pools[1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.sampled_from("abcd")), min_size=0, max_size=60),
    st.integers(0, 3),
)
def test_multi_label_splits_hold(rows, seed):
    rows = [*rows, *({name} for name in "abcd" for _ in range(3))]
    texts = [f"text {row // 2 if row % 5 == 0 else row}" for row in range(len(rows) - 12)]
    texts += [f"alone {row}" for row in range(12)]
    data = load_data((texts, [sorted(row) for row in rows]), DataSettings(split_seed=seed))
    found = [
        (text, tuple(names))
        for split in data.splits.values()
        for text, names in zip(split.texts, data.labels.decode(split.targets), strict=True)
    ]
    assert sorted(found) == sorted(zip(texts, (tuple(sorted(row)) for row in rows), strict=True))
    sides = texts_of(data)
    assert sum(map(len, sides)) == len(set(texts))
    for split in (data.train, data.validation, data.test):
        assert set(counts(split, data)) == set("abcd")


def test_multi_label_from_strings_and_empty_sets(tmp_path):
    lines = [f"text {row},{'a|b' if row % 3 == 0 else 'b' if row % 3 == 1 else '|'}" for row in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["text,tags", *lines]))
    data = load_data(tmp_path / "a.csv", DataSettings(label_delimiter="|"))
    assert data.labels == Labels(("a", "b"), multi_label=True)
    assert sum(len(split) for split in data.splits.values()) == 60
    assert sum(int((split.targets.sum(axis=1) == 0).sum()) for split in data.splits.values()) == 20
    assert "multi-label, 2 labels" in repr(data)


def test_rare_labels_are_moved_to_where_they_are_needed():
    # Both rows of "r" carry "x" too, whose dealing alone would put them on one side.
    rows = [["x"]] * 60 + [["y"]] * 40 + [["x", "r"], ["x", "y", "r"], ["r", "y"]]
    data = load_data(([f"text {row}" for row in range(len(rows))], rows))
    assert all(counts(split, data)["r"] == 1 for split in (data.train, data.validation, data.test))


def test_a_label_of_two_rows_is_enough_where_only_validation_is_carved():
    train, test = rows_of({"a": 300, "b": 300, "rare": 2}), rows_of({"a": 1})
    data = load_data({"train": train, "test": test})
    assert counts(data.train, data)["rare"] == counts(data.validation, data)["rare"] == 1
    assert counts(data.calibration, data)["rare"] == 0 and len(data.calibration) > 20


# Splits as values


def test_split_take_and_fingerprint():
    split = Split(["a", "b", "c"], np.array([0, 1, 0]))
    assert split.take([2, 0]).texts == ["c", "a"] and split.take([2, 1]).targets.tolist() == [0, 1]
    assert split.take(range(2)).texts == ["a", "b"]
    assert split.take(np.array([True, False, True])).texts == ["a", "c"]
    assert len(split.take([])) == 0 and split.take([]).targets.dtype == np.int64
    assert repr(split) == "Split(3 rows)"
    prints = [
        split.fingerprint(),
        split.take([1, 0, 2]).fingerprint(),
        Split(["ab", "", "c"], split.targets).fingerprint(),
        Split(split.texts, np.array([0, 1, 1])).fingerprint(),
    ]
    assert len({found["hash"] for found in prints}) == 4 and prints[0]["rows"] == 3
    assert Split(split.texts, split.targets.astype(np.int32)).fingerprint() == prints[0]
    with pytest.raises(DataError, match="expected a target a text, found 1 texts, 2 targets"):
        Split(["a"], np.array([0, 1]))


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
    with pytest.raises(DataError, match=r"found 'c' \(2 rows, first in row 2\); known labels: a, b; remove these rows"):
        load_split((["x", "y", "z"], ["a", "c", "c"]), labels)
    with pytest.raises(DataError, match="expected rows with a text and a label, found none: 1 rows without text"):
        load_split((["", "y"], ["a", None]), labels)


# What cannot be split

FEW = rows_of({"a": 30, "b": 30})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            rows_of({"a": 30}),
            "expected two labels or more to tell apart, found the same in all 30 rows: 'a'; check lab",
        ),
        ((["x", "y"], [["a", "b"], ["a", "b"]]), r"found the same in all 2 rows: \['a', 'b'\]"),
        (
            rows_of({"a": 30, "rare": 2}),
            r"expected 3 distinct texts or more of every label, one each for train, validation, test, found too few of "
            r"'rare' \(2 rows, 2 distinct\); add rows, merge or remove the label, or give a validation and a test split",
        ),
        (
            rows_of({"a": 1, "b": 1}),
            r"found too few of 'a' \(1 rows, 1 distinct\), 'b' \(1 rows, 1 distinct\); add rows",
        ),
        (
            {"train": rows_of({"a": 9, "b": 1}), "test": FEW},
            r"expected 2 .* found too few of 'b' \(1 rows, 1 distinct\)",
        ),
        (
            {"train": (["x", "y", "z", "z"], ["a", "a", "b", "b"]), "test": FEW},
            r"too few of 'b' \(2 rows, 1 distinct\)",
        ),
        (
            {"train": FEW, "test": (["x", "y", "z"], ["a", "new", "new"])},
            r"test split of data: expected only labels seen in training in test, found 'new' \(2 rows, first in row 2\); "
            "known labels: a, b; remove these rows, or move some of them to train",
        ),
        ({"train": FEW, "dev": (["x"], ["new"])}, "seen in training in validation, found 'new'"),
        ({"test": FEW}, "expected a train split, found only test"),
        ({"train": FEW, "test": (["x"], [["a"]])}, "expected one label a row as in training, found lists of labels"),
        ((["x", "y"], [1, "a"]), r"expected labels of one kind, found whole numbers \(1 in row 1\) and text"),
        ((["x", "y"], [["a"], "a"]), r"expected one label in every row or a list in every row, found the list \['a'\]"),
        ((["x", ["y"]], ["a", "b"]), r"data, column 'text', row 2: expected text, found list \['y'\]"),
        ((["x", 3], ["a", "b"]), "row 2: expected text, found int 3"),
        ((["x", "y"], ["a"]), "expected as many labels as texts, found 2 texts and 1 labels"),
        (([], []), "expected rows of text and label, found no row"),
        (
            ([None, "y"], ["a", None]),
            "expected rows with a text and a label, found none: 1 rows without text, 1 rows with",
        ),
        (
            {"train": FEW, "test": ([""], ["a"])},
            "test split of data: expected rows with a text and a label, found none",
        ),
        ("nowhere.csv", r"nowhere\.csv: no such file or folder"),
    ],
)
def test_data_that_cannot_be_split(source, message):
    with pytest.raises(DataError, match=message):
        load_data(source)


def test_columns_must_be_in_every_split(tmp_path):
    (tmp_path / "train.csv").write_text("review,label\nx,a\n")
    (tmp_path / "test.csv").write_text("text,label\nx,a\n")
    with pytest.raises(DataError, match=r"test.csv: expected the column 'review' as in train, found 'text', 'label'"):
        load_data(tmp_path)


def test_too_few_training_rows_for_every_label():
    message = "max_train_rows=5: expected 6 or more, to keep 2 distinct texts of each of the 3 labels"
    with pytest.raises(DataError, match=message):
        load_data(rows_of({"a": 50, "b": 50, "c": 50}), DataSettings(max_train_rows=5))


def test_labels_that_cannot_be_on_both_sides():
    # "r" and "s" are in two texts each, but every split of the four leaves one of them out.
    rows = [["r", "s"], ["r", "t"], ["s", "t"]] + [["u"]] * 30
    data = {"train": ([f"text {row}" for row in range(33)], rows), "test": (["x"], [["u"]])}
    with pytest.raises(
        DataError, match="expected rows of the label '[rst]' in train and in every split carved out of it"
    ):
        load_data(data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_size": 1.0}, "test_size=1.0: expected a share from 0 to below 1"),
        ({"validation_size": -0.1}, "validation_size=-0.1: expected a share"),
        ({"validation_size": 0.6, "calibration_size": 0.5}, "expected less than 1, to leave rows to train on"),
        ({"max_train_rows": 0}, "max_train_rows=0: expected 1 or more"),
        ({"label_delimiter": ""}, "label_delimiter='': expected one character or more"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(SettingError, match=message):
        DataSettings(**values)


# Real data


@needs_shared
@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("clinc150", 15_000, 3_000, 4_500),
        ("trec50", 5_452, None, 500),
        ("amazon_dvd", 1_600, None, 400),
        ("tweet_emotion", 3_257, 374, 1_421),
    ],
)
def test_real_row_counts(name, train, validation, test):
    data = load_data(SHARED / name)
    assert len(data.test) == test
    carved = len(data.train) + len(data.calibration)
    if validation is None:
        assert abs(len(data.validation) - 0.1 * train) <= data.labels.num_labels / 2 + 1
        assert carved + len(data.validation) == train
    else:
        assert (len(data.validation), carved) == (validation, train)
    assert all(unicodedata.is_normalized("NFC", text) for text in data.train.texts)


@needs_shared
def test_real_multi_label_stratification():
    source = SHARED / "go_emotions" / "train.jsonl.gz"
    data = load_data(source)
    assert data.labels.num_labels == 28 and data.labels.multi_label
    assert sum(len(split) for split in data.splits.values()) == 43_410
    assert abs(len(data.test) - 8_682) <= 30 and abs(len(data.validation) - 3_473) <= 30
    total = sum((counts(split, data) for split in data.splits.values()), Counter())
    for name, rows in total.items():
        assert abs(counts(data.test, data)[name] - 0.2 * rows) <= max(2, 0.004 * rows), name
        assert abs(counts(data.validation, data)[name] - 0.08 * rows) <= max(2, 0.004 * rows), name
    assert sum(map(len, texts_of(data))) == len(set().union(*texts_of(data)))


@needs_shared
def test_real_duplicates_stay_together():
    source = SHARED / "chnsenticorp" / "train.jsonl.gz"
    data = load_data(source, DataSettings(validation_size=0.2, calibration_size=0.1))
    sides = texts_of(data)
    assert sum(len(split) for split in data.splits.values()) == 9_600
    assert sum(map(len, sides)) == len(set().union(*sides)) < 9_600 - 1_000
    assert abs(len(data.test) - 1_920) <= 4


@needs_shared
def test_real_unseen_labels():
    data = load_data(SHARED / "clinc150", DataSettings(max_train_rows=600))
    assert len(data.train) == 600
    with pytest.raises(DataError, match=r"found 'oos' \(1200 rows, first in row 1\)"):
        load_split(SHARED / "clinc150" / "out_of_scope.jsonl.gz", data.labels)
