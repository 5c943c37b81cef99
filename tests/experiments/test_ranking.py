"""Rankings of tiny encoders and of sources, whose order is known, and what lies in their folder."""

import logging
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from helpers.folders import files_of, no_path_in
from helpers.runs import compare, finetune
from nlptransfer import Probe, Ranking, rank
from nlptransfer.cli.app import main
from nlptransfer.data import Data, Labels, Split
from nlptransfer.errors import DataError, RunFolderError, SettingError, TrainingError
from nlptransfer.experiments import ranking
from nlptransfer.experiments.frozen_scores import FrozenScores, _coordinates, _head_task, _standardized, _states, _task
from nlptransfer.results import EncoderRank, fastest_level

OPINIONS = {"bad": ["awful", "dire", "grim", "dull", "weak"], "good": ["fine", "superb", "lovely", "bold", "keen"]}
LABELS = Labels(("bad", "good"))
NONE = Split([], np.zeros(0, np.int64))
FILES = {"ranking.json", "encoders.csv", "report.html"}


def rows(count: int, seed: int, loud: int = 3, kept: int = 3) -> tuple[list[str], list[str]]:
    """Texts with ``loud`` words out of the first ``kept`` that tell their label."""
    draw = random.Random(seed)
    labels = ["bad", "good"] * (count // 2)
    texts = [
        [*draw.choices(FILM_WORDS, k=draw.randint(1, 3)), *draw.choices(OPINIONS[label][:kept], k=loud)]
        for label in labels
    ]
    return [" ".join(draw.sample(words, len(words))) for words in texts], labels


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An encoder that knows the words of the labels, and one that does not."""
    folder = tmp_path_factory.mktemp("bases")
    known = make_film_base(folder / "knows", words=[*FILM_WORDS, *OPINIONS["bad"], *OPINIONS["good"]])
    return known, make_film_base(folder / "ignores")


@pytest.fixture(scope="module")
def ranked(bases: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ranking]:
    def call(data: Any, **settings: Any) -> Ranking:
        folder = tmp_path_factory.mktemp("ranked") / "ranking"
        return rank(data, **{"bases": bases, "output_dir": folder, "report": False, **settings})

    return call


def test_the_encoder_that_knows_the_words_comes_first(
    ranked: Callable[..., Ranking], bases: tuple[str, str], tmp_path: Path
) -> None:
    data = {"train": rows(120, 0), "test": rows(20, 1)}
    first = ranked(data, keep_layers=(1, 9), report=True)
    assert set(files_of(first.folder)) == FILES
    no_path_in(first.folder, tmp_path)
    assert first.metric == "accuracy" and first.rows < 120
    assert [(one.base == bases[0], one.layers) for one in first.encoders[:2]] in [
        [(True, 1), (True, 3)],
        [(True, 3), (True, 1)],
    ]
    best, *others = first.encoders
    assert len(others) == 3 and best.score > 0.9 and best.unknown_share == 0
    for one in first.encoders:
        assert one.interval[0] <= one.score <= one.interval[1]
        assert one.behind == pytest.approx(one.loss - best.loss) and one.behind >= 0
        assert one.behind_interval[0] <= one.behind <= one.behind_interval[1]
    ignorant = [one for one in others if one.base == bases[1]]
    assert all(one.behind_interval[0] > 0 and one.unknown_share > 0.1 for one in ignorant)
    assert all(one.logme < best.logme and one.h_score < best.h_score for one in ignorant)
    one_layer, three = sorted((one for one in first.encoders if one.base == bases[0]), key=lambda one: one.layers)
    assert one_layer.keep_layers == 1 and three.keep_layers is None
    assert one_layer.texts_per_second == pytest.approx(3 * three.texts_per_second, rel=0.01)
    assert 0 < one_layer.size_mb <= three.size_mb
    assert first.chosen.base == bases[0] and first.chosen.name in first.sentence
    table = pd.read_csv(first.folder / "encoders.csv")
    assert table["score"].tolist() == pytest.approx([one.score for one in first.encoders])


def test_losses_are_compared_as_by_a_paired_t_test(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    losses = {name: draw.exponential(size=50) + by for name, by in {"slow": 0.0, "level": 0.1, "worse": 1.0}.items()}
    blank: dict[str, Any] = {field.name: 0 for field in fields(EncoderRank)}
    speeds = {"slow": 10.0, "level": 20.0, "worse": 90.0}

    def known(_: Any, route: Any, base: str, *rest: Any) -> list[tuple[EncoderRank, np.ndarray]]:
        named = {"base": base, "loss": losses[base].mean(), "texts_per_second": speeds[base]}
        return [(EncoderRank(**{**blank, **named, "behind_interval": (0.0, 0.0)}), losses[base])]

    monkeypatch.setattr(FrozenScores, "_layers_of", known)
    scores = FrozenScores.of(Data("toy", LABELS, Split(["a", "b"], np.array([0, 1])), *[NONE] * 3), 10)
    best, *others = ranks = scores.encoders(Probe(), [*losses], None)
    assert best.base == "slow" and fastest_level(ranks).base == "level"
    for one in others:
        expected = ttest_rel(losses[one.base], losses["slow"]).confidence_interval()
        assert one.behind_interval == pytest.approx((expected.low, expected.high))


def test_a_finished_ranking_is_returned_and_another_one_refused(ranked: Callable[..., Ranking], tmp_path: Path) -> None:
    data, folder = {"train": rows(60, 0)}, tmp_path / "ranking"
    first = ranked(data, output_dir=folder, sources=[{"train": rows(40, 5)}])
    # It may have been killed just before this was written.
    (folder / "report.html").unlink(missing_ok=True)
    again = ranked(data, output_dir=folder, report=True, sources=[{"train": rows(40, 5)}])
    assert (folder / "report.html").exists()
    assert vars(again) == vars(Ranking.load(folder)) == vars(first)
    with pytest.raises(RunFolderError, match=r"holds a run with keep_layers=\[\], asked for keep_layers=\[1\]"):
        ranked(data, output_dir=folder, keep_layers=[1], sources=[{"train": rows(40, 5)}])
    assert ranked(data, output_dir=folder, keep_layers=[1], overwrite=True).settings["keep_layers"] == [1]


def test_rows_outside_of_train_change_nothing(ranked: Callable[..., Ranking]) -> None:
    train = rows(60, 0)
    texts, labels = rows(20, 1)
    one = ranked({"train": train, "validation": (texts, labels), "test": (texts, labels)})
    two = ranked({"train": train, "validation": (texts, labels), "test": (texts[::-1], ["bad"] * 20)})
    three = ranked({"train": train, "validation": (texts[::-1], ["bad", *["good"] * 19]), "test": (texts, labels)})
    scores = [[(each.base, each.score, each.logme) for each in found.encoders] for found in (one, two, three)]
    assert sorted(scores[0]) == sorted(scores[1]) == sorted(scores[2])


def test_the_layers_are_those_of_an_encoder_that_keeps_them(bases: tuple[str, str]) -> None:
    texts, names = rows(10, 0)
    labels, none = LABELS, NONE
    data = Data("films", labels, Split(texts, labels.encode(names)), none, none, none)
    found = []
    for route in (Probe(features=("encoder",)), Probe(features=("encoder",), keep_layers=2)):
        found.append(_states(route, route.build(data, bases[0], None, 0), texts))
    assert found[0].shape == (3, 10, 8) and found[1].shape == (2, 10, 8)
    np.testing.assert_allclose(found[0][:2], found[1], atol=2e-3)


@pytest.mark.parametrize("several", [False, True])
def test_heads_on_fewer_columns_give_the_same(several: bool) -> None:
    draw = np.random.default_rng(0)
    features = _standardized(draw.normal(size=(40, 200)).astype(np.float32))
    labels = Labels(("bad", "good", "fair"), several)
    drawn = draw.integers(0, 3, 40)
    targets = (draw.random((40, 3)) < 0.4).astype(np.float32) if several else drawn
    none = Split([], labels.encode([]))
    data = Data("noise", labels, Split([str(row) for row in range(40)], targets), none, none, none)
    fewer = _coordinates(features @ features.T)
    assert fewer.shape[0] == 40 and fewer.shape[1] <= 40
    whole, small = (_head_task(_task(data), values).out_of_fold() for values in (features, fewer))
    np.testing.assert_allclose(small, whole, atol=2e-3)


def test_a_source_that_means_the_same_gains_and_others_do_not(
    ranked: Callable[..., Ranking], bases: tuple[str, str]
) -> None:
    few = {"train": rows(120, 3, loud=1, kept=5)}
    texts, labels = rows(600, 4, loud=3, kept=5)
    draw = random.Random(0)
    sources = {
        "same": (texts, labels),
        "noise": (texts, draw.sample(labels, len(labels))),
        "renamed": (texts, [{"bad": "no", "good": "yes"}[label] for label in labels]),
    }
    found = {}
    for name, source in sources.items():
        result = ranked(few, bases=bases[:1], sources=[{"train": source}])
        found[name] = result.sources[0]
        assert 0 <= found[name].distance <= 2
        assert found[name].interval[0] <= found[name].gain <= found[name].interval[1]
    assert found["same"].same_labels and found["noise"].same_labels and not found["renamed"].same_labels
    assert found["same"].gain > 0.03 and found["same"].gain > found["noise"].gain
    assert found["renamed"].gain > 0
    both = ranked(few, bases=bases[:1], sources=[{"train": sources["noise"]}, {"train": sources["same"]}])
    assert [one.gain for one in both.sources] == [found["same"].gain, found["noise"].gain]
    assert "gains most" in both.sentence and both.chosen_source == both.sources[0]


def test_several_labels_a_row(ranked: Callable[..., Ranking]) -> None:
    texts, labels = rows(80, 0)
    several = [[label, "long"] if len(text) > 40 else [label] for text, label in zip(texts, labels, strict=True)]
    result = ranked({"train": (texts, several)})
    assert result.metric == "f1_micro" and result.encoders[0].score > result.encoders[1].score


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"keep_layers": [0]}, SettingError, r"keep_layers=\[0\]: expected numbers of layers from 1"),
        ({"max_rows": 0}, SettingError, "max_rows"),
        ({"head_type": "mlp"}, SettingError, "unknown setting 'head_type', for frozen features: known: "),
        ({"rank": 3}, SettingError, "unknown setting 'rank'"),
        ({"bases": []}, SettingError, r"bases=\[\]: expected at least one"),
    ],
)
def test_settings_that_make_no_sense(
    settings: dict[str, Any], error: type[Exception], message: str, ranked: Callable[..., Ranking]
) -> None:
    with pytest.raises(error, match=message):
        ranked({"train": rows(20, 0)}, **settings)


def test_auto_takes_the_choice_and_says_so(
    bases: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ranking, "installed_encoders", lambda: list(bases))
    data = {"train": rows(120, 0), "test": rows(20, 1)}
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        run = finetune(data, route="probe", base="auto", output_dir=tmp_path / "run")
    assert run.base is not None and run.base["name"] == Path(bases[0]).name
    said = [line for line in caplog.messages if line.startswith("base=auto")]
    assert len(said) == 1 and said[0].startswith(
        f"base=auto: {bases[0]}, the fastest of a loss level with the least (a"
    )
    result = compare(data, routes=["majority", "probe"], bases=["auto"], seeds=1, output_dir=tmp_path / "comparison")
    assert result.candidate("probe").base.startswith("knows")
    with pytest.raises(SettingError, match=r"revision='abc': expected none with base=auto"):
        finetune(data, route="probe", base="auto", revision="abc", output_dir=tmp_path / "other")
    monkeypatch.setattr(ranking, "installed_encoders", list)
    with pytest.raises(SettingError, match="expected encoders to rank, found none installed"):
        finetune(data, route="probe", base="auto", output_dir=tmp_path / "other")


def test_rows_too_few_to_hold_any_out(ranked: Callable[..., Ranking]) -> None:
    with pytest.raises(TrainingError, match="expected 4 rows or more to cross-validate, found 2"):
        ranked({"train": (["one", "two", "three"], ["bad", "good", "bad"]), "validation": rows(4, 0)})


def test_a_saved_classifier_is_no_source(
    ranked: Callable[..., Ranking], bases: tuple[str, str], tmp_path: Path
) -> None:
    run = finetune({"train": rows(40, 0)}, route="probe", base=bases[0], output_dir=tmp_path / "run")
    with pytest.raises(DataError, match="probe: expected labeled rows of a source, found a saved classifier"):
        ranked({"train": rows(40, 0)}, sources=[run.folder])


def test_on_the_command_line(command_line: Callable[..., Any], bases: tuple[str, str], tmp_path: Path) -> None:
    texts, labels = rows(60, 0)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "films.csv", index=False)
    texts, labels = rows(40, 1)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "other.csv", index=False)
    arguments = ["rank", str(tmp_path / "films.csv"), "--bases", ",".join(bases), "--keep-layers", "1"]
    arguments += ["--sources", str(tmp_path / "other.csv"), "--output-dir", str(tmp_path / "ranking"), "--quiet"]
    ended = command_line(main, *arguments)
    assert ended.code == 0, ended.err
    assert "LogME" in ended.out and "distance" in ended.out and "written: " in ended.out
    assert Ranking.load(tmp_path / "ranking").sentence in " ".join(ended.out.split())
    page = (tmp_path / "ranking" / "report.html").read_text()
    assert "Encoders" in page and "Sources" in page and "<img" in page


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected the folder of a ranking"):
        Ranking.load(tmp_path)
