"""compare(): all routes on one split, over seeds; what it writes, chooses, leaves out, and goes on with."""

import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.corpora import FILLER, TOPIC_WORDS, write_splits
from helpers.encoders import make_film_base
from helpers.folders import files_of
from helpers.runs import compare, record_of, report_of
from nlptransfer import Lora, Word2Vec
from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.errors import DataError, RunFolderError, SettingError, TrainingError
from nlptransfer.experiments import candidates, environment
from nlptransfer.experiments.candidates import SharedSettings, candidates_of, few_rows, without_test
from nlptransfer.experiments.environment import speeds, texts_per_second, watched_memory
from nlptransfer.files import read_json
from nlptransfer.results import ComparisonResult

LINEAR = {"head_type": "linear"}
MLP = {"head_type": "mlp", "mlp_sizes": (8,), "learning_rate": 0.02, "num_train_epochs": 3}


def remarks_of(rows: int, seed: int, part: int) -> tuple[list[str], list[str]]:
    """Texts whose words only vectors can tell to be of one topic with those of another part."""
    draw = random.Random(seed)
    topics = ["good", "bad"] * (rows // 2)
    words = [draw.sample(FILLER, 7) + draw.sample(TOPIC_WORDS[topic][part::3], 3) for topic in topics]
    return [" ".join(row) for row in words], topics


DATA = {"train": remarks_of(100, 0, 0), "validation": remarks_of(40, 1, 1), "test": remarks_of(80, 2, 2)}


@pytest.fixture
def comparing(vectors_file: Path, tmp_path: Path) -> Callable[..., ComparisonResult]:
    """compare with small vectors, and without a report unless a test asks for it: its plots take as long as a run."""

    def call(name: str = "out", report: bool = False, **settings: Any) -> ComparisonResult:
        given = {"bases": (vectors_file,), "seeds": 2, **settings}
        given.setdefault("routes", ("majority", "tfidf", "word2vec"))
        with pytest.MonkeyPatch.context() as patch:
            if not report:
                patch.setattr("nlptransfer.experiments.comparison.report_once", lambda *_: None)
            return compare(given.pop("data", DATA), output_dir=tmp_path / name, **given)

    return call


def without_times(found: ComparisonResult) -> dict[str, Any]:
    """What must come out the same each time."""
    timeless = {"cost": None, "seconds_of_run": None, "estimated_seconds": None}
    candidates = tuple(replace(one, **timeless) for one in found.candidates)
    return {**vars(replace(found, candidates=candidates, spent_seconds=0.0, made={})), "folder": None}


@pytest.fixture(scope="module")
def whole(vectors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComparisonResult]:
    """Three candidates over two seeds, with a curve."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    given = {"seeds": 2, "sizes": (90, 40), "max_minutes": 60, **LINEAR}
    yield compare(DATA, routes=("word2vec", "tfidf", "majority"), bases=(vectors_file,), output_dir=folder, **given)


# What a comparison leaves behind


def test_candidates_are_in_the_order_of_cost(whole):
    assert [one.name for one in whole.candidates] == ["majority", "tfidf", "word2vec"]
    assert all((one.status, one.reason) == ("finished", None) for one in whole.candidates)
    assert whole.candidates[2].base.startswith("small.txt (") and whole.candidates[0].base is None


def test_what_was_just_made_is_what_is_loaded(whole):
    loaded = ComparisonResult.load(whole.folder)
    assert without_times(loaded) == without_times(whole) and loaded.spent_seconds == whole.spent_seconds
    assert loaded.candidates == whole.candidates and loaded.made == {} != whole.made
    for name in ("tfidf", "word2vec"):
        mine, theirs = ([run.predictions["test"].probabilities for run in one.runs(name)] for one in (whole, loaded))
        np.testing.assert_array_equal(mine, theirs)


def test_scores_and_costs_are_those_of_the_runs(whole):
    for one in whole.candidates:
        assert one.seeds == (0, 1) and one.runs == tuple(f"candidates/{one.name}-{seed}" for seed in (0, 1))
        reports = [report_of(whole.folder / run) for run in one.runs]
        assert one.test.scores == pytest.approx([report["test"]["accuracy"] for report in reports])
        assert one.test.mean == pytest.approx(np.mean(one.test.scores))
        assert one.test.interval[0] <= one.test.mean <= one.test.interval[1]
        records = [record_of(whole.folder / run) for run in one.runs]
        assert {record["status"] for record in records} == {"finished"}
        hashes = {record["data"]["fingerprints"]["test"]["hash"] for record in records}
        assert hashes == {whole.data.fingerprints["test"]["hash"]}
        assert one.cost["train_seconds"] == max(report["cost"]["train_seconds"] for report in reports)
        assert one.cost["peak_memory_mb"] > 50 and one.cost["texts_per_second_64"] > 0
        assert one.cost["trainable_parameters"] >= 0 and one.cost["size_mb"] >= 0 and one.cost["texts_per_second_1"] > 0
    assert whole.candidate("majority").test.mean == 0.5 and whole.candidate("word2vec").test.mean > 0.9


def test_seeds_move_initialization_and_data_order_apart_from_splits(comparing):
    found = comparing(routes=("word2vec",), **MLP)
    (one,) = found.candidates
    records = [record_of(found.folder / run) for run in one.runs]
    training = [record["settings"]["training"] for record in records]
    assert [(each["seed"], each["init_seed"], each["data_seed"]) for each in training] == [(0, 0, 0), (0, 1, 1)]
    assert records[0]["data"]["fingerprints"] == records[1]["data"]["fingerprints"]
    assert (one.settings["learning_rate"], one.settings["num_train_epochs"]) == (0.02, 3)


def test_baselines_write_what_runs_write(whole):
    for name in ("tfidf", "word2vec"):
        assert list(report_of(whole.folder / f"candidates/{name}-0")) == ["train", "validation", "test", "cost"]
    files = {path.name for path in (whole.folder / "candidates" / "tfidf-0").iterdir()}
    assert files == {"experiment.json", "metrics.json", "predictions.parquet"}
    one, other = (
        pq.read_table(whole.folder / "candidates" / f"{name}-0" / "predictions.parquet")
        for name in ("tfidf", "word2vec")
    )
    assert one.column_names == other.column_names
    assert one.select(["split", "id", "true"]).equals(other.select(["split", "id", "true"]))
    assert {len(row) for table in (one, other) for row in table["probabilities"].to_pylist()} == {2}


def test_the_record_says_where_it_was_measured_and_how_to_repeat_it(whole):
    assert set(whole.machine) == {"processor", "cores", "memory_gb", "gpu", "platform"}
    assert whole.versions["scikit-learn"] and whole.versions["python"]
    assert whole.data.rows == {"train": 100, "validation": 40, "calibration": 0, "test": 80}
    assert (whole.settings["seeds"], whole.settings["delta"], whole.metric) == (2, 0.01, "accuracy")
    assert str(whole.folder) not in (whole.folder / "comparison.json").read_text()


def test_the_recommendation_and_its_classifier(whole):
    assert whole.best == whole.recommended == "word2vec"
    assert "word2vec" in whole.recommendation
    assert whole.classifier.evaluate(DATA["test"])["accuracy"] > 0.9
    assert len({(pair.one, pair.other) for pair in whole.pairs}) == len(whole.pairs) == 3
    assert [row["name"] for row in whole.table] == ["majority", "tfidf", "word2vec"]
    assert whole.table[2]["score"] == whole.candidates[2].test.mean and whole.table[2]["texts_per_second_64"] > 0


def test_the_model_of_the_first_seed_alone_is_kept(whole):
    assert (whole.folder / "candidates" / "word2vec-0" / "model").exists()
    kept = {path.parent.name for path in whole.folder.rglob("model")}
    assert kept == {"word2vec-0"} and not (whole.folder / "curve" / "40" / "word2vec-0" / "model").exists()
    assert [path.parent for path in whole.folder.rglob("report.html")] == [whole.folder]


def test_a_finished_comparison_is_returned_as_it_is(whole, comparing, tmp_path):
    before = files_of(whole.folder)
    routes = ("majority", "tfidf", "word2vec")
    assert whole.candidates[2].base.split(" ")[0] == "small.txt"
    again = comparing(whole.folder, routes=routes, sizes=(40, 90), max_minutes=60, **LINEAR)
    assert files_of(again.folder) == before and without_times(again) == without_times(whole)
    # It may have been killed just before this was written.
    (whole.folder / "report.html").unlink()
    comparing(whole.folder, report=True, routes=routes, sizes=(40, 90), max_minutes=60, **LINEAR)
    assert files_of(whole.folder).keys() == before.keys()
    with pytest.raises(RunFolderError, match="expected the folder of a finished comparison"):
        ComparisonResult.load(tmp_path)


# Curves


def test_the_curve_has_every_candidate_at_every_size(whole):
    points = {(point.candidate, point.size) for point in whole.curve}
    assert points == {(name, size) for name in ("majority", "tfidf", "word2vec") for size in (40, 90, 140)}
    for point in whole.curve:
        assert point.reason is None and point.interval[0] <= point.mean <= point.interval[1]
    assert {(pair.one, pair.other) for pair in whole.rows_to_reach} >= {("word2vec", "tfidf")}


@pytest.mark.parametrize("own_validation", [True, False])
def test_labeled_rows_of_a_smaller_size_are_part_of_a_larger(own_validation):
    given = DATA if own_validation else {name: DATA[name] for name in ("train", "test")}
    drawn = []
    for size in (20, 50, 90, None):
        data = load_data(given, DataSettings(max_train_rows=size, rows_seed=3))
        drawn.append({text for name in ("train", "validation", "calibration") for text in data.splits[name].texts})
        assert data.test.fingerprint() == load_data(given).test.fingerprint()
    assert all(less < more for less, more in pairwise(drawn))


# Choosing


def test_trials_hold_no_row_of_test(comparing, monkeypatch):
    run, seen = SharedSettings.run, []

    def watched(self, candidate, data, folder, *rest, **options):
        seen.append((folder.parent.name, folder.name, len(data.test)))
        return run(self, candidate, data, folder, *rest, **options)

    monkeypatch.setattr(SharedSettings, "run", watched)
    found = comparing(routes=("majority", "word2vec"), trials=3, **MLP)
    assert [one for one in seen if one[0] == "trials"] == [("trials", f"word2vec-{number}", 0) for number in range(3)]
    assert [folder for folder, name, _ in seen if name.startswith("word2vec")] == ["trials"] * 3 + ["candidates"] * 2
    tuned = found.candidate("word2vec")
    assert [trial.settings["learning_rate"] for trial in tuned.trials] == pytest.approx([0.02, 0.02 / 3, 0.06])
    best = max(tuned.trials, key=lambda trial: trial.validation)
    assert tuned.settings["learning_rate"] == best.settings["learning_rate"]
    for number, trial in enumerate(tuned.trials):
        folder = found.folder / "trials" / f"word2vec-{number}"
        report = report_of(folder)
        assert "test" not in report and report["validation"]["accuracy"] == trial.validation
        assert set(pq.read_table(folder / "predictions.parquet")["split"].to_pylist()) == {"validation"}
        assert not (folder / "model").exists()


def test_a_fitted_head_and_one_trial_try_nothing(comparing):
    assert comparing("fitted", routes=("word2vec",), trials=3, **LINEAR).candidates[0].trials == ()
    assert comparing("one", routes=("word2vec",), seeds=1, **MLP).candidates[0].trials == ()


def test_other_test_labels_choose_nothing_else(comparing):
    turned = {**DATA, "test": (DATA["test"][0], random.Random(5).choices(["good", "bad"], k=80))}
    runs = [
        comparing(name, data=data, routes=("tfidf", "word2vec"), trials=2, seeds=1, **MLP)
        for name, data in (("a", DATA), ("b", turned))
    ]
    chosen = [[(one.settings, one.trials, one.validation) for one in run.candidates] for run in runs]
    assert chosen[0] == chosen[1] and runs[0].candidates[1].test != runs[1].candidates[1].test


def test_a_trial_that_fails_does_not_end_the_candidate(comparing, monkeypatch):
    run = SharedSettings.run

    def failing(self, candidate, data, folder, seed, chosen, **options):
        if chosen.get("learning_rate", 0) > 0.05:
            raise TrainingError("the loss is no longer a number")
        return run(self, candidate, data, folder, seed, chosen, **options)

    monkeypatch.setattr(SharedSettings, "run", failing)
    (one,) = comparing(routes=("word2vec",), trials=3, seeds=1, **MLP).candidates
    assert one.status == "finished" and one.trials[2].validation is None
    assert one.trials[2].reason == "TrainingError: the loss is no longer a number"
    (one,) = comparing("none", routes=("word2vec",), trials=2, seeds=1, **{**MLP, "learning_rate": 5.0}).candidates
    assert one.status == "failed" and "the loss is no longer a number" in one.reason


# What fails and what does not fit


def test_a_candidate_that_fails_is_named_and_the_others_go_on(comparing):
    found = comparing(report=True, routes=("majority", "probe", "word2vec", "lora"), seeds=1, **LINEAR)
    assert {one.name: one.status for one in found.candidates} == {
        "majority": "finished", "word2vec": "finished", "probe": "failed", "lora": "failed"
    }  # fmt: skip
    failed = found.candidate("probe")
    assert failed.reason.startswith("BaseModelError: ") and failed.test is None
    assert found.recommended == "word2vec"
    row = next(row for row in found.table if row["name"] == "probe")
    assert row["score"] is None and row["reason"] == failed.reason


class Time:
    """A clock that goes only when a run is made."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: dict[str, float]):
        self.now, self.seconds, self.made = 0.0, seconds, list[str]()
        run = SharedSettings.run
        patch.setattr("nlptransfer.experiments.comparison_run.clock", lambda: self.now)

        def timed(shared, candidate, data, folder, *rest, **options):
            made = run(shared, candidate, data, folder, *rest, **options)
            self.made.append(f"{folder.parent.name}/{folder.name}")
            self.now += self.seconds[candidate.name if folder.parent.name == "candidates" else folder.parent.name]
            return made

        patch.setattr(SharedSettings, "run", timed)


def test_a_candidate_that_would_not_fit_is_left_out(comparing, monkeypatch):
    clock = Time(monkeypatch, {"majority": 500.0, "tfidf": 500.0, "pilots": 30.0, "word2vec": 30.0})
    found = comparing(report=True, max_minutes=1, **LINEAR)
    # Baselines run whatever the budget is.
    assert [one.status for one in found.candidates] == ["finished", "finished", "skipped"]
    assert found.candidate("word2vec").reason == "no time is left of the budget"
    assert not any("word2vec" in name for name in clock.made)


def test_the_estimate_is_of_all_runs(comparing, monkeypatch):
    clock = Time(monkeypatch, {"majority": 1.0, "pilots": 30.0, "word2vec": 30.0})
    # 3 for the baseline, 30 for the pilot; three runs take 90, or some more as rows are scored.
    found = comparing("fits", routes=("majority", "word2vec"), seeds=3, max_minutes=2.5, **LINEAR)
    one = found.candidate("word2vec")
    assert one.status == "finished" and 89 < one.estimated_seconds < 100
    assert clock.made.count("pilots/word2vec-first") == 1 and "pilots/word2vec-second" not in clock.made
    clock.now, clock.made = 0.0, []
    found = comparing("does not", routes=("majority", "word2vec"), seeds=3, max_minutes=1.5, **LINEAR)
    one = found.candidate("word2vec")
    assert one.status == "skipped" and one.test is None
    assert "3 runs would take about 9" in one.reason and "27 s are left of the budget" in one.reason
    # The first pilot may have filled caches: the second is what decides.
    assert [name for name in clock.made if "word2vec" in name] == ["pilots/word2vec-first", "pilots/word2vec-second"]


def test_a_candidate_that_takes_longer_than_expected_is_given_up_in_time(comparing, monkeypatch):
    clock = Time(monkeypatch, {"majority": 0.0, "pilots": 1.0, "word2vec": 100.0})
    one = comparing(routes=("majority", "word2vec"), seeds=3, max_minutes=4, **LINEAR).candidate("word2vec")
    assert one.status == "skipped" and one.reason == (
        "its first run took 100 s, the others would take 200 s, and 139 s are left of the budget"
    )
    made = [name for name in clock.made if name.startswith("candidates/word2vec")]
    assert made == ["candidates/word2vec-0"] and clock.now < 240


def test_trials_are_in_the_estimate(comparing, monkeypatch):
    Time(monkeypatch, {"pilots": 10.0, "word2vec": 10.0, "trials": 10.0})
    (one,) = comparing(routes=("word2vec",), trials=3, max_minutes=60, **MLP).candidates
    assert one.estimated_seconds > 49


def test_points_of_a_curve_that_would_not_fit_are_left_out(comparing, monkeypatch):
    Time(monkeypatch, {"majority": 0.0, "pilots": 1.0, "word2vec": 25.0, "20": 15.0, "40": 25.0})
    found = comparing(report=True, routes=("majority", "word2vec"), max_minutes=3, sizes=(40, 20), **LINEAR)
    measured = [(point.candidate, point.size) for point in found.curve if point.mean is not None and point.size < 140]
    assert measured == [("majority", 20), ("word2vec", 20), ("majority", 40)]
    (left,) = [point for point in found.curve if point.mean is None]
    assert (left.candidate, left.size) == ("word2vec", 40) and "s are left of the budget" in left.reason


def test_where_nothing_is_finished_nothing_is_recommended(comparing):
    found = comparing(report=True, routes=("probe",), seeds=1)
    assert found.recommended is None and found.best is None
    with pytest.raises(RunFolderError, match="expected a classifier of the recommended candidate, found none"):
        _ = found.classifier


def test_routes_from_an_encoder(comparing, tmp_path):
    base = make_film_base(tmp_path / "encoder")
    quick = {"num_train_epochs": 1, "max_length": 16, "seeds": 1, "max_minutes": 60}
    found = comparing(routes=("full", "lora", "probe"), bases=(base,), **quick, learning_rate=1e-3)
    assert [one.name for one in found.candidates] == ["probe", "lora", "full"]
    for one in found.candidates:
        assert (one.status, one.reason) == ("finished", None) and one.estimated_seconds > 0
        assert one.cost["texts_per_second_1"] > 0 and one.test.spread is None


# Data that should make one wary


SMALL = {"train": remarks_of(40, 0, 0), "validation": remarks_of(6, 1, 1), "test": remarks_of(20, 2, 2)}


def test_few_rows_are_cross_validated_and_the_sentence_says_which_rows_decided(comparing):
    found = comparing(report=True, data=SMALL, routes=("majority", "tfidf"))
    assert found.recommendation.endswith(" (decided by cross-validation of 46 and 20 test rows)")
    folds = sorted((found.folder / "trials").glob("tfidf-fold-*"))
    held_out = [pq.read_table(fold / "predictions.parquet").to_pylist() for fold in folds]
    rows = [row for fold in held_out for row in fold if row["split"] == "validation"]
    assert len(folds) == 5 and len(rows) == 46 and not any(row["split"] == "test" for fold in held_out for row in fold)
    # Every labeled row once, and the score is that of all of them.
    share = np.mean([row["true"] == row["predicted"] for row in rows])
    assert found.candidate("tfidf").validation == pytest.approx(share)
    assert found.candidate("majority").validation <= 0.5


def test_many_rows_decide_as_they_are(whole):
    assert whole.recommendation.endswith(" (decided by 40 validation and 80 test rows)")


def test_trials_of_few_rows_are_cross_validated_too(comparing):
    found = comparing(data=SMALL, routes=("word2vec",), trials=2, seeds=1, **MLP)
    (one,) = found.candidates
    names = {path.name for path in (found.folder / "trials").iterdir()}
    assert names == {f"word2vec-{trial}-fold-{fold}" for trial in range(2) for fold in range(5)}
    assert one.validation == max(trial.validation for trial in one.trials)


def test_fewer_than_three_seeds_give_no_interval_of_what_they_move(comparing):
    routes = [Word2Vec(head_type="mlp", mlp_sizes=(8,)), Word2Vec(head_type="linear")]
    found = comparing(report=True, routes=routes, learning_rate=0.02, num_train_epochs=3)
    trained, fitted = found.candidates
    assert trained.test.interval is None and fitted.test.interval is not None and len(trained.test.wilson) == 2
    assert found.pairs == () and found.recommended == found.best
    assert f"fewer than 3 seeds give no interval of {trained.name}" in found.recommendation
    assert [row["low"] is None for row in found.table] == [True, False]
    # No interval is no empty brackets either.
    assert "[None" not in (found.folder / "report.html").read_text()
    assert ComparisonResult.load(found.folder).candidates == found.candidates


def test_permuted_labels_end_in_no_route_beating_the_majority(comparing):
    draw = random.Random(4)
    permuted = {name: (texts, draw.sample(labels, len(labels))) for name, (texts, labels) in DATA.items()}
    found = comparing(report=True, data=permuted, **LINEAR)
    assert "no route beats the majority" in found.recommendation
    assert found.recommended is None


def test_a_planted_leak_is_named(comparing, caplog):
    (train, labels), (test, test_labels) = DATA["train"], DATA["test"]
    leaked = {**DATA, "train": ([*train, *test[:8]], [*labels, *test_labels[:8]])}
    found = comparing(report=True, data=leaked, routes=("majority",), seeds=1)
    leak, drift = found.data.warnings
    assert leak.startswith("leak: 8 of the 80 test texts (10.0%) are in train too, case and punctuation aside: scores")
    assert [line for line in caplog.messages if "leak" in line] == [f"data: {leak}"]
    assert (
        ComparisonResult.load(found.folder).data.warnings == found.first_run("majority").data.warnings == (leak, drift)
    )
    assert leak in (found.folder / "report.html").read_text()


def test_several_labels(comparing, tickets):
    found = comparing(report=True, data=tickets, **LINEAR)
    assert found.metric == "f1_micro" and found.data.labels.multi_label
    for one in found.candidates:
        reports = [report_of(found.folder / run)["test"] for run in one.runs]
        assert one.test.mean == pytest.approx(np.mean([report["f1_micro"] for report in reports]))
        assert one.test.wilson is None
    assert found.candidate("word2vec").test.mean > found.candidate("majority").test.mean
    assert found.recommended in ("tfidf", "word2vec")


# Going on


KILLED = """
import gc, os, signal, sys
from pathlib import Path
from nlptransfer.experiments import environment
from nlptransfer.experiments.candidates import SharedSettings
from nlptransfer.experiments.comparison import compare
from nlptransfer.training import loop

data, vectors, folder = sys.argv[1:]
environment.SPEED_SECONDS = 0.0
made_by = SharedSettings.run
given = {"routes": ("majority", "word2vec"), "bases": (vectors,), "seeds": 2, "trials": 2, "sizes": (40,)}
given |= {"head_type": "mlp", "mlp_sizes": (8,), "learning_rate": 0.02, "num_train_epochs": 3, "progress": False}
gc.freeze()

def run(name, kill_at=None):
    made = 0

    def killing(*rest, **options):
        nonlocal made
        made += 1
        if made == kill_at:
            # In the middle of the training: a forward pass is done, and no checkpoint is complete.
            loop.make_optimizer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return made_by(*rest, **options)

    SharedSettings.run = killing
    compare(data, output_dir=Path(folder) / name, **given)

# Runs: 2 of majority, then of word2vec 2 trials and 2 seeds; then the curve.
child = os.fork()
if not child:
    run("cut", 6)
    os._exit(1)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
run("whole")
"""


def test_killed_and_started_again_it_says_the_same(tmp_path, vectors_file, comparing):
    data = write_splits(tmp_path / "rows", DATA)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, data, vectors_file, tmp_path],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    whole, folder = ComparisonResult.load(tmp_path / "whole"), tmp_path / "cut"
    given = {"data": data, "routes": ("majority", "word2vec"), "trials": 2, "sizes": (40,), **MLP}

    def finished() -> dict[str, tuple[int, int]]:
        return {
            path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
            for record in folder.rglob("experiment.json")
            if read_json(record)["status"] == "finished"
            for path in record.parent.glob("*.*")
        }

    before = finished()
    # Two runs of the baseline, two trials, and the first seed, which notes what it has learned from.
    assert len(before) == 5 * 3 + 1
    with pytest.raises(RunFolderError, match="expected the folder of a finished comparison"):
        ComparisonResult.load(folder)
    with pytest.raises(RunFolderError, match="holds a run with trials=2"):
        comparing("cut", **{**given, "trials": 3})
    found = comparing("cut", **given)
    assert without_times(found) == without_times(whole)
    assert found.best == "word2vec" and len(found.curve) == 4
    assert {place: stamp for place, stamp in finished().items() if place in before} == before


def test_what_was_left_out_or_failed_stays_so(comparing, monkeypatch, tmp_path):
    clock = Time(monkeypatch, {"majority": 0.0, "pilots": 50.0, "word2vec": 50.0})
    given = {"routes": ("majority", "word2vec", "probe", "lora"), "max_minutes": 2, **LINEAR}
    run, asked = SharedSettings.run, list[str]()

    def stopping(shared, candidate, *rest, **options):
        asked.append(candidate.name)
        if candidate.name == "lora":
            raise KeyboardInterrupt
        return run(shared, candidate, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SharedSettings, "run", stopping)
        comparing(**given)
    before = ComparisonResult.load_any(tmp_path / "out")
    assert [one.status for one in before.candidates] == ["finished", "skipped", "failed", "waiting"]
    # With time to spare it would be tried, and it could work by now.
    clock.seconds["pilots"], asked[:] = 0.1, []
    monkeypatch.setattr(
        SharedSettings, "run", lambda *rest, **options: (asked.append(rest[1].name), run(*rest, **options))[1]
    )
    after = comparing(**given)
    assert asked == ["lora"] and after.candidates[:3] == before.candidates[:3]
    assert after.spent_seconds >= before.spent_seconds >= 100


# What is asked for


def test_settings_go_to_the_routes_that_have_them(comparing):
    found = comparing(routes=("word2vec", Lora(rank=2)), max_words=50, **LINEAR)
    assert record_of(found.folder / "candidates/word2vec-0")["settings"]["route"]["max_words"] == 50
    assert found.settings["candidates"][1]["settings"]["rank"] == 2


def test_candidates_are_named_apart():
    candidates = candidates_of(("lora", "majority", "word2vec"), ("a/small", None), {"rank": 3})
    names = ["majority", "word2vec-small", "word2vec-default", "lora-small", "lora-default"]
    assert [one.name for one in candidates] == names
    assert candidates[3].route == Lora(rank=3) and candidates[1].route == Word2Vec()
    candidates = candidates_of((Lora(rank=4), Lora(rank=8)), (None,), {})
    assert [one.name for one in candidates] == ["lora rank=4", "lora rank=8"]
    with pytest.raises(SettingError, match="expected each candidate once, found lora twice"):
        candidates_of(("lora", Lora()), (None,), {})
    with pytest.raises(SettingError, match="unknown route 'lore': did you mean 'lora'"):
        candidates_of(("lore",), (None,), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds=0: expected a whole number from 1"),
        ({"trials": 0}, "trials=0"),
        ({"max_minutes": 0}, "max_minutes=0"),
        ({"delta": 1.0}, r"delta=1\.0"),
        ({"routes": ()}, "routes="),
        ({"bases": ()}, "bases="),
        *(({"sizes": sizes}, "sizes=") for sizes in ((0,), (20, 20), (141,))),
        ({"metric_for_best_model": "loss"}, "needs probabilities"),
        ({"rank": 2}, "unknown setting 'rank', for these routes"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"head_type": "forest"}, "head_type"),
        ({"data": DATA["train"], "test_size": 0.0}, "expected test rows to compare on, found none: set test_size"),
    ],
)
def test_values_that_make_no_sense(settings, message, comparing, tmp_path):
    with pytest.raises((SettingError, DataError), match=message):
        comparing(**settings)
    assert not (tmp_path / "out").exists()


def test_changed_settings_and_other_files_are_refused(comparing, tmp_path):
    first = comparing(routes=("majority",), seeds=1)
    for changed in ({"seeds": 2}, {"delta": 0.02}, {"routes": ("tfidf",)}, {"max_minutes": 5}, {"split_seed": 1}):
        with pytest.raises(RunFolderError, match="holds a run with"):
            comparing(**{"routes": ("majority",), "seeds": 1, **changed})
    assert comparing(routes=("majority",), seeds=2, overwrite=True).candidates[0].seeds == (0, 1)
    assert first.folder == tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="found other files"):
        comparing("full", routes=("majority",))


def test_folders_are_named_after_data_and_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [compare(DATA, routes=("majority",), seeds=seeds).folder for seeds in (1, 2)]
    assert found[0] != found[1] and all(folder.parent == Path("runs") for folder in found)


# Parts


def test_few_rows_have_all_labels_and_no_test():
    data = load_data({**DATA, "train": remarks_of(1000, 6, 0)}, DataSettings(calibration_size=0.1))
    few = few_rows(data)
    assert len(few.train) == candidates.PILOT_ROWS and len(few.test) == 0
    assert np.bincount(few.train.targets).tolist() == [candidates.PILOT_ROWS // 2] * 2
    assert set(few.train.texts) <= set(data.train.texts) and 0 < len(few.validation) < len(data.validation)
    assert len(without_test(data).test) == 0 and without_test(data).train is data.train
    small = few_rows(load_data(DATA))
    assert len(small.train) == 100 and len(small.calibration) == 0


def test_speeds_are_measured_after_a_warm_up(monkeypatch):
    asked = []
    found = speeds(lambda texts: asked.append(len(texts)), ["a", "b", "c"])
    assert asked == [1, 1, 64, 64] and set(found) == {"texts_per_second_1", "texts_per_second_64"}


@pytest.mark.parametrize(
    ("speed", "asked"), [(100, [64]), (1000, [64, 450]), (10**6, [64, 1024, 16_384, 262_144, 450_000])]
)
def test_the_speed_is_measured_on_texts_that_take_long_enough(monkeypatch, speed, asked):
    clock, counts = [0.0], []

    class Predicting:
        def probabilities(self, texts):
            counts.append(len(texts))
            clock[0] += len(texts) / speed

    monkeypatch.setattr(environment, "SPEED_SECONDS", 0.3)
    monkeypatch.setattr(environment.time, "perf_counter", lambda: clock[0])
    assert texts_per_second(Predicting(), ["a", "b", "c"]) == pytest.approx(speed) and counts == asked


def test_memory_that_is_held_for_a_while_counts():
    with watched_memory() as small:
        pass
    # Not from what the process has freed and kept.
    with watched_memory() as peak, mmap.mmap(-1, 2**26) as block:
        block.write(b"1" * 2**26)
        time.sleep(0.1)
    assert peak[0] > small[0] + 40
