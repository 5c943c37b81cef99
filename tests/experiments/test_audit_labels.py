"""Label errors and overlaps that were planted are found, and what leaving rows out does is measured honestly."""

import json
import logging
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.corpora import TOPICS, text_of, topic_rows
from nlptransfer.data import Data, load_data
from nlptransfer.evaluation import Separability
from nlptransfer.experiments.auditing.label_errors import find_label_errors
from nlptransfer.experiments.auditing.overlaps import _groups, find_overlaps
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Section

Rows = tuple[list[str], list[Any]]


def with_targets(data: Data, targets: np.ndarray) -> Data:
    return replace(data, train=replace(data.train, targets=targets))


@pytest.fixture(scope="module")
def flipped() -> tuple[Data, np.ndarray, Section]:
    """Rows whose labels are wrong in a fifth of the training rows, which these are, and what is found."""
    data = load_data(topic_rows(500, random.Random(0)), test_size=0)
    wrong = np.random.default_rng(0).random(len(data.train)) < 0.2
    noisy = with_targets(data, np.where(wrong, 1 - data.train.targets, data.train.targets))
    return noisy, wrong, find_label_errors(AuditRows(noisy, {}, None))


def test_wrong_labels_are_named_with_what_they_should_be(flipped: tuple[Data, np.ndarray, Section]) -> None:
    data, wrong, section = flipped
    frame = section.frames["label_errors"]
    assert section.name == "label_errors" and [*section.frames] == ["label_errors", "label_confusions"]
    assert [*frame.columns[:4]] == ["split", "row", "text", "label"] and frame["drop"].dtype == bool
    named = np.isin(data.train.numbers, frame["row"][frame["drop"]])
    assert (named & wrong).sum() / named.sum() > 0.9 and (named & wrong).sum() / wrong.sum() > 0.7
    assert [*frame["rank"]] == [*range(1, len(frame) + 1)] and frame["margin"].is_monotonic_increasing
    assert (frame["suggested"] != frame["label"]).all() and (frame["margin"] < 0).all()
    np.testing.assert_allclose(frame["probability"] + frame["suggested_probability"], 1, atol=1e-5)
    for number, label in frame[["row", "label"]].itertuples(index=False):
        place = int(np.flatnonzero(data.train.numbers == number)[0])
        assert data.labels.names[data.train.targets[place]] == label


def test_what_leaving_them_out_does_is_measured_on_rows_that_were_not_looked_at(
    flipped: tuple[Data, np.ndarray, Section],
) -> None:
    data, _, section = flipped
    effect, (finding,) = section.facts["without_them"], section.findings
    assert effect["rows"] == len(data.validation) + len(data.calibration) and effect["metric"] == "accuracy"
    assert effect["difference"] == pytest.approx(effect["score"] - effect["score_of_all"])
    low, high = effect["interval"]
    assert low <= effect["difference"] <= high and effect["score"] > 0.85
    assert finding.kind == "label_errors" and finding.rows == section.frames["label_errors"]["drop"].sum()
    assert f"{effect['score']:.3f} instead of {effect['score_of_all']:.3f}" in finding.sentence
    assert ("drop=label_errors" in finding.advice) == (low > 0)
    confusions = section.frames["label_confusions"]
    assert set(confusions["label"]) == {"good", "bad"} and confusions["estimated"].sum() == pytest.approx(80, abs=30)
    json.dumps(section.facts)


def test_rows_that_do_not_lie_are_not_to_be_left_out() -> None:
    """Where labels are drawn, half of them are doubted, and no score gains by it."""
    data = load_data(topic_rows(400, random.Random(1)), test_size=0)
    drawn = np.random.default_rng(1).integers(2, size=len(data.train))
    section = find_label_errors(AuditRows(with_targets(data, drawn), {}, None))
    assert all("drop=label_errors" not in finding.advice for finding in section.findings)


def test_labels_of_few_texts_are_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    data = load_data(topic_rows(200, random.Random(2)), test_size=0)
    targets = data.train.targets.copy()
    targets[:4] = 2
    rare = replace(with_targets(data, targets), labels=replace(data.labels, names=(*data.labels.names, "rare")))
    with caplog.at_level(logging.INFO):
        section = find_label_errors(AuditRows(rare, {}, None))
    assert "as too few rows have them: rare" in caplog.text
    frame = section.frames["label_errors"]
    assert section.facts["judged_rows"] == len(data.train) - 4
    assert "rare" not in {*frame["label"], *frame["suggested"]}


def test_of_several_labels_each_is_doubted_by_itself() -> None:
    draw = random.Random(3)
    labels = [[topic for topic in TOPICS[2:] if draw.random() < 0.4] for _ in range(600)]
    data = load_data(([text_of(draw, topics) for topics in labels], labels), test_size=0)
    assert data.labels.multi_label
    wrong = np.random.default_rng(3).random(data.train.targets.shape) < 0.08
    section = find_label_errors(AuditRows(with_targets(data, np.abs(data.train.targets - wrong)), {}, None))
    frame = section.frames["label_errors"]
    named = np.isin(data.train.numbers, frame["row"][frame["drop"]])
    assert wrong.any(axis=1)[named].mean() > 0.75 and named[wrong.any(axis=1)].mean() > 0.6
    # What is suggested is nearer to the truth than what was given.
    truth = dict(zip(data.train.numbers.tolist(), data.labels.decode(data.train.targets), strict=True))
    sets = [(truth[row], *map(lambda one: [*filter(None, one.split(", "))], both)) for row, *both in
            frame[frame["drop"]][["row", "label", "suggested"]].itertuples(index=False)]  # fmt: skip
    errors = np.array([[len({*true} ^ {*one}) for one in (given, suggested)] for true, given, suggested in sets])
    assert errors[:, 1].sum() < errors[:, 0].sum() / 2
    confusions = section.frames["label_confusions"]
    assert all((one == f"without {other}") != (other == f"without {one}") for one, other in
               confusions[["label", "suggested"]].itertuples(index=False))  # fmt: skip


def test_one_label_with_two_names_overlaps_and_no_other() -> None:
    texts, topics = topic_rows(600, random.Random(4))
    draw = random.Random(5)
    labels = [draw.choice(["bad", "poor", "poor"]) if topic == "bad" else topic for topic in topics]
    section = find_overlaps(AuditRows(load_data((texts, labels), test_size=0), {}, None))
    (finding,) = section.findings
    assert "'poor' and 'bad' are not separated" in finding.sentence and finding.kind == "overlaps"
    assert 'label_mapping={"bad": "poor"}' in finding.advice
    frame = section.frames["overlaps"].set_index(["label", "other"])
    assert [*frame["overlap"]] == [True, False, False] and frame["separation"].iloc[0] < 0.65
    assert section.facts == {"pairs": 3, "tested": 3}


def test_three_names_become_one(tickets: Rows) -> None:
    texts, topics = topic_rows(900, random.Random(6))
    draw = random.Random(8)
    labels = [draw.choice(["x", "y", "z", "z"]) if topic == "bad" else topic for topic in topics]
    (finding,) = find_overlaps(AuditRows(load_data((texts, labels), test_size=0), {}, None)).findings
    assert 'label_mapping={"x": "z", "y": "z"}' in finding.advice.replace(
        '{"y": "z", "x": "z"}', '{"x": "z", "y": "z"}'
    )
    assert find_overlaps(AuditRows(load_data(tickets), {}, None)).findings == ()


def test_labels_are_merged_only_where_all_of_their_pairs_overlap() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2], [1, 3], [3, 4]])
    p_values = np.array([0.9, 0.9, 0.9, 0.9, 0.01])
    found = Separability(pairs, np.full((5, 2), 100), np.array([0.5, 0.52, 0.53, 0.51, 0.9]), p_values)
    assert [sorted(group) for group in _groups(found)] == [[0, 1, 2]]
    apart = replace(found, p_values=np.array([0.9, 0.01, 0.9, 0.01, 0.9]))
    assert [sorted(group) for group in _groups(apart)] == [[0, 1], [3, 4]]


def test_labels_that_heads_hardly_know_are_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    """Of several labels one has nothing to do with the texts."""
    draw = random.Random(9)
    told = [[topic for topic in TOPICS[2:] if draw.random() < 0.4] for _ in range(400)]
    labels = [[*topics, *["drawn"] * (draw.random() < 0.1)] for topics in told]
    data = load_data(([text_of(draw, topics) for topics in told], labels), test_size=0)
    with caplog.at_level(logging.INFO):
        section = find_label_errors(AuditRows(data, {}, None))
    assert "as too few rows have them: drawn" in caplog.text
    assert not any("drawn" in label for label in section.frames["label_confusions"]["suggested"])


@pytest.mark.parametrize("several", [False, True])
def test_where_heads_know_no_label_nothing_is_found(several: bool) -> None:
    texts, _ = topic_rows(40, random.Random(10))
    draw = random.Random(11)
    labels = [[draw.choice("ab")] * (draw.random() < 0.2) for _ in texts] if several else [*"abcdefghij"] * 4
    section = find_label_errors(AuditRows(load_data((texts, labels), test_size=0), {}, None))
    assert section.findings == () and all(len(frame) == 0 for frame in section.frames.values())
    assert section.facts == {"judged_rows": 0} and "drop" in section.frames["label_errors"]
