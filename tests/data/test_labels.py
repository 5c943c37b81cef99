"""Label names and ids, and raw label columns read as names."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.data.labels import Labels, order_names, read_labels
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
    ],
)
def test_raw_values_become_names(values, rows):
    assert read_labels(values) == rows


def test_class_names_turn_ids_into_names():
    assert read_labels([1, 0, -1, None], class_names=["neg", "pos"]) == ["pos", "neg", None, None]
    assert read_labels([[1, 0], []], class_names=["neg", "pos"]) == [("pos", "neg"), ()]
    for value in (2, -2, "x"):
        with pytest.raises(DataError, match="row 1: expected a class id from 0 to 1, found"):
            read_labels([value], class_names=["a", "b"])


def test_delimiter_splits_strings_into_sets():
    assert read_labels(["a|b", " b | a |", "|", "", None], delimiter="|") == [("a", "b"), ("b", "a"), (), None, None]
    assert read_labels([1, 2], delimiter="|") == [("1",), ("2",)]


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
        ([{"a": 1}], "row 1: expected a label .* found dict {'a': 1}"),
        ([["a", ["b"]]], "row 1: expected a label .* found list"),
        ([["a", None]], "row 1: expected label names, found an empty one"),
        ([[0, 1, 0, 0]], "row 1: expected a list of the labels that apply, each once, found .* vectors of 0 and 1"),
    ],
)
def test_errors_of_raw_values(values, message):
    with pytest.raises(DataError, match=message):
        read_labels(values, "f.csv")
