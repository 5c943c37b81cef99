"""Classifier: predictions of every kind of input, scores, and folders that are written and read."""

import io
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from helpers.folders import MODEL_FILES
from helpers.runs import finetune
from nlptransfer import Classifier, Prediction, RunResult
from nlptransfer.classifier.classifier import CHUNK
from nlptransfer.data import DataSettings
from nlptransfer.errors import DataError, RunFolderError, SettingError
from nlptransfer.evaluation.calibration import coverage_curve
from nlptransfer.results import to_record

TEXTS = ["wordaa goodae goodaf wordab", "wordac badae badaf", "", "words that no vector knows"]


@pytest.fixture(scope="module", params=["linear", "mlp", "cnn"])
def run(request, remarks_folder, vectors_file, tmp_path_factory) -> RunResult:
    settings = {"num_filters": 8, "mlp_sizes": (16,), "num_train_epochs": 4, "learning_rate": 0.02}
    folder = tmp_path_factory.mktemp("run")
    return finetune(remarks_folder, base=vectors_file, output_dir=folder, head_type=request.param, **settings)


@pytest.fixture(scope="module")
def one_run(remarks, vectors_file, tmp_path_factory) -> RunResult:
    folder = tmp_path_factory.mktemp("run")
    return finetune(remarks, base=vectors_file, head_type="linear", output_dir=folder, calibration_size=0.2)


@pytest.fixture(scope="module")
def one(one_run) -> Classifier:
    return one_run.classifier


@pytest.fixture(scope="module")
def several(tickets_file, vectors_file, tmp_path_factory) -> Classifier:
    return finetune(
        tickets_file, base=vectors_file, head_type="linear", output_dir=tmp_path_factory.mktemp("run")
    ).classifier


# Predicting


def test_predictions_say_what_they_know(one):
    found = one.predict(TEXTS)
    assert [each.text for each in found] == TEXTS
    assert [each.label for each in found[:2]] == ["positive", "negative"]
    for each in found:
        assert set(each.probabilities) == {"negative", "positive"}
        assert sum(each.probabilities.values()) == pytest.approx(1)
    for each in (found[0], found[1], found[3]):
        assert each.labels == (each.label,) and each.scores == (each.score,)
        assert each.score == max(each.probabilities.values())
    # Neither of them has a word that the model knows, and one has no word.
    assert found[2].probabilities == pytest.approx(found[3].probabilities)
    assert (found[2].abstained, found[2].labels, found[2].scores) == (True, (), ())


def test_probabilities_are_a_dict_that_is_made_when_it_is_looked_at(one):
    (found,) = one.predict(TEXTS[:1])
    for same in (pickle.loads(pickle.dumps(found)), replace(found, text=TEXTS[0]), deepcopy(found)):
        assert same == found and repr(same) == repr(found)
    (found,) = one.predict(TEXTS[:1])
    assert isinstance(vars(found)["probabilities"], tuple) and found.score > 0.5
    assert isinstance(vars(found)["probabilities"], tuple), "made before anyone looks"
    assert type(found.probabilities) is dict and found.probabilities is found.probabilities
    assert json.loads(json.dumps(found.probabilities)) == asdict(found)["probabilities"]
    made = Prediction("a", ("x",), (0.75,), {"x": 0.75, "y": 0.25})
    assert made.score == made.probabilities["x"] == 0.75
    assert repr(made) == (
        "Prediction(text='a', labels=('x',), scores=(0.75,), probabilities={'x': 0.75, 'y': 0.25}, "
        "multi_label=False, abstained=False)"
    )
    with pytest.raises(TypeError, match="probabilities"):
        Prediction("a", ("x",), (0.75,))


def test_predictions_come_in_the_order_of_the_texts(run, remarks):
    texts = [*remarks[0], "", remarks[0][0] * 50]
    together = run.classifier.probabilities(texts)
    np.testing.assert_allclose(together, [run.classifier.probabilities([text])[0] for text in texts], atol=1e-6)
    np.testing.assert_allclose(together[::-1], run.classifier.probabilities(texts[::-1]), atol=1e-6)


def test_a_file_and_standard_input_are_read_as_a_list_is(one, tmp_path, monkeypatch):
    wanted = one.predict(TEXTS)
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    table = tmp_path / "texts.csv"
    table.write_text(
        "id,note,says\n" + "".join(f'{i},x y,"{text}"\n' for i, text in enumerate(TEXTS)), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.read_bytes())))
    assert one.predict("-") == wanted
    assert one.predict(lines) == one.predict(str(lines)) == wanted
    assert one.predict(table, text_column="says") == one.predict(table) == wanted
    with pytest.raises(DataError, match="text_column"):
        one.predict(table, text_column="said")


def in_memory() -> dict[str, Any]:
    """The texts in forms that Python has them in."""
    frame = pd.DataFrame({"id": range(4), "says": TEXTS})
    dataset = Dataset.from_pandas(frame)
    return {
        "array of objects": np.array(TEXTS, dtype=object),
        "Series": pd.Series(TEXTS, index=[3, 1, 2, 0]),
        "generator": (text for text in TEXTS),
        "frame": frame,
        "Dataset": dataset,
        "IterableDataset": dataset.to_iterable_dataset(),
        "Arrow table": pa.Table.from_pandas(frame),
        "generator of dicts": (row for row in frame.to_dict("records")),
        "columns as arrays": {"id": np.arange(4), "says": np.array(TEXTS)},
    }


@pytest.mark.parametrize("kind", in_memory())
def test_texts_in_memory_are_read_as_a_list_is(kind, one):
    texts, wanted = in_memory()[kind], one.predict(TEXTS)
    assert one.predict(texts) == wanted
    if isinstance(texts, (pd.DataFrame, dict, Dataset, pa.Table)):
        assert one.predict(texts, text_column="says") == wanted
        with pytest.raises(DataError, match="set text_column"):
            one.predict(texts, text_column="nowhere")


def test_the_columns_of_the_training_are_read_from_what_has_them(one, tmp_path, caplog):
    caplog.set_level("INFO", "nlptransfer")
    two = Classifier.load(replace(one, text_columns=("title", "body")).save_pretrained(tmp_path / "out"))
    assert two.text_columns == ("title", "body")
    rows = [{"other": "badae", "body": text, "title": "goodae"} for text in TEXTS]
    found = two.predict(rows)
    assert [each.label for each in found] == [each.label for each in one.predict([f"goodae {text}" for text in TEXTS])]
    assert caplog.messages[0].startswith("data: texts from columns 'title' (as 'goodae'")
    assert two.predict(pd.DataFrame(rows)) == two.predict(Dataset.from_list(rows)) == found
    assert two.predict(rows, text_column="body")[0].text == TEXTS[0]
    # They are not in all that is read.
    assert two.predict(TEXTS) == one.predict(TEXTS)
    record = json.loads((tmp_path / "out" / "nlptransfer.json").read_text())
    assert record["text_columns"] == ["title", "body"]
    for name in ("text_columns", "files", "sha256"):
        del record[name]
    (tmp_path / "out" / "nlptransfer.json").write_text(json.dumps(record))
    assert Classifier.load(tmp_path / "out").text_columns == ()


def test_options_of_how_predictions_are_made(one, tmp_path):
    wanted = one.predict(TEXTS)
    for found in (one.predict(TEXTS, batch_size=1), [*one.stream(TEXTS, batch_size=2)]):
        assert [each.labels for each in found] == [each.labels for each in wanted]
        assert [each.probabilities for each in found] == [
            pytest.approx(each.probabilities, abs=1e-9) for each in wanted
        ]
    (tmp_path / "texts.csv").write_text("says;id\nwordaa goodae;1\n")
    assert one.predict(tmp_path / "texts.csv", separator=";", header=True)[0].label == "positive"
    for call in (one.predict, one.stream, one.batches):
        with pytest.raises(SettingError, match="batch_size=0: expected a whole number from 1"):
            call(TEXTS, batch_size=0)
        with pytest.raises(SettingError, match="unknown setting 'seperator': did you mean 'separator'"):
            call(TEXTS, seperator=";")
    assert Classifier.load(one.save_pretrained(tmp_path / "out"), device="cpu").predict(TEXTS) == wanted
    with pytest.raises(SettingError, match="device='cuda:99': expected one that is here: cpu"):
        Classifier.load(tmp_path / "out", device="cuda:99")


def test_texts_that_are_no_list(one):
    with pytest.raises(DataError, match="texts themselves go in a list"):
        one.predict("what a film")
    assert [each.abstained for each in one.predict(["fine", None, float("nan")])] == [False, True, True]
    with pytest.raises(DataError, match=r"row 2: expected text, found int 3"):
        one.predict(["fine", 3])
    with pytest.raises(DataError, match=r"row 2: expected a dict as in other rows, found str"):
        one.predict([{"text": "fine"}, "fine"])
    with pytest.raises(DataError, match=r"expected rows, found the splits train: take one of them"):
        one.predict(DatasetDict(train=Dataset.from_dict({"text": ["fine"]})))
    with pytest.raises(DataError, match=r"expected .*, found int"):
        one.predict(3)
    assert one.predict([]) == one.predict(np.array([], dtype=str)) == one.predict(pd.DataFrame({"text": []})) == []
    assert [each.text for each in one.predict([None, "fine"])] == ["", "fine"]
    assert one.predict((TEXTS, [1, 2, 3, 4])) == one.predict(TEXTS)


def test_a_stream_is_read_no_further_than_it_must_be(one):
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield TEXTS[taken % 2]

    stream = one.stream(texts())
    first = [next(stream) for _ in range(CHUNK + 1)]
    assert [each.label for each in first[:4]] == ["negative", "positive", "negative", "positive"]
    assert taken == 2 * CHUNK


def test_a_text_of_a_million_characters(run):
    long = "wordaa goodae " * 72_000
    assert len(long) > 1_000_000
    found = run.classifier.predict([long, "", "wordac badae badaf"])
    assert found[0].text == long
    assert [each.label for each in found[::2]] == ["positive", "negative"]
    # One word without a space in it.
    assert run.classifier.predict(["x" * 1_000_000])[0].probabilities == pytest.approx(found[1].probabilities)


def test_several_labels_or_none(several, tickets):
    (found,) = several.predict(["wordaa deliveryae deliveryaf billingae billingaf"])
    assert found.labels == ("billing", "delivery")
    assert found.scores == (found.probabilities["billing"], found.probabilities["delivery"])
    empty = next(each for each in several.predict(tickets[0]) if not each.labels)
    assert empty.labels == () and empty.scores == () and len(empty.probabilities) == 3
    for each in (found, empty):
        with pytest.raises(DataError, match=r"expected one label, found \d: look at .labels"):
            _ = each.label


# Abstaining


@pytest.fixture(scope="module", params=["one label", "several labels"])
def judged_run(request, remarks, tickets, vectors_file, tmp_path_factory) -> tuple[RunResult, list[str]]:
    """A run on so few rows that it is wrong now and then, and its test texts."""
    texts, labels = remarks if request.param == "one label" else tickets
    rows = {"train": (texts[:24], labels[:24]), "test": (texts[24:], labels[24:])}
    folder = tmp_path_factory.mktemp("run")
    return finetune(rows, base=vectors_file, head_type="linear", output_dir=folder), texts[24:]


def test_abstaining_does_what_the_curve_of_the_report_says(judged_run):
    run, texts = judged_run
    batch = run.predictions["test"]
    cuts, coverage, accuracy = coverage_curve(batch.confidences, batch.right)
    assert 0.2 < accuracy[-1] < 1, "nothing to gain"
    # Between two confidences that rounding leaves apart.
    apart = np.flatnonzero(cuts[:-1] - cuts[1:] > 1e-4)
    for place in apart[:: max(1, len(apart) // 8)]:
        found = run.classifier.predict(texts, min_confidence=float(cuts[place : place + 2].mean()))
        kept = np.array([not each.abstained for each in found])
        assert kept.mean() == coverage[place]
        assert batch.right[kept].mean() == accuracy[place]
    assert [each.abstained for each in run.classifier.predict(texts)] == [False] * len(texts)


def test_what_is_abstained_from_has_no_label_and_says_so(one, several):
    for classifier, text in ((one, TEXTS[3]), (several, "wordaa wordab")):
        (sure,) = classifier.predict([text])
        (unsure,) = classifier.predict([text], min_confidence=1)
        assert (unsure.abstained, unsure.labels, unsure.scores) == (True, (), ())
        assert unsure.probabilities == sure.probabilities and not sure.abstained
        with pytest.raises(DataError, match=r"abstains from this text: look at \.abstained"):
            _ = unsure.label
    assert one.predict(TEXTS[:1], min_confidence=one.predict(TEXTS[:1])[0].score)[0].labels


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan")])
def test_a_confidence_is_a_probability(one, value):
    for verb in (one.predict, one.stream):
        with pytest.raises(SettingError, match=r"min_confidence=.*: expected a probability from 0 to 1"):
            verb(TEXTS, min_confidence=value)


# Normalization


@pytest.fixture(scope="module")
def cased(remarks, vectors_file, tmp_path_factory) -> Classifier:
    """A classifier that tells capitals from small letters, as its vectors do."""
    header, *lines = vectors_file.read_text().splitlines()
    rows, dimensions = map(int, header.split())
    zeros = " ".join(["0.0"] * dimensions)
    lines += [f"Word{letter} {zeros}" for letter in "ABCDEFGHIJ"]
    path = tmp_path_factory.mktemp("vectors") / "cased.txt"
    path.write_text("\n".join([f"{rows + 10} {dimensions}", *lines, ""]))
    return finetune(remarks, base=path, head_type="linear", output_dir=tmp_path_factory.mktemp("run")).classifier


def test_texts_are_normalized_wherever_they_come_in(cased, tmp_path):
    loaded = Classifier.load(replace(cased, normalization="lower").save_pretrained(tmp_path / "out"))
    assert loaded.normalization == "lower"
    plain = ["wordaa goodae goodaf wordab", "wordac badae badaf"]
    other = ["WORDAA  Goodae GOODAF wordab\n", "ＷＯＲＤＡＣ BADAE badaf"]
    np.testing.assert_array_equal(loaded.logits(other), cased.logits(plain))
    np.testing.assert_array_equal(loaded.probabilities(other), cased.probabilities(plain))
    assert np.abs(cased.logits(other) - cased.logits(plain)).max() > 0.01
    found = loaded.predict(other)
    assert [each.text for each in found] == other
    assert list(loaded.stream(other)) == found
    for given, wanted in zip(found, cased.predict(plain), strict=True):
        assert replace(given, text=wanted.text) == wanted
    labels = ["positive", "negative"]
    assert loaded.evaluate((other, labels)) == cased.evaluate((plain, labels))


# Scores


def test_evaluate_gives_the_scores_of_the_run(run, remarks_folder):
    wanted = {name: value for name, value in run.metrics.items() if name != "rows"}
    for data in (remarks_folder, remarks_folder / "test.jsonl"):
        found = run.classifier.evaluate(data)
        assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6)
        assert found | {"loss": wanted["loss"]} == wanted
    assert run.classifier.evaluate(remarks_folder, split="train")["accuracy"] == run.scores["train"]["accuracy"]


def test_evaluate_takes_the_columns_by_name(one, remarks, tmp_path):
    wanted = one.evaluate(remarks)
    frame = pd.DataFrame({"mood": remarks[1], "says": remarks[0], "more": ["a b c d"] * 160})
    columns = {"text_column": "says", "label_column": "mood"}
    assert one.evaluate(frame, **columns) == one.evaluate(frame, settings=DataSettings(**columns)) == wanted
    frame.to_csv(tmp_path / "rows.csv", index=False)
    found = one.evaluate(tmp_path / "rows.csv", **columns, batch_size=7)
    assert found["accuracy"] == wanted["accuracy"] and found["loss"] == pytest.approx(wanted["loss"])
    with pytest.raises(SettingError, match="unknown setting 'text_colum': did you mean 'text_column'"):
        one.evaluate(frame, text_colum="says")
    with pytest.raises(SettingError, match="batch_size=0: expected a whole number from 1"):
        one.evaluate(remarks, batch_size=0)


def test_evaluate_further_metrics(one, remarks):
    found = one.evaluate(remarks, further=["matthews_correlation"])
    assert found["matthews_correlation"] == pytest.approx(found["mcc"])


def test_labels_that_the_classifier_does_not_know(one, several):
    with pytest.raises(DataError, match=r"'mixed' \(1 rows, first in row 2\).*known labels: negative, positive"):
        one.evaluate((["a", "b"], ["positive", "mixed"]))
    with pytest.raises(DataError, match="'refund'"):
        several.evaluate((["a", "b"], [["billing"], ["refund"]]))
    with pytest.raises(DataError, match="expected a test split"):
        one.evaluate({"train": (["a"], ["positive"])})


# Folders


def test_saved_and_loaded_it_is_the_same(run, tmp_path):
    folder = run.classifier.save_pretrained(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == MODEL_FILES
    for place in (folder, run.folder, run.folder / "model", str(run.folder)):
        loaded = Classifier.load(place)
        assert loaded.predict(TEXTS) == run.classifier.predict(TEXTS)
        for name in ("labels", "thresholds", "route"):
            assert getattr(loaded, name) == getattr(run.classifier, name)
    again = loaded.save_pretrained(tmp_path / "again")
    for name in MODEL_FILES - {"tokenizer_config.json", "nlptransfer.json"}:
        assert (again / name).read_bytes() == (run.folder / "model" / name).read_bytes(), name
    one, other = (json.loads((place / "nlptransfer.json").read_text()) for place in (again, run.folder / "model"))
    for record in (one, other):
        # The run was compared on more texts.
        assert record["verified"].pop("max_difference") < 1e-5
        assert len(record.pop("sha256")) == 64 and len(record["files"].pop("tokenizer_config.json")) == 64
    assert one == other and list(one) == list(other)


def test_what_nlptransfer_json_and_the_config_say(one, several, tmp_path):
    record = json.loads((one.save_pretrained(tmp_path / "one") / "nlptransfer.json").read_text())
    assert record["route"] == "word2vec" and record["settings"]["head_type"] == "linear"
    assert (record["labels"], record["multi_label"], record["thresholds"]) == (["negative", "positive"], False, None)
    assert record["base"]["name"] == "small.txt" and set(record["calibration"]) == {"rows", "temperature"}
    assert record["normalization"] == "none"
    assert (record["max_length"], record["settings"]["long_text"]) == (512, "truncate")
    assert set(record) == {
        "route", "settings", "labels", "multi_label", "thresholds", "normalization", "max_length", "text_columns",
        "base", "calibration", "results", "verified", "files", "sha256",
    }  # fmt: skip
    folder = several.save_pretrained(tmp_path / "several")
    record, config = (json.loads((folder / name).read_text()) for name in ("nlptransfer.json", "config.json"))
    assert record["multi_label"] and tuple(record["thresholds"]) == several.thresholds
    assert record["labels"] == ["billing", "delivery", "praise"]
    assert config["id2label"] == {"0": "billing", "1": "delivery", "2": "praise"}
    assert config["problem_type"] == "multi_label_classification"
    assert config["architectures"] == ["Word2VecForSequenceClassification"]


def test_the_record_says_how_it_was_made_and_what_it_scores(one_run, remarks):
    found = json.loads((one_run.folder / "model" / "nlptransfer.json").read_text())["results"]
    assert found["test"] == one_run.metrics and found["cost"] == to_record(replace(one_run.cost, wall_seconds=None))
    assert found["fingerprints"] == one_run.data.fingerprints
    assert found["rows"] == {name: each["rows"] for name, each in found["fingerprints"].items()}
    assert sum(found["label_counts"].values()) == found["rows"]["train"]
    assert set(found["label_counts"]) == set(remarks[1])
    settings = ["--set calibration_size=0.2", "--set head_type=linear"]
    assert found["command"].startswith("nlptransfer finetune data --route word2vec --base small.txt ")
    assert all(setting in found["command"] for setting in settings) and str(one_run.folder) not in str(found)


def test_what_is_saved_can_be_read_by_others(one, run, tmp_path):
    before = os.umask(0o022)
    try:
        folder = one.save_pretrained(tmp_path / "out")
    finally:
        os.umask(before)
    for place in (folder, run.folder):
        modes = {path.name: oct(path.stat().st_mode)[-3:] for path in place.rglob("*")}
        assert modes == {path.name: "755" if path.is_dir() else "644" for path in place.rglob("*")}


def test_a_foreign_folder_is_not_written_into(one, one_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt", one_run.folder):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RunFolderError, match="other files"):
            one.save_pretrained(place)
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert one.save_pretrained(tmp_path / "empty") == tmp_path / "empty"


def test_saving_over_a_classifier_replaces_it_whole_or_not_at_all(one, several, tmp_path, monkeypatch):
    folder = one.save_pretrained(tmp_path / "out")
    held = {path.name: path.read_bytes() for path in folder.iterdir()}

    def breaks(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(type(several.tokenizer), "save_pretrained", breaks)
        with pytest.raises(OSError, match="no space left"):
            several.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    several.save_pretrained(folder)
    assert Classifier.load(folder).labels == several.labels
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "something temporary is left"


def test_loading_what_is_no_classifier(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "config.json"):
        with pytest.raises(RunFolderError, match=r"expected a saved classifier, found no nlptransfer\.json"):
            Classifier.load(place)


def test_a_folder_of_several_classifiers_says_where_they_are(several, tmp_path):
    """As that of a comparison has those of its candidates."""
    for name in ("probe-0", "lora-0"):
        several.save_pretrained(tmp_path / "candidates" / name / "model")
    runs = [str(tmp_path / "candidates" / name) for name in ("lora-0", "probe-0")]
    with pytest.raises(RunFolderError, match=re.escape(f"give one that is in it: {', '.join(runs)}")):
        Classifier.load(tmp_path)
    assert Classifier.load(runs[0]).labels == several.labels


def test_the_pipeline_of_transformers_gives_the_same(run, several, remarks, tickets, tmp_path):
    texts = remarks[0][:20]
    plain = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(run.folder / "model"),
        tokenizer=AutoTokenizer.from_pretrained(run.folder / "model"),
        truncation=True,
    )
    for given, ours in zip(plain(texts), run.classifier.predict(texts), strict=True):
        assert given["label"] == ours.label and given["score"] == pytest.approx(ours.score, abs=1e-6)
    all_of = pipeline("text-classification", model=str(several.save_pretrained(tmp_path / "several")), top_k=None)
    for given, ours in zip(all_of(tickets[0][:5]), several.predict(tickets[0][:5]), strict=True):
        assert {each["label"]: each["score"] for each in given} == pytest.approx(ours.probabilities, abs=1e-6)
