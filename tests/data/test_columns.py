"""Which column holds what: by name, by content, by the settings; and what is said where several could be meant."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptransfer.data.columns import JOINT, Columns, clean_text, find_columns, groups_of, texts_of, weights_of
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError

ROWS = 12
REMARKS = [f"The lid of pot {row} broke after a day" for row in range(ROWS)]
EXPORT = {
    "id": [*range(ROWS)],
    "created": [f"2024-01-{row + 1:02}" for row in range(ROWS)],
    "title": [f"Broken lid {row} again" for row in range(ROWS)],
    "feedback": REMARKS,
    "category": ["pots", "pans"] * 6,
    "rating": [1, 2, 3, 4] * 3,
    "sentiment": ["pos", "neg"] * 6,
}


def table(**columns):
    return Table("f.csv", columns)


def row(**values):
    return table(**{name: [value] for name, value in values.items()})


@pytest.mark.parametrize(
    ("of", "text", "label"),
    [
        (row(text="a", label="b"), "text", "label"),
        (row(Label=1, Sentence="a", id=3), "Sentence", "Label"),
        (row(text="a", title="t", labels=["b"]), "text", "labels"),
        (row(review="a", label=1, category="books"), "review", "label"),
        (row(title="t", content="a", class_=1, target=2), "content", "target"),
        (row(utterance="a", outcome="b"), "utterance", "outcome"),
        (row(words="a", score=1), "words", "score"),
        (row(words="a", label="b"), "words", "label"),
        (row(words="some", number="3"), "words", "number"),
        (table(title=[f"Lid {row}" for row in range(ROWS)], said=REMARKS, stars=[1, 2, 3, 4] * 3), "said", "stars"),
        (table(when=EXPORT["created"], note=REMARKS, kind=EXPORT["category"]), "note", "kind"),
        (table(note=REMARKS, kind=EXPORT["category"], day=["2024-01-01", "2024-01-02"] * 6), "note", "kind"),
        (table(note=REMARKS, kind=EXPORT["category"], price=[0.1 * row for row in range(ROWS)]), "note", "kind"),
        (table(sent=["这个锅盖一天就坏了。", "很好用，推荐购买。"] * 6, 类=["差", "好"] * 6), "sent", "类"),
        (table(text=REMARKS, cats=[{"pos": 1, "neg": 0}, {"pos": 0, "neg": 1}] * 6), "text", "cats"),
        (
            table(data=[{"text": text} for text in REMARKS], annotations=[[{"label": "a"}], [{"label": "b"}]] * 6),
            "data.text",
            "annotations.label",
        ),
    ],
)  # fmt: skip
def test_columns_are_found(of, text, label):
    assert find_columns(of) == Columns((text,), (label,))
    assert find_columns(of, needs_label=False) == Columns((text,))


def test_columns_of_the_settings():
    of = row(text="a", other="b", label=1, aspect=2, data={"text": "c"}, **{"a,b": "d", "x.y": "e"})
    assert find_columns(of, "other", "aspect") == Columns(("other",), ("aspect",))
    assert find_columns(of, ["text", "other"], "label", "aspect") == Columns(("text", "other"), ("label",), "aspect")
    assert find_columns(of, "text, data.text", "label") == Columns(("text", "data.text"), ("label",))
    assert find_columns(of, "a,b", "label,aspect") == Columns(("a,b",), ("label", "aspect"))
    assert find_columns(of, "x.y", "label") == Columns(("x.y",), ("label",))
    assert find_columns(row(text="a", other="b"), label_column="text") == Columns(("other",), ("text",))


def test_known_columns_are_taken_where_all_are_there():
    of = table(text=REMARKS, title=REMARKS, label=EXPORT["category"])
    assert find_columns(of, known=["title", "text"]).text == ("title", "text")
    assert find_columns(of, known=["title", "gone"]).text == ("text",)
    assert find_columns(of, "text", known=["title"]).text == ("text",)


@pytest.mark.parametrize(
    ("of", "settings", "message"),
    [
        (row(a="x", b=1), ("c", None), r"f.csv: expected the column 'c' \(text_column\), found only 'a', 'b'; set te"),
        (row(a="x", b=1), (None, "c"), r"expected the column 'c' \(label_column\), found only 'a', 'b'; set label_col"),
        (row(a="x", b=1), ("a", "b", "c"), r"expected the column 'c' \(weight_column\)"),
        (row(a="x", b=1), ("a", "b", None, "c"), r"expected the column 'c' \(group_column\), found only 'a', 'b'; set"),
        (row(a="x", b=1), ("a,c",), r"expected the column 'c' \(text_column\)"),
        (row(a="x", b="y"), (), r"several that could be it: 'a' \(as 'x', 1 distinct\), 'b' .*; set text_column=a, or"),
        (row(a=1, b=2), (), r"expected one text column, found none among the columns 'a' \(as '1', 1 distinct\), 'b'"),
        (row(label="pos"), (), "expected one text column, found none among the columns 'label'"),
        (row(text="x"), (), r"expected one label column, found none among the columns 'text' .*; set label_column"),
        (row(text="x", a=1, b=0), (), r"that could be it: 'a' .*'b' .*; set label_column=a, or label_column=a,b for"),
        (row(text="x", a=1, b=3), (), r"expected one label column, found several .*; set label_column=a$"),
        (row(text="x", label=1, labels=2), (), r"several that could be it: 'label' .*, 'labels'"),
        (row(sentence="x", review="y", label=1), (), r"several that could be it: 'sentence' .*, 'review'"),
        (row(text="x", label=1), ("text", "text"), "found 'text' set as both"),
        (table(**EXPORT), (), r"several that could be it: 'title' \(as 'Broken lid 0 again', 12 .*, 'feedback' \(as"),
        (table(**EXPORT), ("feedback",), r"several .* 'category' \(as 'pots', 2 distinct\), 'sentiment' .*set label"),
    ],
)  # fmt: skip
def test_columns_that_are_not_found(of, settings, message):
    with pytest.raises(DataError, match=message):
        find_columns(of, *settings)


def test_the_choice_is_said_and_so_is_what_is_not_used(caplog):
    of = table(
        text=REMARKS,
        label=EXPORT["category"],
        text_pair=REMARKS,
        weight=[1] * ROWS,
        sentiment=EXPORT["sentiment"],
        title=["x"] * ROWS,
    )
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        find_columns(of)
        find_columns(of, ["text", "text_pair"], "label,sentiment", "weight", "title")
    assert [record.getMessage() for record in caplog.records] == [
        f"f.csv: texts from column 'text' (as '{REMARKS[0]}', 12 distinct); labels from column 'label' (as 'pots', 2 "
        "distinct); not used: 'text_pair' (text_column), 'weight' (weight_column), 'sentiment' (label_column)",
        f"f.csv: texts from columns 'text' (as '{REMARKS[0]}', 12 distinct), 'text_pair' (as '{REMARKS[0]}', 12 "
        "distinct); labels from columns 'label' (as 'pots', 2 distinct), 'sentiment' (as 'pos', 2 distinct); weights "
        "from column 'weight'; rows of one value of 'title' stay on one side of the splits",
    ]


# Texts and weights


def test_what_rows_belong_to():
    names = groups_of(table(who=["b", None, " 7 ", 7.0, "", float("nan"), "cafe\u0301"]), "who")
    assert names == ["b", None, "7", "7", None, None, "café"]
    # It is neither text nor label where these are found by what they hold.
    found = find_columns(table(who=["Ann Lee Smith", "Bob"] * 6, said=REMARKS, mood=[1, 2] * 6), group_column="who")
    assert found == Columns(("said",), ("mood",), None, "who") and found.as_settings()["group_column"] == "who"


def test_several_columns_make_one_text():
    of = table(title=["a", None, " ", None], body=["b", "c", "d", None])
    assert texts_of(of, ["title", "body"]) == [f"a{JOINT}b", "c", "d", ""]
    assert texts_of(of, ["body"]) == ["b", "c", "d", ""]


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_clean_text_is_idempotent(text):
    assert clean_text(clean_text(text, ""), "") == clean_text(text, "")
    assert texts_of(table(text=[text]), ["text"]) == [clean_text(text, "")]


def test_missing_texts_are_empty():
    assert texts_of(table(text=[None, float("nan"), "cafe\u0301"]), ["text"]) == ["", "", "café"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"f.csv, column 'text', row 2: expected text, found int 3; make the column plain strings, or name another"),
        (["a"], "expected text, found list"),
        (b"a", "expected text, found bytes"),
        ("a\ud83d", "expected Unicode text, found half a surrogate pair"),
    ],
)
def test_values_that_are_no_text(value, message):
    with pytest.raises(DataError, match=message):
        texts_of(table(text=["fine", value]), ["text"])


def test_weights():
    weights = weights_of(table(w=["0", 1, 2.5]), "w")
    assert weights.dtype == np.float32 and weights.tolist() == [0, 1, 2.5]


@pytest.mark.parametrize("value", ["much", None, -1, float("nan"), float("inf"), "", []])
def test_weights_that_are_none(value):
    with pytest.raises(DataError, match=r"f.csv, row 2, column 'w' \(weight_column\): expected a number from 0, found"):
        weights_of(table(w=[1, value]), "w")


def test_weights_that_are_all_zero():
    with pytest.raises(DataError, match="expected a weight above 0, found none"):
        weights_of(table(w=[0, 0]), "w")
