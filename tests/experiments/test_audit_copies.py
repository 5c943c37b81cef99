"""Copies, paraphrases and conflicts that were planted: what is said of them, and which rows can be left out."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.corpora import TOPIC_WORDS, topic_rows
from nlptransfer.data import load_data
from nlptransfer.evaluation import predicted, score_predictions
from nlptransfer.experiments.auditing import copies as module
from nlptransfer.experiments.auditing.copies import PAIR, find_conflicts, find_copies
from nlptransfer.experiments.auditing.rows import AuditRows

ROW = ["split", "row", "text", "label"]


def splits(seed: int = 0) -> dict[str, tuple[list[str], list[str]]]:
    sizes = {"train": 60, "validation": 20, "test": 40}
    return {name: topic_rows(size, random.Random(seed + size)) for name, size in sizes.items()}


def audited(source: dict[str, tuple[list[str], list[str]]]) -> AuditRows:
    return AuditRows(load_data(source, calibration_size=0.0), {}, None)


@pytest.fixture(scope="module")
def leaky() -> AuditRows:
    """Four test rows that train has, one that validation has, one of validation that train has, one twice in train."""
    source = splits()
    (train, labels), (validation, _), (test, _) = (source[name] for name in ("train", "validation", "test"))
    test[0], test[1], test[2] = train[0], train[1].upper(), train[2].replace(" ", " - ")
    test[3] = f"{train[3]} another"
    test[4] = validation[4]
    validation[5] = train[5]
    train.append(f"{train[6]} !")
    labels.append(labels[6])
    return audited(source)


def test_copies_are_named_by_split_and_kind_with_what_they_do_to_the_score(leaky: AuditRows) -> None:
    section = find_copies(leaky)
    test, validation, train = section.findings
    assert [finding.kind for finding in section.findings] == ["copies"] * 3
    assert [finding.rows for finding in section.findings] == [5, 1, 1]
    said, figures = test.sentence.split(": ")
    assert said == (
        "5 of 40 test rows (12.5%) repeat rows of train, validation or calibration (2 exactly, 2 but for case, spaces "
        "and punctuation, 1 but for some words)"
    )
    assert validation.sentence.startswith("1 of 20 validation rows (5.0%) repeat training rows (1 exactly): choices")
    assert train.sentence.startswith("1 of 61 training rows (1.6%) repeat earlier ones (1 but for case")
    assert test.advice == "Leave out what is in test too: drop=copies." and "drop=copies" in train.advice
    # What is shown is the one whose words differ.
    assert "another" in test.example and test.example.startswith("test 4 (") and " repeats train 4 (" in test.example

    guesses, labels = predicted(leaky.probabilities("test"), leaky.data.labels), leaky.data.labels
    p, targets, scores = leaky.probabilities("test"), leaky.data.test.targets, section.facts["score"]
    for side, rows in (("all", slice(None)), ("without", slice(5, None)), ("alone", slice(5))):
        expected = score_predictions(targets[rows], p[rows], labels)
        assert scores[side]["score"] == pytest.approx(expected["accuracy"]) == (guesses == targets)[rows].mean()
        assert scores[side]["interval"] == pytest.approx(expected["accuracy_interval"], abs=0.05)
        assert side == "alone" or f"{scores[side]['score']:.3f} (" in figures
    # Of five rows a score says nothing.
    assert "without these rows" in figures and "alone" not in figures


def test_all_rows_but_one_of_a_group_are_to_be_left_out_and_none_of_test(leaky: AuditRows) -> None:
    frame = find_copies(leaky).frames["copies"]
    assert [*frame.columns] == [*ROW, "kind", "similarity", "copy_of", "group", "drop"]
    assert frame["drop"].dtype == bool and len(frame) == 14 and frame["group"].nunique() == 7
    dropped = {(row.split, row.row) for row in frame[frame["drop"]].itertuples()}
    assert dropped == {*(("train", number) for number in (1, 2, 3, 4, 61)), ("validation", 5), ("validation", 6)}
    test = frame[frame["split"] == "test"].set_index("row")
    assert test["copy_of"].to_dict() == {**{row: f"train {row}" for row in (1, 2, 3, 4)}, 5: "validation 5"}
    assert test["kind"].tolist() == ["exact", "folded", "folded", "near", "exact"]
    assert (test["similarity"][[1, 2, 3, 5]] == 1).all() and 0.8 < test["similarity"][4] < 1
    firsts = frame[frame["kind"] == ""]
    assert len(firsts) == 7 and (firsts["copy_of"] == "").all()
    # Those that test has come first.
    assert frame["group"].is_monotonic_increasing and set(frame["group"][frame["split"] == "test"]) == {1, 2, 3, 4, 5}


def test_the_row_that_stays_has_the_label_of_most() -> None:
    source = splits()
    texts, labels = source["train"]
    source["train"] = ([texts[0], *texts, texts[0]], ["bad", *labels, "good"])
    assert labels[0] == "good"
    frame = find_copies(audited(source)).frames["copies"]
    assert frame[["row", "drop"]].to_numpy().tolist() == [[1, True], [2, False], [62, True]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 2)), max_size=30))
def test_the_majority_is_the_first_row_with_the_most_frequent_label(rows: list[tuple[int, int]]) -> None:
    groups, labels = np.array(rows, np.int64).reshape(-1, 2).T
    expected = []
    for group in sorted({group for group, _ in rows} - {-1}):
        of_group = [label for one, label in rows if one == group]
        most = max(map(of_group.count, of_group))
        expected.append(
            next(at for at, (one, label) in enumerate(rows) if one == group and of_group.count(label) == most)
        )
    assert module._majority(groups, labels).tolist() == expected


def test_splits_that_were_made_here_are_to_be_made_anew() -> None:
    texts, labels = topic_rows(80, random.Random(0))
    near = [f"{text} another" for text in texts]
    found = find_copies(AuditRows(load_data((texts + near, labels * 2)), {}, None)).findings
    assert found[0].advice == 'Keep copies on one side of the splits: split_by="copies".'
    kept = find_copies(AuditRows(load_data((texts + near, labels * 2), split_by="copies"), {}, None))
    assert len(kept.findings) == 1 and "training rows" in kept.findings[0].sentence


def test_nothing_is_said_of_texts_that_differ() -> None:
    section = find_copies(audited(splits()))
    assert section.findings == () and "score" not in section.facts and not any(map(len, section.frames.values()))
    assert [*section.frames] == ["copies", "paraphrases", "alike"]
    assert [*section.frames["paraphrases"].columns] == [*section.frames["alike"].columns] == PAIR
    assert [*section.frames["copies"].columns[:4]] == ROW
    conflicts = find_conflicts(audited(splits()))
    assert conflicts.findings == () and not len(conflicts.frames["conflicts"])


def test_short_texts_that_are_alike_are_listed_and_no_copies() -> None:
    source = splits()
    source["train"][0][:2] = ["what is the capital of Yugoslavia", "what is the capital of Zimbabwe"]
    section = find_copies(audited(source))
    assert section.findings == () and section.facts["alike"] == 1
    (pair,) = section.frames["alike"].to_dict("records")
    assert (pair["split"], pair["row"], pair["other_split"], pair["other_row"]) == ("train", 2, "train", 1)
    assert "Zimbabwe" in pair["text"] and "Yugoslavia" in pair["other_text"] and 0.6 < pair["similarity"] < 0.9


def with_features(source: dict[str, tuple[list[str], list[str]]], same: list[tuple[int, int]]) -> AuditRows:
    """Rows of an encoder that has the same in pairs of test and training rows, but for a little."""
    rows, draw = replace(audited(source), base="an encoder"), np.random.default_rng(0)
    # What all features have in common says nothing.
    features = {name: draw.standard_normal((len(split), 300)) + 5 for name, split in rows.data.splits.items()}
    for test, train in same:
        features["test"][test] = features["train"][train] + 0.2 * draw.standard_normal(300)
    features["train"][9] = features["train"][8]
    rows._features.update({name: values.astype(np.float16) for name, values in features.items()})
    return rows


def test_texts_that_say_the_same_in_other_words_are_told_apart_from_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    source = splits()
    source["test"][0][3] = source["train"][0][3]
    rows = with_features(source, [(3, 3), (5, 7)])
    section = find_copies(rows)
    leak, paraphrases = section.findings
    assert leak.kind == "copies" and leak.rows == 1 and paraphrases.kind == "paraphrases" and paraphrases.rows == 2
    assert paraphrases.sentence == (
        "1 of 40 test rows that were looked at say what a training row says and 1 pair of training rows say the same "
        "in other words (cosine of their features from 0.85)"
    )
    frame = section.frames["paraphrases"]
    assert frame[["split", "row", "other_split", "other_row"]].to_numpy().tolist() == [
        ["train", 10, "train", 9],
        ["test", 6, "train", 8],
    ]
    assert frame["similarity"][0] == pytest.approx(1, abs=1e-3) and 0.9 < frame["similarity"][1] < 1
    assert "drop" not in frame and section.facts["same_meaning_from"] == 0.85
    # Of texts that are markup to a good part features say little.
    source["test"][0][5] += '&lt;a href="https://example.org/quotes/ticker"&gt;'
    marked = find_copies(with_features(source, [(3, 3), (5, 7)]))
    assert [*marked.frames["paraphrases"]["row"]] == [10] and marked.facts["left_out_as_markup"] == 1
    # Where there are too many pairs, some rows are looked at: of test each second one, so not the sixth.
    monkeypatch.setattr(module, "COMPARED", 20 * 60)
    section = find_copies(with_features(splits(), [(5, 7)]))
    assert section.facts["compared"] == {"test": 20, "train": 20}
    assert [*section.frames["paraphrases"]["row"]] == [10]


def test_conflicts_are_listed_with_the_share_of_each_label() -> None:
    source = splits()
    texts, labels = source["train"]
    # Three against one, one against one, and one in validation; what test says is not looked at.
    source["train"] = (
        [*texts, texts[0].upper(), texts[0], texts[0], texts[1]],
        [*labels, "good", "good", "bad", "good"],
    )
    source["validation"][0][2], source["validation"][1][2] = f"{texts[4]}!", "bad"
    source["test"][0][0], source["test"][1][0] = texts[10], "bad"
    section = find_conflicts(audited(source))
    (finding,) = section.findings
    assert finding.kind == "conflicts" and finding.rows == 8 and "drop=conflicts" in finding.advice
    assert finding.sentence == ("3 texts have different labels in different rows: 8 of 84 rows outside of test (9.5%)")
    assert finding.example.endswith("'good' (3), 'bad' (1)")
    frame = section.frames["conflicts"]
    assert [*frame.columns] == [*ROW, "group", "share", "drop"] and frame["drop"].dtype == bool
    assert frame[["split", "row", "label", "share", "drop"]].to_numpy().tolist() == [
        ["train", 1, "good", 0.75, False],
        ["train", 61, "good", 0.75, False],
        ["train", 62, "good", 0.75, False],
        ["train", 63, "bad", 0.25, True],
        ["train", 2, "bad", 0.5, True],
        ["train", 64, "good", 0.5, True],
        ["train", 5, "good", 0.5, True],
        ["validation", 3, "bad", 0.5, True],
    ]


def test_sets_of_labels_conflict_where_they_differ() -> None:
    words = [*TOPIC_WORDS["good"][:8], *TOPIC_WORDS["bad"][:8]]
    texts = [f"{one} {other} word" for one in words for other in words if one < other]
    labels = [["good"] * (place % 2) + ["bad"] * (place % 3 == 0) for place in range(len(texts))]
    texts += [texts[1].upper(), texts[1], texts[6]]
    labels += [["good"], ["good", "bad"], labels[6]]
    data = load_data({"train": (texts, labels), "test": (texts[:6], labels[:6])}, calibration_size=0.0)
    rows = AuditRows(data, {}, None)
    frame = find_conflicts(rows).frames["conflicts"]
    assert sorted(frame["label"]) in (["bad, good", "good", "good"], ["good", "good", "good, bad"])
    assert frame["drop"].sum() == 1 and frame[frame["drop"]]["share"].tolist() == [pytest.approx(1 / 3)]
    (test, *_) = find_copies(rows).findings
    assert test.rows == 6 and "f1_micro of a head" in test.sentence and "without these rows" not in test.sentence
