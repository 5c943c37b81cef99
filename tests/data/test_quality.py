"""What is said of data that makes scores less than they seem."""

import numpy as np
import pytest

from nlptransfer.data.dataset import Data, DataSettings, load_data
from nlptransfer.data.quality import data_warnings, percentage
from nlptransfer.data.terms import words_of

DROP = "nlptransfer audit DATA --clean-to FILE --drop"


def rows(labels: str, start: int = 0) -> tuple[list[str], list[str]]:
    return [f"text number {start + place}" for place in range(len(labels))], list(labels)


CLEAN = {"train": rows("ab" * 12), "validation": rows("ab" * 3, 1000), "test": rows("ab" * 5, 2000)}


def warnings_of(**splits: tuple[list[str], list]) -> list[str]:
    return data_warnings(load_data({**CLEAN, **splits}, DataSettings(calibration_size=0.0)))


def test_nothing_is_said_of_clean_data():
    assert warnings_of() == warnings_of(train=rows("a" * 90 + "b" * 10)) == []
    # What is split here keeps identical texts on one side.
    texts, labels = rows("ab" * 40)
    (said,) = data_warnings(load_data((texts * 2, [*labels, *labels])))
    assert (
        said == f"copies: 58 of the 116 training texts (50.0%) are copies of others: these count more; to leave one "
        f"of each: {DROP} copies"
    )


def test_a_leak_is_named_by_count_and_share():
    texts, labels = CLEAN["test"]
    leaked = [*CLEAN["train"][0], *texts[:3]], [*CLEAN["train"][1], *labels[:3]]
    (said,) = warnings_of(train=leaked)
    assert said == (
        "leak: 3 of the 10 test texts (30.0%) are in train too, case and punctuation aside: scores on them are too "
        f"good; to leave them out of train: {DROP} copies"
    )
    # Texts that differ in case, blanks and punctuation alone are alike.
    loud = [*CLEAN["train"][0], f" {texts[0].upper()}...  "], [*CLEAN["train"][1], labels[0]]
    (said,) = warnings_of(train=loud)
    assert said.startswith("leak: 1 of the 10 test texts (10.0%)")


def test_a_leak_into_validation_is_named():
    (said,) = warnings_of(**CLEAN | {"validation": CLEAN["test"]})
    assert said.startswith(
        "leak: 10 of the 10 test texts (100.0%) are in validation too, case and punctuation aside: ch"
    )
    (said,) = warnings_of(validation=(CLEAN["train"][0][:4], CLEAN["train"][1][:4]))
    assert said.startswith(
        "leak: 4 of the 4 validation texts (100.0%) are in train too, case and punctuation aside: choices"
    )


def test_conflicting_labels_of_one_text_are_counted():
    texts, labels = CLEAN["train"]
    said, repeated = warnings_of(train=([*texts, texts[0], texts[0].upper(), texts[1]], [*labels, "b", "a", "b"]))
    # Three rows of the first text; the second text has the same label twice.
    assert said.startswith("conflicting labels: 3 of the 43 rows (7.0%) are of texts that have different labels")
    assert said.endswith(f"(1 text); to leave them out: {DROP} conflicts")
    assert repeated.startswith("copies: 3 of the 27 training texts (11.1%) are copies of others")


def test_imbalance_and_labels_of_few_rows_are_named():
    (said,) = warnings_of(train=rows("a" * 120 + "b" * 12))
    assert said.startswith("imbalance: 'a' has 120 of the 132 training rows, 'b' 12: look at macro F1 and at the sco")
    *_, said = warnings_of(train=rows("a" * 20 + "b" * 12 + "cdefghi"))
    assert said.startswith(
        "few rows: fewer than 10 training rows of 'c' (1), 'd' (1), 'e' (1), 'f' (1), 'g' (1) and 2 m"
    )


def test_several_labels():
    texts, _ = rows("a" * 40)
    sets = [["x", "y"] if place % 2 else ["x"] for place in range(40)]
    sets[3], texts[5] = ["x", "z"], texts[3]
    test = ([texts[0], "other", "another"], [["x"], ["y"], ["x", "z"]])
    given = {"train": (texts, sets), "validation": rows("x" * 4, 1000), "test": test}
    given["validation"] = given["validation"][0], [["x"]] * 4
    found = data_warnings(load_data(given, DataSettings(calibration_size=0.0)))
    kinds = ["leak", "conflicting labels", "no row of validation judges", "imbalance", "few rows", "copies"]
    assert all(said.startswith(kind) for said, kind in zip(found, kinds, strict=True))
    assert found[0].startswith("leak: 1 of the 3 test texts") and "2 of the 47 rows" in found[1]
    assert found[3].startswith("imbalance: 'x' has 40 of the 40 training rows, 'z' 1")


def test_what_a_source_shares_with_test_is_a_leak():
    data = load_data(CLEAN, DataSettings(calibration_size=0.0))
    source = load_data((CLEAN["test"][0][:7] + CLEAN["train"][0], ["a"] * 6 + ["b"] * 25), DataSettings(test_size=0))
    (said,) = data_warnings(data, source)
    assert said.startswith("leak: ") and "in the source too, case and punctuation aside: scores on them are too" in said
    assert f"{len({*source.train.texts} & {*data.test.texts})} of the 10 test texts" in said and DROP not in said


def test_rows_of_test_that_belong_to_training_rows_are_a_leak():
    texts, labels = rows("ab" * 30)
    train = {"text": texts, "label": labels, "who": [*range(20)] * 3}
    test = {"text": ["x", "y", "z"], "label": ["a", "b", "a"], "who": [3, None, 99]}
    chosen = {"calibration_size": 0.0, "validation_size": 0.2}
    data = load_data({"train": train, "test": test}, group_column="who", **chosen)
    is_learned = 3 in {train["who"][number - 1] for number in data.train.numbers}
    found = [said for said in data_warnings(data) if said.startswith("leak")]
    shared = "leak: 1 of the 3 test rows (33.3%) are of values of 'who' that train has too: scores on them are too good"
    assert found == [f"{shared}; leave them out of one of both"] * is_learned
    draw = np.random.default_rng(0)
    longer = [" ".join(draw.choice([f"word{number}" for number in range(300)], 25)) for _ in range(60)]
    test = [f"{text} he said" for text in longer[:9]], [*labels[:9]]
    data = load_data({"train": (longer, labels), "test": test}, split_by="copies", **chosen)
    learned = sum(text.removesuffix(" he said") in data.train.texts for text in data.test.texts)
    (said,) = data_warnings(data)
    assert said.startswith(f"leak: {learned} of the 9 test rows") and "are near copies of training rows" in said


def drawn(seed: int, count: int, extra: float) -> tuple[list[str], list[str]]:
    """Texts of words as frequent as in a language; ``extra`` is the share of those that have one more."""
    draw = np.random.default_rng(seed)
    odds = 1 / np.arange(1, 2001)
    words = np.char.add("w", draw.choice(2000, (count, 12), p=odds / odds.sum()).astype(str))
    texts = map(" ".join, words.tolist())
    return [text + " refund" * (draw.random() < extra) for text in texts], ["ab"[row % 2] for row in range(count)]


def drift_of(train: tuple[list[str], list[str]], test: tuple[list[str], list[str]]) -> list[str]:
    return [said for said in data_warnings(load_data({"train": train, "test": test})) if said.startswith("drift")]


def test_words_that_tell_test_from_train_are_named():
    (said,) = drift_of(drawn(0, 800, 0.02), drawn(1, 400, 0.12))
    assert said.startswith("drift: 1 word is in another share of the test texts than of the training texts, beyond")
    assert "'refund' (1" in said and "% and " in said and "'w0'" not in said
    # The same text many times is one text.
    repeated = drawn(1, 400, 0.0)
    assert drift_of(drawn(0, 800, 0.0), (repeated[0] + ["Refund, please"] * 60, repeated[1] + ["a"] * 60)) == []


def test_chance_alone_is_no_drift():
    found = [drift_of(drawn(seed, 400, 0.05), drawn(seed + 100, 200, 0.05)) for seed in range(20)]
    assert sum(map(len, found)) <= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a GEM, a gem!", {"it", "s", "a", "gem"}),
        ("très bien", {"très", "bien"}),
        ("很好看 ok 好", {"很好", "好看", "ok", "好"}),
        ("买了iPhone很好", {"买了", "iphone", "很好"}),
        ("", set()),
    ],
)
def test_words_of_texts(text, words):
    assert words_of(text) == words


def test_nothing_but_what_reading_said_is_known_of_no_rows():
    data = load_data(CLEAN)
    none = data.train.take([])
    assert data_warnings(Data("none", data.labels, none, none, none, data.test, warnings=("said",))) == ["said"]


@pytest.mark.parametrize(
    ("count", "all_", "written"), [(0, 9, "0.0%"), (3, 10_001, "under 0.1%"), (1, 2000, "0.1%"), (1, 3, "33.3%")]
)
def test_a_share_of_some_rows_is_never_none(count, all_, written):
    assert percentage(count, all_) == written


def test_little_is_said_last():
    texts, labels = rows("a" * 180 + "b" * 15)
    tests = rows("ab" * 75, 3000)
    leaked = [*texts, tests[0][0]], [*labels, "a"]
    imbalance, leak = warnings_of(train=leaked, test=tests)
    assert imbalance.startswith("imbalance") and leak.startswith("leak: 1 of the 150 test texts (0.7%)")
