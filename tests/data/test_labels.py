"""Label names and ids, and raw label columns read as names."""

import logging
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.data.labels import Labels, RowLabels, labels_of_columns, order_names, read_labels
from nlptransfer.errors import DataError

SINGLE = Labels(("negative", "positive"))
MULTI = Labels(("anger", "joy", "love"), multi_label=True)


def test_properties():
    assert SINGLE.num_labels == 2
    assert SINGLE.id2label == {0: "negative", 1: "positive"}
    assert SINGLE.label2id == {"negative": 0, "positive": 1}
    assert SINGLE.problem_type == "single_label_classification"
    assert MULTI.problem_type == "multi_label_classification"
    assert Labels(["a", "b"]) == Labels(("a", "b"))  # type: ignore[arg-type]
    assert len({SINGLE, Labels(("negative", "positive"))}) == 1


def test_encode_single():
    ids = SINGLE.encode(["positive", "negative", "positive"])
    assert ids.dtype == np.int64 and ids.tolist() == [1, 0, 1]
    assert SINGLE.encode([]).shape == (0,)


def test_encode_multi():
    targets = MULTI.encode([("joy", "anger"), (), ["love"]])
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert MULTI.encode([]).shape == (0, 3)


def test_decode():
    assert SINGLE.decode(np.array([1, 0])) == ["positive", "negative"]
    assert SINGLE.decode([]) == []
    assert MULTI.decode([[0, 0.9, 1], [0, 0.5, 0]]) == [["joy", "love"], []]


@given(st.lists(st.sets(st.sampled_from(MULTI.names))))
def test_multi_label_round_trip(rows):
    assert [set(row) for row in MULTI.decode(MULTI.encode(rows))] == rows


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SINGLE.encode(["negative", "neutral"]), "row 2: unknown label 'neutral'; known labels: 'neg"),
        (lambda: MULTI.encode([("joy",), ("hate",)]), r"row 2: unknown label 'hate'; known labels: 'anger', 'joy', 'l"),
        (lambda: MULTI.encode(["joy"]), r"row 1: expected a list of labels \(multi-label data\), found 'joy'"),
        (lambda: SINGLE.encode([("positive",)]), r"row 1: expected a label name, found tuple \('positive',\)"),
        (lambda: SINGLE.decode([0, -1]), "expected label ids from 0 to 1, found -1 to 0"),
        (lambda: SINGLE.decode([[0, 1]]), r"expected targets of shape \(n,\), found \(1, 2\)"),
        (lambda: MULTI.decode([[0, 1]]), r"expected targets of shape \(n, 3\), found \(1, 2\)"),
        (lambda: Labels(()), "expected label names, found none"),
        (lambda: Labels(("a", "b", "a")), "expected every label name once, found 'a' more than once"),
    ],
)
def test_errors_of_labels(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (["a", " b ", "", None, float("nan"), "cafe\u0301"], ["a", "b", None, None, None, "café"]),
        ([3, 10, np.int64(3), None], ["3", "10", "3", None]),
        ([1.0, float("nan"), 2.0], ["1", None, "2"]),
        ([True, np.bool_(False), None], ["true", "false", None]),
        ([np.str_("x"), pd.NA], ["x", None]),
        (["NA", "null", "None", "nan"], ["NA", "null", "None", "nan"]),
        ([["a", "b", "a"], [], None, ("c",)], [("a", "b"), (), None, ("c",)]),
        ([{"b", "a"}, np.array([1, 2]).astype(str)], [("a", "b"), ("1", "2")]),
        ([[1, 2], [3]], [("1", "2"), ("3",)]),
        ([np.array([2, 0])], [("2", "0")]),
        ([1, "1.0", 1.0, Decimal("1.00")], ["1", "1.0", "1", "1"]),
        ([True, "TRUE", None], ["true", "TRUE", None]),
        ([b"good", b" "], ["good", None]),
        (["['a', 'b']", '["a"]', "[]", None], [("a", "b"), ("a",), (), None]),
        (["[1]", "(1, 2)", "{3}"], [("1",), ("1", "2"), ("3",)]),
        (["['a' 'b c']", "['d'\n 'e']"], [("a", "b c"), ("d", "e")]),
        (["[ 3 10]", "[27]"], [("3", "10"), ("27",)]),
        (["['a'", "[x]", "(a)"], ["['a'", "[x]", "(a)"]),
        ([{"pos": 1, "neg": 0}, {"pos": 0.0, "neg": True}, None], ["pos", "neg", None]),
        (["{'pos': 1, 'neg': 0}", '{"pos": 0, "neg": 1}'], ["pos", "neg"]),
        ([{"a": 1, "b": "1"}, {"a": 0, "b": None}], [("a", "b"), ()]),
        (["1.0", "1.1", "2.0"], ["1.0", "1.1", "2.0"]),
        ([], []),
    ],
)
def test_raw_values_become_names(values, rows):
    assert [*read_labels(values)] == rows


@pytest.mark.parametrize(
    ("array", "rows"),
    [
        (pyarrow.array(["a", None, " a"]), ["a", None, "a"]),
        (pyarrow.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pyarrow.chunked_array([["b", None], ["a", "b"]]), ["b", None, "a", "b"]),
        (pyarrow.chunked_array([], type=pyarrow.string()), []),
        (pyarrow.array([1.0, float("nan"), None, 2.0]), ["1", None, None, "2"]),
        (pyarrow.array([None, None]), [None, None]),
        (pyarrow.array([Decimal("1.00"), Decimal("2.00")]), ["1", "2"]),
        (pyarrow.array([["a"], [], None]), [("a",), (), None]),
        (pyarrow.array([{"a": 1, "b": 0}, {"a": 0, "b": 1}]), ["a", "b"]),
    ],
)
def test_arrays_of_arrow(array, rows):
    assert [*read_labels(array)] == rows


def test_what_is_read_as_several_labels_is_said(caplog):
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        read_labels(["['a', 'b']", "['a']"], "f.csv")
        read_labels([{"a": 1, "b": 1}], "f.csv")
        read_labels([{"a": 1, "b": 0}], "f.csv")
    assert [record.getMessage() for record in caplog.records] == [
        "f.csv: lists written as text (\"['a', 'b']\") are several labels a row; "
        "label_delimiter='' takes each for one label",
        "f.csv: mappings of labels to 0 and 1 are read as several labels a row",
        "f.csv: mappings of labels to 0 and 1 are read as one label a row",
    ]


def test_no_delimiter_takes_text_as_it_is():
    numbers = [f"{row / 7:.3f}" for row in range(60)]
    for values in (["a|b", "a", "b"], ["['a']", "b"], ["['a', 'b']"], numbers):
        assert [*read_labels(values, delimiter="")] == values


def test_label_names_name_ids_and_columns():
    names = ["neg", "mid", "pos"]
    for ids in ([0, 2, None], ["0", "2.0", ""], [0.0, 2.0, float("nan")]):
        assert [*read_labels(ids, label_names=names)] == ["neg", "pos", None]
    assert [*read_labels(["pos", "neg"], label_names=names)] == ["pos", "neg"]
    assert [*read_labels([False, True], label_names=["ham", "spam"])] == ["ham", "spam"]
    assert [*read_labels([[0, 2], [1], []], label_names=names)] == [("neg", "pos"), ("mid",), ()]
    assert [*read_labels(["[0, 2]", "[]"], label_names=names)] == [("neg", "pos"), ()]
    assert [*read_labels(np.array([[1, 0, 1], [0, 0, 0]]), label_names=names)] == [("neg", "pos"), ()]
    assert [*read_labels([[True, False], [False, True]], label_names=["a", "b"])] == [("a",), ("b",)]
    assert [*read_labels([1, 2], label_names=["1", "2", "3"])] == ["2", "3"]
    for values, row in (([0, 3], 2), ([-1], 1), (["neg", 1], 1), ([0, "x"], 2)):
        with pytest.raises(DataError, match=f"row {row}: expected an id from 0 to 2, or one of the 3 label_names"):
            read_labels(values, label_names=names)
    with pytest.raises(DataError, match="row 1: expected an id or one of label_names, found '1', which is both"):
        read_labels(["1", "2"], label_names=["1", "2", "3"])


def test_columns_of_flags_are_labels():
    columns = {
        "toxic": [0, 1, None, "1.0", "", True],
        "insult ": pyarrow.array(["0", "TRUE", None, "false", "0.0", "1"]),
    }
    assert [*labels_of_columns(columns)] == [(), ("toxic", "insult"), None, ("toxic",), (), ("toxic", "insult")]
    many = np.random.default_rng(0).integers(0, 2, (50, 20))
    rows = [*labels_of_columns({str(column): many[:, column] for column in range(20)})]
    assert rows == [tuple(map(str, np.flatnonzero(row))) for row in many]
    for values in ([0, 2], [0, -1], [0, "x"], [0, 0.5]):
        with pytest.raises(
            DataError, match=r"f.csv, column 'toxic', row 2: expected 0 or 1, .* name one label_column, or"
        ):
            labels_of_columns({"insult": [0, 0], "toxic": values}, "f.csv")


def test_labels_are_renamed_and_merged():
    def renamed(labels, mapping):
        return [*RowLabels(labels, np.arange(len(labels))).mapped(mapping)]

    assert renamed(["Pos", "pos", None, "x"], {"Pos": "pos"}) == ["pos", "pos", None, "x"]
    assert renamed([("a", "b"), ("b",)], {"a": "b"}) == [("b",), ("b",)]
    assert renamed(["1.0", "TRUE"], {"1": "one", "true": "yes"}) == ["one", "yes"]


def test_a_label_is_known_in_another_spelling():
    assert [Labels(("1", "true", "x")).known(name) for name in ("1.0", "TRUE", "X", "01")] == ["1", "true", None, None]
    versions = Labels(("1", "1.0", "1.1"))
    assert [versions.known(name) for name in ("1", "1.0", "1.00")] == ["1", "1.0", None]


def test_class_names_turn_ids_into_names():
    assert [*read_labels([1, 0, -1, None], class_names=["neg", "pos"])] == ["pos", "neg", None, None]
    assert [*read_labels([[1, 0], []], class_names=["neg", "pos"])] == [("pos", "neg"), ()]
    for value in (2, -2, "x"):
        with pytest.raises(DataError, match="row 1: expected a class id from 0 to 1, found"):
            read_labels([value], class_names=["a", "b"])


def test_delimiter_splits_strings_into_sets():
    assert [*read_labels(["a|b", " b | a |", "|", "", None], delimiter="|")] == [("a", "b"), ("b", "a"), (), None, None]
    assert [*read_labels([1, 2], delimiter="|")] == [("1",), ("2",)]


def test_order_is_fixed():
    assert order_names(["b", "a", "b", "É"]) == ("a", "b", "É")
    assert order_names(["10", "9", "-1", "0"]) == ("-1", "0", "9", "10")
    assert order_names(["10", "9", "x"]) == ("10", "9", "x")
    assert order_names(["true", "false"]) == ("false", "true")
    assert order_names(["a", "z"], class_names=["z", "unused", "a"]) == ("z", "a")


@given(st.permutations(["1", "02", "2", "30", "4"]))
def test_order_does_not_depend_on_the_order_of_the_rows(names):
    assert order_names(names) == ("1", "02", "2", "4", "30")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], r"f.csv: expected labels of one kind, found whole numbers \(1 in row 1\) and text \('a' in row 2\)"),
        (["a", None, True], r"text \('a' in row 1\) and true/false \(True in row 3\); write all of them as text"),
        ([["a"], ["b", 2]], r"found text \('a' in row 1\) and whole numbers \(2 in row 2\)"),
        ([["a"], "b"], r"found the list \['a'\] in row 1 and the single label 'b' in row 2; make every row a list"),
        ([0.5], "f.csv, row 1: expected a label .* found the fraction 0.5"),
        ([float("inf")], "found the fraction inf"),
        ([Decimal("1.5")], "found the fraction 1.5; cut numbers on a scale into classes, or round them"),
        ([date(2024, 5, 1)], r"f.csv, row 1: expected a label .* found date datetime.date\(2024, 5, 1\)"),
        ([np.datetime64("2024-05-01", "ns")], "row 1: expected a label .* found datetime64"),
        ([b"\xff"], r"row 1: expected a label .* found bytes b'\\xff'"),
        (["a", {"a": 1}], "row 1: expected a mapping of labels to 0 or 1 as in other rows, found 'a'"),
        ([{"a": 1}, {"a": 0.7}], "row 2: expected 0 or 1 of each label, found 0.7 of 'a'; round it, or if one field"),
        ([1, "01"], r"found whole numbers \(1 in row 1\) and text \('01' in row 2\)"),
        ([True, 1], r"found true/false \(True in row 1\) and whole numbers \(1 in row 2\)"),
        (["['a']", "b"], r"found \"\['a'\]\" in row 1 and 'b' in row 2; write .* or set label_delimiter='' if each is"),
        (["a|b", "b"], r"found 'a\|b', whose parts .* set label_delimiter='\|' if .*, or label_delimiter='' if that"),
        (
            [f"{row / 7:.3f}" for row in range(60)],
            r"found a number on a scale \(60 different ones from 0.000 to 8.429\)",
        ),
        ([["a", ["b"]]], "row 1: expected a label .* found list"),
        ([["a", None]], "row 1: expected label names, found an empty one"),
        ([[0, 1, 0, 0]], "row 1: expected a list of the labels that apply, each once, found .* vectors of 0 and 1"),
    ],
)
def test_errors_of_raw_values(values, message):
    with pytest.raises(DataError, match=message):
        read_labels(values, "f.csv")


def test_names_of_thousands_of_digits_are_names():
    names = ["9" * 5000, "1", "2"]
    assert order_names(names) == tuple(sorted(names))
