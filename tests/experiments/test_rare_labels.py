"""Labels that few rows have, or that are numbers on a scale, in every part of a run and of a comparison."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.corpora import TOPICS, text_of
from helpers.runs import compare, finetune
from nlptransfer.errors import SettingError

RARE = {"delivery": 1, "billing": 2}
"""Rows of the labels that few have."""
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
