"""What an audit says of give-aways, outliers, balance and drift: planted ones are found, like splits are not apart."""

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers.corpora import FILM_WORDS
from nlptransfer.data import Data, Split, load_data
from nlptransfer.experiments.auditing.balance import find_imbalance
from nlptransfer.experiments.auditing.drift import find_drift
from nlptransfer.experiments.auditing.giveaways import find_giveaways
from nlptransfer.experiments.auditing.outliers import find_outliers
from nlptransfer.experiments.auditing.rows import AuditRows


def some(count: int, seed: int, words: list[str] = FILM_WORDS, labels: str = "ab") -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=12)) for _ in range(count)], [draw.choice(labels) for _ in range(count)]


def rows_of(**splits: tuple[list[str], list]) -> AuditRows:
    return AuditRows(load_data(splits, calibration_size=0.0), {}, None)


@pytest.fixture
def clean() -> AuditRows:
    return rows_of(train=some(400, 0), validation=some(100, 1), test=some(200, 2))


def test_nothing_is_said_of_clean_data(clean: AuditRows) -> None:
    for find in (find_giveaways, find_outliers, find_imbalance, find_drift):
        section = find(clean)
        assert section.findings == () and next(iter(section.frames)) == section.name


def test_giveaways(clean: AuditRows) -> None:
    train = clean.data.train
    texts = [text + " refund" * int(target == 1 and row % 3 == 0)
             for row, (text, target) in enumerate(zip(train.texts, train.targets, strict=True))]  # fmt: skip
    columns = {"train": {"desk": ["x" if target else "y" for target in train.targets]}}
    section = find_giveaways(
        replace(clean, data=replace(clean.data, train=replace(train, texts=texts)), others=columns)
    )
    frame = section.frames["giveaways"]
    assert frame["trait"].tolist()[0] == "the word 'refund'" and frame["label"].tolist()[0] == "b"
    assert section.findings[0].rows == sum("refund" in text for text in texts)
    assert "refund" in section.findings[0].example and "'b'" in section.findings[0].sentence
    (column,) = [one for one in section.findings if "desk" in one.sentence]
    assert "accuracy of 1.000" in column.sentence and "text_column" in column.advice


def test_outliers(clean: AuditRows) -> None:
    odd = {"train": ["Очень хороший фильм", "a <br/> film"], "validation": ["?!"], "test": ["..."]}
    splits = {
        name: Split([*split.texts, *odd[name]], np.append(split.targets, [0] * len(odd[name])))
        for name, split in clean.data.splits.items()
        if len(split)
    }
    section = find_outliers(replace(clean, data=replace(clean.data, **splits)))
    frame = section.frames["outliers"]
    assert frame["text"].tolist() == [*odd["train"], *odd["validation"]] and frame["drop"].tolist() == [
        True,
        False,
        True,
    ]
    assert frame["row"].tolist() == [401, 402, 101] and frame["split"].tolist() == ["train", "train", "validation"]
    advice = {one.sentence.split(":")[0]: one.advice for one in section.findings}
    assert 'normalization="web"' in advice["Remains of markup"] and "drop=outliers" in advice["Another script"]


def test_rare_labels_and_lengths() -> None:
    texts, labels = some(200, 0)
    labels[:4], labels[4:30] = ["c"] * 4, ["b"] * 26
    found = rows_of(train=(texts, ["a" if label == "b" and row > 30 else label for row, label in enumerate(labels)]),
                    validation=some(50, 1), test=some(50, 2, labels="abc"))  # fmt: skip
    section = find_imbalance(found)
    imbalance, few = section.findings
    assert "'c' 4" in imbalance.sentence and "macro F1" in imbalance.advice
    assert few.rows == 4 and 'label_mapping={"c": "..."}' in few.advice
    shares, lengths = section.frames["balance"], section.frames["lengths"]
    assert shares["label"][0] == "c" and shares["train"].sum() == 200 and shares["test_share"].sum() == pytest.approx(1)
    assert lengths["longest"][0] == max(map(len, found.data.train.texts))


def test_what_is_not_read_whole(clean: AuditRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AuditRows, "longest_read", 8)
    monkeypatch.setattr(AuditRows, "truncated", lambda self, split: {"train": 0.25}.get(split, 0.1))
    (found,) = find_imbalance(clean).findings
    assert found.rows == 100 and "more than 8 tokens" in found.sentence and 'long_text="windows"' in found.advice


def test_drift_of_all_kinds(clean: AuditRows) -> None:
    texts, _ = some(200, 3, [*FILM_WORDS, "refund", "parcel"])
    test = Split([f"{text} {text}" for text in texts], np.array([0] * 150 + [1] * 50))
    section = find_drift(replace(clean, data=replace(clean.data, test=test)))
    told, words, labels, lengths = section.findings
    facts = section.facts["test"]
    assert facts["accuracy"] > 0.7 > facts["chance"] and "accuracy of" in told.sentence
    assert facts["interval"][0] <= facts["accuracy"] <= facts["interval"][1]
    assert (
        "'refund'" in words.sentence
        and "'parcel'" in words.sentence
        and "refund" in section.frames["drift"]["word"].tolist()
    )
    assert "'a'" in labels.sentence and "longer" in lengths.sentence
    shares = section.frames["label_shares"].query("split == 'test'")
    counts = np.bincount(clean.data.train.targets)
    p = stats.chi2_contingency([[counts[0], 150], [counts[1], 50]]).pvalue
    assert shares["p_value"].tolist() == pytest.approx(multipletests([p, p], method="holm")[1].tolist())
    assert shares["share"].tolist() == [0.75, 0.25]


def test_splits_of_one_kind_seldom_drift() -> None:
    found = [find_drift(rows_of(train=some(200, seed), validation=some(60, seed + 50), test=some(100, seed + 99)))
             for seed in range(8)]  # fmt: skip
    assert sum(len(section.findings) for section in found) <= 1


def test_few_rows_and_several_labels() -> None:
    texts, labels = some(60, 0)
    several = [[label, "c"] if row % 4 == 0 else [label] for row, label in enumerate(labels)]
    found = rows_of(train=(texts, several), validation=some(10, 1), test=some(5, 2))
    assert [*find_drift(found).facts] == [] and find_drift(found).frames["drift"].empty
    assert find_imbalance(found).frames["balance"]["train"].sum() == 60 + 15
    nothing = found.data.train.take([])
    alone = replace(found, data=Data("alone", found.data.labels, found.data.train, found.data.train, nothing, nothing))
    assert find_outliers(alone).findings == () and find_giveaways(alone).findings == ()
