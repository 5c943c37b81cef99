"""What words do to a label: sums where a model is one, and else what is lost without a word."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.classifiers import FIVE, LABELS, SEVERAL, changed
from helpers.corpora import FILM_WORDS
from helpers.encoders import SIZES, make_base
from nlptransfer import Classifier, Full, Probe, Word2Vec
from nlptransfer.cli import main
from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError

TEXT = "dull, unheard cast dull!! FILM"
SUM = Word2Vec(head_type="linear")


def write_vectors(path: Path, words: Sequence[str]) -> Path:
    draw = np.random.default_rng(0)
    rows = [f"{word} {' '.join(f'{value:.3f}' for value in draw.normal(size=8))}" for word in words]
    path.write_text("\n".join([f"{len(rows)} 8", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return write_vectors(tmp_path_factory.mktemp("vectors") / "vectors.txt", FILM_WORDS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "bert", "bert", SIZES)


def log_odds(classifier: Classifier, text: str, label: int, against: int | None) -> float:
    (logits,) = classifier.logits([text])
    return float(logits[label] - (0.0 if against is None else logits[against]))


@pytest.mark.parametrize("labels", [LABELS, SEVERAL, Labels(FIVE)])
@pytest.mark.parametrize("long_text", ["truncate", "windows"])
def test_effects_on_sums_over_words_add_up_to_the_log_odds(vectors, labels, long_text):
    classifier = changed(replace(SUM, long_text=long_text, max_length=6), vectors, labels)
    (found,) = classifier.explain([TEXT])
    label = labels.names.index(found.label)
    against = None if found.against is None else labels.names.index(found.against)
    assert (against is None) == labels.multi_label
    bias = classifier.model.classifier.bias.detach().numpy()
    rest = bias[label] - (0.0 if against is None else bias[against])
    assert sum(word.effect for word in found.words) + rest == pytest.approx(
        log_odds(classifier, TEXT, label, against), abs=1e-5
    )
    assert [word.text for word in found.words] == ["dull", "cast", "dull", "FILM"]
    assert all(TEXT[word.start : word.end] == word.text for word in found.words)


@pytest.mark.parametrize("route", ["cnn", "ngrams", "probe", "full", "normalized"])
def test_other_effects_are_what_the_log_odds_lose_without_the_word(vectors, base, route):
    classifier = {
        "cnn": lambda: changed(Word2Vec(num_filters=8), vectors, LABELS),
        "ngrams": lambda: changed(replace(SUM, features=("word2vec", "ngrams")), vectors, LABELS),
        "probe": lambda: changed(Probe(features="encoder"), base, LABELS),
        "full": lambda: changed(Full(), base, LABELS),
        "normalized": lambda: replace(changed(SUM, vectors, LABELS), normalization="lower"),
    }[route]()
    (found,) = classifier.explain([TEXT], label="bad")
    assert (found.label, found.against, found.text) == ("bad", "good", TEXT)
    assert found.probability == pytest.approx(classifier.probabilities([TEXT])[0, 0])
    assert [word.text for word in found.words] == ["dull", ",", "unheard", "cast", "dull", "!!", "FILM"]
    for word in found.words:
        without = TEXT[: word.start] + TEXT[word.end :]
        lost = log_odds(classifier, TEXT, 0, 1) - log_odds(classifier, without, 0, 1)
        assert word.effect == pytest.approx(lost, abs=1e-5)
    strongest = [abs(word.effect) for word in found.strongest(3)]
    assert strongest == sorted((abs(word.effect) for word in found.words), reverse=True)[:3]


def test_scripts_without_spaces_are_explained_by_the_tokenizers_pieces(tmp_path):
    file = write_vectors(tmp_path / "zh.txt", ["电影", "好看", "太", "部", "这", "难看", "了"])
    for route in (SUM, Word2Vec(num_filters=8)):
        (found,) = changed(route, file, LABELS).explain(["这部电影 too 太好看了"])
        assert [word.text for word in found.words if word.text != "too"] == ["这", "部", "电影", "太", "好看", "了"]


def test_a_text_without_words_has_a_label_and_no_effects(vectors):
    for route in (SUM, Word2Vec(num_filters=8)):
        assert [one.words for one in changed(route, vectors, LABELS).explain(["", "  "])] == [(), ()]


def test_a_label_of_another_classifier_is_refused(vectors):
    with pytest.raises(SettingError, match="label 'god': did you mean 'good'"):
        changed(SUM, vectors, LABELS).explain([TEXT], label="god")


def test_the_verb_shows_the_strongest_words_or_all_as_json(vectors, tmp_path, command_line):
    classifier = changed(Word2Vec(num_filters=8), vectors, LABELS)
    folder = classifier.save_pretrained(tmp_path / "saved")
    text = " ".join(FILM_WORDS[:12])
    (expected,) = classifier.explain([text])
    first, *table = command_line(main, "explain", folder, text).out.splitlines()
    assert first == f"{text}: {expected.label} {expected.probability:.3f}, rather than {expected.against}"
    assert [word.text for word in expected.strongest(10)] == [line.split()[1] for line in table[2:-1]]
    assert table[-1] == "and 2 weaker words"
    shown = json.loads(command_line(main, "explain", folder, text, "--json").out)
    assert [word["text"] for word in shown["words"]] == text.split()
    assert [word["effect"] for word in shown["words"]] == pytest.approx([word.effect for word in expected.words])
