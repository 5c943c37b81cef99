"""Names that are one label in two spellings, or several labels in one name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.data.dataset import load_data, load_split
from nlptransfer.data.labels import Labels
from nlptransfer.data.spelling import are_measurements, as_mapping, canonical, joined_name, near_twins, spelled_alike
from nlptransfer.errors import DataError


def test_one_spelling_of_numbers_and_truths():
    spellings = {"1.0": "1", "1.": "1", "-2.00": "-2", "-0.0": "0", "TRUE": "true", "False": "false"}
    assert {name: canonical(name) for name in spellings} == spellings
    for name in ("1", "01", "01.0", "1.1", "1e5", "x", "Truth", "+1", "٣.0"):
        assert canonical(name) == name


@given(st.integers(), st.integers(0, 3))
def test_a_whole_number_has_one_spelling(number, zeros):
    assert canonical(f"{number}.{'0' * zeros}") == canonical(str(number)) == str(number)


def test_names_are_spelled_alike_only_if_all_are_of_a_kind():
    assert spelled_alike(["1.0", "1", "01"]) == {"1.0": "1", "1": "1", "01": "01"}
    assert spelled_alike(["True", "true"]) == {"True": "true", "true": "true"}
    for names in (["1.0", "1.1"], ["True", "unsure"], ["1.0", "a"], ["True", "1.0"]):
        assert spelled_alike(names) == dict(zip(names, names, strict=True))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"{row / 7:.3f}" for row in range(60)], True),
        ([f"{row}e-3" for row in range(21)], True),
        ([f"{row / 10}" for row in range(20)], False),
        ([str(row) for row in range(60)], False),
        ([f"{row}.0" for row in range(60)], False),
        ([*(f"{row / 7:.3f}" for row in range(60)), "x"], False),
    ],
)
def test_measurements(names, expected):
    assert are_measurements(names) == expected


def test_near_twins_are_grouped_under_the_most_frequent():
    rows = {"pos": 10, "pos\u200b": 9, "Pos": 11, "neg": 5, "\ufeffneg": 5, "ＮＥＧ": 1, "new  york": 2,
            "New\u00a0York": 3, "❤": 2, "❤️": 1, "straße": 1, "STRASSE": 2, "other": 3}  # fmt: skip
    twins = near_twins(rows)
    assert twins == {
        "Pos": ["pos", "pos\u200b"],
        "neg": ["\ufeffneg", "ＮＥＧ"],
        "New\u00a0York": ["new  york"],
        "❤": ["❤️"],
        "STRASSE": ["straße"],
    }
    written = as_mapping(twins)
    assert written.startswith(r'{"pos": "Pos", "pos\u200b": "Pos", "\ufeffneg": "neg"') and "straße" in written
    assert json.loads(written) == {other: most for most, others in twins.items() for other in others}
    assert near_twins({"1": 1, "01": 1, "a": 1, "ab": 1}) == {}


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (["a|b", "a", "b"], ("a|b", "|")),
        (["neg|pos", "pos"], ("neg|pos", "|")),
        (["x", "a; b", "b; c"], ("a; b", ";")),
        (["pos/food", "neg/food", "pos/service", "neg/service"], ("neg/food", "/")),
        (["red, blue", "blue, green", "red"], ("red, blue", ",")),
        (["Books, Movies", "Toys"], None),
        (["Books, Movies", "Movies", "Arts, Crafts & Sewing"], None),
        (["Clothing, Shoes & Jewelry", "Health, Beauty", "Beauty"], None),
        (["sport/tennis", "sport/golf", "news", "news/us"], None),
        (["sport/tennis", "sport/other", "news/us", "news/other"], None),
        (["n/a", "a", "b"], None),
        (["|", "a|", "a"], None),
        (["1", "2"], None),
    ],
)
def test_joined_names(names, joined):
    assert joined_name(names) == joined


def rows_of(labels):
    """Distinct texts of these labels, ten times over."""
    return [f"text {row}" for row in range(10 * len(labels))], labels * 10


@pytest.mark.parametrize(
    ("train", "test", "names", "ids"),
    [
        (["1", "0.0", "1.0", "0"], [0.0, 1.0], ("0", "1"), [0, 1]),
        ([0, 1], ["1.0", "0"], ("0", "1"), [1, 0]),
        (["True", "False"], [True, False], ("false", "true"), [1, 0]),
        ([True, False, "TRUE"], ["true"], ("false", "true"), [1]),
        (["1.0", "1.1"], ["1", "1.0"], ("1.0", "1.1"), [0, 0]),
        (["1", "1.0", "1.1"], ["1.0", "1"], ("1", "1.0", "1.1"), [1, 0]),
        (["True", "False", "unsure"], [True], ("False", "True", "unsure"), [1]),
        ([["1", "2.0"], ["2"]], [["2.0", "1.0"]], ("1", "2"), [[1, 1]]),
    ],
)
def test_splits_that_spell_a_label_otherwise_have_one_label(train, test, names, ids):
    data = load_data({"train": rows_of(train), "test": ([f"test {row}" for row in range(len(test))], test)})
    assert data.labels.names == names
    assert data.test.targets.tolist() == ids
    assert load_split(([f"test {row}" for row in range(len(test))], test), data.labels).targets.tolist() == ids


def test_labels_that_are_spelled_otherwise_and_unknown_are_named():
    with pytest.raises(DataError, match=r"found '01' \(1 rows, first in row 2\), '2.0' \(1 rows, first in row 3\)"):
        load_split((["x", "y", "z"], ["1.0", "01", "2.0"]), Labels(("0", "1")))


def test_near_twins_are_warned_of_with_what_merges_them(caplog):
    data = load_data(rows_of(["pos", "Pos", "pos", "neg", "NEG\u200b"]))
    assert data.labels.num_labels == 4
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "data: labels that differ by case, white space or invisible characters alone: "
        "'pos' (20 rows), 'Pos' (10 rows); 'neg' (10 rows), 'NEG\\u200b' (10 rows); "
        r'to merge them: label_mapping={"Pos": "pos", "NEG\u200b": "neg"}'
    ]
