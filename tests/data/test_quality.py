"""What is said of data that makes scores less than they seem."""

from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.data.quality import data_warnings


def rows(labels: str, start: int = 0) -> tuple[list[str], list[str]]:
    return [f"text number {start + place}" for place in range(len(labels))], list(labels)


CLEAN = {"train": rows("ab" * 12), "validation": rows("ab" * 3, 1000), "test": rows("ab" * 5, 2000)}


def warnings_of(**splits: tuple[list[str], list]) -> list[str]:
    return data_warnings(load_data({**CLEAN, **splits}, DataSettings(calibration_size=0.0)))


def test_nothing_is_said_of_clean_data():
    assert warnings_of() == warnings_of(train=rows("a" * 90 + "b" * 10)) == []
    # What is split here keeps identical texts on one side.
    texts, labels = rows("ab" * 40)
    assert data_warnings(load_data((texts * 2, labels * 2))) == []


def test_a_leak_is_named_by_count_and_share():
    texts, labels = CLEAN["test"]
    leaked = [*CLEAN["train"][0], *texts[:3]], [*CLEAN["train"][1], *labels[:3]]
    (said,) = warnings_of(train=leaked)
    assert said == "leak: 3 of the 10 test texts (30.0%) are in train too: scores on them are too good"
    # Texts that differ in case and blanks alone are alike.
    loud = [*CLEAN["train"][0], f" {texts[0].upper()}  "], [*CLEAN["train"][1], labels[0]]
    (said,) = warnings_of(train=loud)
    assert said.startswith("leak: 1 of the 10 test texts (10.0%)")


def test_a_leak_into_validation_is_named():
    (said,) = warnings_of(**CLEAN | {"validation": CLEAN["test"]})
    assert said == "leak: 10 of the 10 test texts (100.0%) are in validation too: choices have seen them"
    (said,) = warnings_of(validation=(CLEAN["train"][0][:4], CLEAN["train"][1][:4]))
    assert said.startswith("leak: 4 of the 4 validation texts (100.0%) are in train too: choices")


def test_conflicting_labels_of_one_text_are_counted():
    texts, labels = CLEAN["train"]
    (said,) = warnings_of(train=([*texts, texts[0], texts[0].upper(), texts[1]], [*labels, "b", "a", "b"]))
    # Three rows of the first text; the second text has the same label twice.
    assert said.startswith("conflicting labels: 3 of the 43 rows (7.0%) are of texts that have different labels")
    assert said.endswith("(1 text)")


def test_imbalance_and_labels_of_few_rows_are_named():
    (said,) = warnings_of(train=rows("a" * 120 + "b" * 12))
    assert said.startswith("imbalance: 'a' has 120 of the 132 training rows, 'b' 12: look at macro F1 and at the sco")
    *_, said = warnings_of(train=rows("a" * 20 + "b" * 12 + "cdefghi"))
    assert said == "few rows: fewer than 10 training rows of 'c' (1), 'd' (1), 'e' (1), 'f' (1), 'g' (1) and 2 more"


def test_several_labels():
    texts, _ = rows("a" * 40)
    sets = [["x", "y"] if place % 2 else ["x"] for place in range(40)]
    sets[3], texts[5] = ["x", "z"], texts[3]
    test = ([texts[0], "other", "another"], [["x"], ["y"], ["x", "z"]])
    given = {"train": (texts, sets), "validation": rows("x" * 4, 1000), "test": test}
    given["validation"] = given["validation"][0], [["x"]] * 4
    found = data_warnings(load_data(given, DataSettings(calibration_size=0.0)))
    assert [said.split(":")[0] for said in found] == ["leak", "conflicting labels", "imbalance", "few rows"]
    assert found[0].startswith("leak: 1 of the 3 test texts") and "2 of the 47 rows" in found[1]
    assert found[2].startswith("imbalance: 'x' has 40 of the 40 training rows, 'z' 1")
