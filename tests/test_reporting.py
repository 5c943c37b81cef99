"""The report with texts in it; word importance: what a prediction loses without each word."""

import json
from pathlib import Path

import numpy as np
import pytest

from nlptransfer import Classifier, finetune
from nlptransfer.cli import main
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.reporting import MOST_WORDS, report_on, word_effects


@pytest.fixture(scope="module")
def run(remarks_folder, vectors_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return finetune(remarks_folder, base=vectors_file, head_type="linear", output_dir=folder, progress=False).folder


@pytest.fixture(scope="module")
def classifier(run) -> Classifier:
    return Classifier.load(run)


def test_the_words_that_tell_the_label_count_most(classifier):
    (found,) = word_effects(classifier, ["wordaa goodae wordab wordac"])
    assert found.label == "positive"
    assert [word for word, _ in found.words] == ["wordaa", "goodae", "wordab", "wordac"]
    assert max(found.words, key=lambda pair: pair[1])[0] == "goodae"


def test_each_effect_is_the_probability_that_is_lost(classifier):
    text = "goodae badae wordab"
    (found,) = word_effects(classifier, [text])
    place = classifier.labels.label2id[found.label]
    whole = classifier.probabilities([text])[0, place]
    without = classifier.probabilities(["badae wordab", "goodae wordab", "goodae badae"])[:, place]
    assert found.probability == pytest.approx(whole, abs=1e-6)
    np.testing.assert_allclose([effect for _, effect in found.words], whole - without, atol=1e-6)


def test_long_texts_empty_ones_and_text_without_spaces(classifier):
    long, unspaced = word_effects(classifier, ["goodae " * 100, "", "很好看"])
    assert len(long.words) == MOST_WORDS
    assert [word for word, _ in unspaced.words] == ["很", "好", "看"]


def test_a_report_has_texts_where_the_data_is_given(run, remarks_folder, command_line):
    text = json.loads((remarks_folder / "test.jsonl").read_text().splitlines()[0])["text"]
    ended = command_line(main, "report", run)
    assert (ended.code, ended.out) == (0, f"written: {run / 'report.html'}\n")
    plain = (run / "report.html").read_text()
    ended = command_line(main, "report", run, remarks_folder)
    assert ended.code == 0, ended.err
    full = (run / "report.html").read_text()
    # What words count for is shown of the first test texts.
    assert not any(word in plain for word in text.split()) and all(word in full for word in text.split())


def test_other_data_is_refused(run, remarks, tmp_path, command_line):
    before = (run / "report.html").read_bytes() if (run / "report.html").exists() else None
    with pytest.raises(DataError, match=r"expected the rows that .* was trained on, found others in train"):
        report_on(run, remarks)
    assert ((run / "report.html").read_bytes() if (run / "report.html").exists() else None) == before
    with pytest.raises(RunFolderError, match="expected the folder of a finished run or of a comparison"):
        report_on(tmp_path)
