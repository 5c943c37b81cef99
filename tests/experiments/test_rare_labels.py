"""Labels that few rows have, or that are numbers on a scale, in every part of a run and of a comparison."""

import json
import random
import warnings
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from helpers.corpora import FILLER, TOPICS, text_of
from helpers.long_tail import long_tailed, tail
from helpers.runs import compare, finetune
from nlptransfer.data.dataset import load_data
from nlptransfer.errors import SettingError

RARE = {"delivery": 1, "billing": 2}
"""Rows of the labels that few have."""
LETTERS = ascii_lowercase[:24]
LINEAR = {"route": "word2vec", "head_type": "linear"}


def rows_with_rare_labels(several: bool) -> tuple[list[str], list[Any]]:
    draw = random.Random(0)
    labels = ["good", "bad"] * 40 + [name for name, rows in RARE.items() for _ in range(rows)]
    texts = [text_of(draw, [label]) for label in labels]
    return texts, [[label] for label in labels] if several else labels


def stars(rows: int, seed: int) -> tuple[list[str], list[int]]:
    draw = random.Random(seed)
    labels = [row % len(TOPICS) for row in range(rows)]
    # Some rows have the words of the next star.
    return [text_of(draw, [TOPICS[(label + (draw.random() < 0.3)) % 5]]) for label in labels], [1 + n for n in labels]


def check_scores(scores: dict[str, Any]) -> None:
    """What no row judges is null, and all of it is JSON."""
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    for name in RARE:
        assert scores["per_class"][name] == {"precision": None, "recall": None, "f1": None, "support": 0}
    judged = [one["f1"] for one in scores["per_class"].values() if one["support"]]
    assert scores["labels_judged"] == len(judged) == 2
    assert scores["f1_macro"] == pytest.approx(np.mean(judged))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {**LINEAR, "class_weights": "balanced"},
        {"route": "word2vec", "head_type": "mlp", "mlp_sizes": (8,), "num_train_epochs": 2},
    ],
    ids=["fitted", "trained"],
)
def test_rare_labels_are_learnt_and_not_judged(
    several: bool, settings: dict[str, Any], vectors_file: Path, tmp_path: Path
) -> None:
    if several and "class_weights" in settings:
        settings = LINEAR
    texts, labels = rows_with_rare_labels(several)
    run = finetune((texts, labels), base=vectors_file, output_dir=tmp_path, **settings)
    assert {name: run.data.label_counts[name] for name in RARE} == RARE
    for split in ("validation", "test"):
        check_scores(run.scores[split])
    if settings["head_type"] == "linear":
        rare = [run.classifier.labels.names.index(name) for name in RARE]
        probabilities = run.classifier.probabilities(texts)[:, rare].max(axis=1)
        assert probabilities[-sum(RARE.values()) :].min() > probabilities[:80].max()


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """Vectors in which the words of each of 24 topics lie together, and 250 texts of each."""
    rng, draw, dimensions = np.random.default_rng(0), random.Random(0), 24
    centers = 2 * rng.normal(size=(len(LETTERS), dimensions))
    words = {f"topic {letter}": [f"{letter}{a}{b}" for a, b in product("abcde", repeat=2)] for letter in LETTERS}
    rows = {word: rng.normal(size=dimensions) for word in FILLER}
    for center, group in zip(centers, words.values(), strict=True):
        rows |= {word: center + rng.normal(size=dimensions) for word in group}
    path = tmp_path_factory.mktemp("topics") / "vectors.txt"
    lines = [f"{word} {' '.join(f'{value:.4f}' for value in row)}" for word, row in rows.items()]
    path.write_text("\n".join([f"{len(rows)} {dimensions}", *lines, ""]))
    texts = {name: [" ".join(draw.sample(group, 3) + draw.sample(FILLER, 4)) for _ in range(250)] for name, group in
             words.items()}  # fmt: skip
    return path, texts


def test_a_long_tail_is_learnt_as_well_as_by_one_regression_for_each_label(
    topics: tuple[Path, dict[str, list[str]]], tmp_path: Path
) -> None:
    path, sources = topics
    table = long_tailed(sources, dict(zip(sources, tail(len(sources), 250), strict=True)))
    run = finetune(table, base=path, output_dir=tmp_path, **LINEAR)
    data, classifier = load_data(table), run.classifier
    assert run.data.label_counts.keys() == {*sources} and min(run.data.label_counts.values()) == 1
    given = classifier.probabilities(data.train.texts) >= np.array(classifier.thresholds)
    assert (given & (data.train.targets > 0)).any(axis=0).all()
    texts = data.train.texts + data.validation.texts + data.calibration.texts
    targets = np.concatenate([data.train.targets, data.validation.targets, data.calibration.targets])

    def features(texts: list[str]) -> np.ndarray:
        rows = classifier.route.rows(classifier.model, classifier.tokenizer, texts)
        return np.asarray(rows.features)

    with warnings.catch_warnings():
        # Of labels that hardly a row has.
        warnings.simplefilter("ignore")
        peer = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(features(texts), targets)
    guesses, judged = peer.predict(features(data.test.texts)), data.test.targets.any(axis=0)
    assert run.metrics["labels_judged"] == judged.sum() < len(sources)
    theirs = {"micro": f1_score(data.test.targets, guesses, average="micro")}
    theirs["macro"] = f1_score(data.test.targets[:, judged], guesses[:, judged], average="macro", zero_division=0)
    assert run.metrics["f1_micro"] >= theirs["micro"] and run.metrics["f1_macro"] >= theirs["macro"]


@pytest.mark.parametrize("several", [False, True])
def test_candidates_are_compared_on_the_labels_that_are_judged(
    several: bool, vectors_file: Path, tmp_path: Path
) -> None:
    texts, labels = rows_with_rare_labels(several)
    found = compare(
        (texts, labels),
        routes=("majority", "tfidf", "word2vec"),
        bases=(vectors_file,),
        head_type="linear",
        seeds=1,
        metric_for_best_model="f1_macro",
        output_dir=tmp_path,
    )
    assert [one.status for one in found.candidates] == ["finished"] * 3
    for name in ("majority", "tfidf", "word2vec"):
        check_scores(found.first_run(name).scores["test"])
    assert found.recommended in ("tfidf", "word2vec")
    assert "Macro means are over the 2 of 4 labels" in (tmp_path / "report.html").read_text()


def test_stars_are_chosen_by_their_distance(vectors_file: Path, tmp_path: Path) -> None:
    data = {"train": stars(200, 0), "validation": stars(60, 1), "test": stars(100, 2)}
    found = compare(
        data,
        routes=("majority", "word2vec"),
        bases=(vectors_file,),
        head_type="linear",
        seeds=2,
        sizes=(100,),
        metric_for_best_model="mae",
        output_dir=tmp_path,
    )
    word2vec, majority = (found.candidate(name) for name in ("word2vec", "majority"))
    test = found.first_run("word2vec").scores["test"]
    assert test["mae"] == word2vec.test.scores[0] < majority.test.mean and test["quadratic_kappa"] > 0.3
    assert (found.metric, found.recommended, found.best) == ("mae", "word2vec", "word2vec")
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(word2vec.test.mean - majority.test.mean) and pair.interval[1] < 0
    # It has reached with fewer rows what the majority never gets better than.
    (reached,) = found.rows_to_reach
    assert (reached.one, reached.other, reached.rows) == ("word2vec", "majority", 100.0)
    assert "mean absolute error" in (tmp_path / "report.html").read_text()


def test_a_distance_is_no_score_of_names(vectors_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="score 'mae': expected one label a row that is a whole number in a row of"):
        finetune(
            rows_with_rare_labels(False),
            base=vectors_file,
            metric_for_best_model="mae",
            output_dir=tmp_path,
            **LINEAR,
        )
