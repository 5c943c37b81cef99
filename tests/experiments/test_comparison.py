"""compare(): all routes on one split, over seeds; what it writes, chooses, leaves out, and goes on with."""

import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.corpora import FILLER, TOPIC_WORDS, write_splits
from helpers.encoders import make_film_base
from helpers.folders import files_of
from helpers.runs import compare
from nlptransfer import Lora, Word2Vec
from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.errors import DataError, RunFolderError, SettingError, TrainingError
from nlptransfer.experiments import candidates
from nlptransfer.experiments.candidates import Workshop, few_rows, next_rate, rungs_of, without_test
from nlptransfer.experiments.comparison import Comparison
from nlptransfer.experiments.environment import speeds, watched_memory

LINEAR = {"head_type": "linear"}
MLP = {"head_type": "mlp", "mlp_sizes": (8,), "learning_rate": 0.02, "num_train_epochs": 3}
RUNG = {
    "name", "route", "base", "status", "reason", "seeds", "runs", "settings", "trials", "validation", "test", "cost",
}  # fmt: skip


def remarks_of(rows: int, seed: int, part: int) -> tuple[list[str], list[str]]:
    """Texts whose words only vectors can tell to be of one topic with those of another part."""
    draw = random.Random(seed)
    topics = ["good", "bad"] * (rows // 2)
    words = [draw.sample(FILLER, 7) + draw.sample(TOPIC_WORDS[topic][part::3], 3) for topic in topics]
    return [" ".join(row) for row in words], topics


DATA = {"train": remarks_of(100, 0, 0), "validation": remarks_of(40, 1, 1), "test": remarks_of(80, 2, 2)}


@pytest.fixture
def climb(vectors_file: Path, tmp_path: Path) -> Callable[..., Comparison]:
    def call(name: str = "out", **settings: Any) -> Comparison:
        given = {"bases": (vectors_file,), "seeds": 2, **settings}
        given.setdefault("routes", ("majority", "tfidf", "word2vec"))
        return compare(given.pop("data", DATA), output_dir=tmp_path / name, **given)

    return call


def rungs_by_name(found: Comparison) -> dict[str, dict[str, Any]]:
    return {rung["name"]: rung for rung in found.rungs}


def said_again(record: dict[str, Any]) -> dict[str, Any]:
    """What must come out the same each time: all but times and costs."""
    varying = {"cost", "seconds_of_run", "peak_memory_mb", "estimated_seconds"}
    rungs = [{name: value for name, value in rung.items() if name not in varying} for rung in record["rungs"]]
    return {**record, "rungs": rungs, "spent_seconds": None}


@pytest.fixture(scope="module")
def whole(vectors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    """Three rungs over two seeds, with a curve."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    routes = ("word2vec", "tfidf", "majority")
    given = {"seeds": 2, "sizes": (90, 40), "max_minutes": 60, **LINEAR}
    yield compare(DATA, routes=routes, bases=(vectors_file,), output_dir=folder, **given)


# What a comparison leaves behind


def test_rungs_are_in_the_order_of_cost(whole):
    assert [rung["name"] for rung in whole.rungs] == ["majority", "tfidf", "word2vec"]
    assert all(set(rung) >= RUNG and rung["status"] == "finished" and rung["reason"] is None for rung in whole.rungs)
    assert whole.rungs[2]["base"].startswith("small.txt (") and whole.rungs[0]["base"] is None


def test_scores_are_those_of_the_runs(whole):
    for rung in whole.rungs:
        assert rung["seeds"] == [0, 1] and rung["runs"] == [f"rungs/{rung['name']}-{seed}" for seed in (0, 1)]
        reports = [json.loads((whole.folder / run / "metrics.json").read_text()) for run in rung["runs"]]
        assert rung["test"]["scores"] == pytest.approx([report["test"]["accuracy"] for report in reports])
        assert rung["test"]["mean"] == pytest.approx(np.mean(rung["test"]["scores"]))
        low, high = rung["test"]["interval"]
        assert low <= rung["test"]["mean"] <= high
        records = [json.loads((whole.folder / run / "experiment.json").read_text()) for run in rung["runs"]]
        assert {record["status"] for record in records} == {"finished"}
        hashes = {record["data"]["fingerprints"]["test"]["hash"] for record in records}
        assert hashes == {whole.record["data"]["fingerprints"]["test"]["hash"]}
    by_name = rungs_by_name(whole)
    assert by_name["majority"]["test"]["mean"] == 0.5 and by_name["word2vec"]["test"]["mean"] > 0.9


def test_seeds_move_initialization_and_data_order_apart_from_splits(climb):
    found = climb(routes=("word2vec",), **MLP)
    records = [json.loads((found.folder / run / "experiment.json").read_text()) for run in found.rungs[0]["runs"]]
    told = [record["settings"]["training"] for record in records]
    assert [(one["seed"], one["init_seed"], one["data_seed"]) for one in told] == [(0, 0, 0), (0, 1, 1)]
    assert records[0]["data"]["fingerprints"] == records[1]["data"]["fingerprints"]
    assert {name: found.rungs[0]["settings"][name] for name in ("learning_rate", "num_train_epochs")} == {
        "learning_rate": 0.02, "num_train_epochs": 3
    }  # fmt: skip


def test_costs(whole):
    names = {
        "train_seconds", "peak_memory_mb", "trainable_parameters", "size_mb", "texts_per_second_1",
        "texts_per_second_64",
    }  # fmt: skip
    for rung in whole.rungs:
        assert set(rung["cost"]) >= names and all(rung["cost"][name] >= 0 for name in names)
        assert rung["cost"]["peak_memory_mb"] > 50 and rung["cost"]["texts_per_second_64"] > 0
        reports = [json.loads((whole.folder / run / "metrics.json").read_text())["cost"] for run in rung["runs"]]
        assert rung["cost"]["train_seconds"] == max(report["train_seconds"] for report in reports)


def test_baselines_write_what_runs_write(whole):
    for name in ("tfidf", "word2vec"):
        report = json.loads((whole.folder / "rungs" / f"{name}-0" / "metrics.json").read_text())
        assert list(report) == ["train", "validation", "test", "cost"]
    files = {path.name for path in (whole.folder / "rungs" / "tfidf-0").iterdir()}
    assert files == {"experiment.json", "metrics.json", "predictions.parquet"}
    tables = [
        pq.read_table(whole.folder / "rungs" / f"{name}-0" / "predictions.parquet") for name in ("tfidf", "word2vec")
    ]
    assert tables[0].column_names == tables[1].column_names
    for column in ("split", "id", "true"):
        assert tables[0][column].to_pylist() == tables[1][column].to_pylist()
    shapes = [{len(row) for row in table["probabilities"].to_pylist()} for table in tables]
    assert shapes == [{2}, {2}]


def test_the_record_says_where_it_was_measured_and_how_to_repeat_it(whole):
    record = whole.record
    assert set(record["machine"]) == {"processor", "cores", "memory_gb", "gpu", "platform"}
    assert record["versions"]["scikit-learn"] and record["versions"]["python"]
    assert record["data"]["rows"] == {"train": 100, "validation": 40, "calibration": 0, "test": 80}
    assert record["asked"]["seeds"] == 2 and record["metric"] == "accuracy" and record["delta"] == 0.01
    assert str(whole.folder) not in json.dumps(record)


def test_the_recommendation_and_its_classifier(whole):
    assert whole.best == whole.recommended == "word2vec"
    assert "word2vec" in whole.record["recommendation"]["sentence"]
    texts, labels = DATA["test"]
    assert (
        np.mean([one.label == label for one, label in zip(whole.classifier.predict(texts), labels, strict=True)]) > 0.9
    )
    assert {(pair["one"], pair["other"]) for pair in whole.record["pairs"]} and len(whole.record["pairs"]) == 3
    assert [row["name"] for row in whole.table] == ["majority", "tfidf", "word2vec"]
    assert whole.table[2]["score"] == whole.rungs[2]["test"]["mean"] and whole.table[2]["texts_per_second_64"] > 0


def test_the_model_of_the_first_seed_alone_is_kept(whole):
    assert (whole.folder / "rungs" / "word2vec-0" / "model").exists()
    kept = {path.parent.name for path in whole.folder.rglob("model")}
    assert kept == {"word2vec-0"} and not (whole.folder / "curve" / "40" / "word2vec-0" / "model").exists()
    assert [path.parent for path in whole.folder.rglob("report.html")] == [whole.folder]


def test_a_finished_comparison_is_returned_as_it_is(whole, climb, tmp_path):
    before = files_of(whole.folder)
    routes = ("majority", "tfidf", "word2vec")
    base = whole.rungs[2]["base"].split(" ")[0]
    assert base == "small.txt"
    again = climb(whole.folder, routes=routes, sizes=(40, 90), max_minutes=60, **LINEAR)
    assert files_of(again.folder) == before and again.record == whole.record
    with pytest.raises(RunFolderError, match="expected the folder of a finished comparison"):
        Comparison(tmp_path)


# Curves


def test_the_curve_has_every_rung_at_every_size(whole):
    points = {(point["rung"], point["size"]) for point in whole.record["curve"]}
    assert points == {(name, size) for name in ("majority", "tfidf", "word2vec") for size in (40, 90, 140)}
    assert whole.record["curve_left_out"] == []
    for point in whole.record["curve"]:
        assert point["interval"][0] <= point["mean"] <= point["interval"][1]


@pytest.mark.parametrize("own_validation", [True, False])
def test_labeled_rows_of_a_smaller_size_are_part_of_a_larger(own_validation):
    given = DATA if own_validation else {name: DATA[name] for name in ("train", "test")}
    drawn = []
    for size in (20, 50, 90, None):
        data = load_data(given, DataSettings(max_train_rows=size, rows_seed=3))
        drawn.append({text for name in ("train", "validation", "calibration") for text in data.splits[name].texts})
        assert data.test.fingerprint() == load_data(given).test.fingerprint()
    assert all(less < more for less, more in pairwise(drawn))


@pytest.mark.parametrize("sizes", [(0,), (20, 20), (141,)])
def test_sizes_that_make_no_sense(sizes, climb):
    with pytest.raises(SettingError, match="sizes="):
        climb(sizes=sizes)


# Choosing


def test_trials_hold_no_row_of_test(climb, monkeypatch):
    make, seen = Workshop.make, []

    def watched(self, rung, data, folder, *rest):
        seen.append((folder.parent.name, folder.name, len(data.test)))
        make(self, rung, data, folder, *rest)

    monkeypatch.setattr(Workshop, "make", watched)
    found = climb(routes=("majority", "word2vec"), trials=3, **MLP)
    assert [one for one in seen if one[0] == "trials"] == [("trials", f"word2vec-{number}", 0) for number in range(3)]
    order = [folder for folder, name, _ in seen if name.startswith("word2vec")]
    assert order == ["trials"] * 3 + ["rungs"] * 2
    trials = rungs_by_name(found)["word2vec"]["trials"]
    assert [trial["settings"]["learning_rate"] for trial in trials] == pytest.approx([0.02, 0.02 / 3, 0.06])
    best = max(trials, key=lambda trial: trial["validation"])
    assert rungs_by_name(found)["word2vec"]["settings"]["learning_rate"] == best["settings"]["learning_rate"]
    for number, trial in enumerate(trials):
        folder = found.folder / "trials" / f"word2vec-{number}"
        report = json.loads((folder / "metrics.json").read_text())
        assert "test" not in report and report["validation"]["accuracy"] == trial["validation"]
        assert set(pq.read_table(folder / "predictions.parquet")["split"].to_pylist()) == {"validation"}
        assert not (folder / "model").exists()


def test_a_solved_head_and_one_trial_try_nothing(climb):
    assert climb("solved", routes=("word2vec",), trials=3, **LINEAR).rungs[0]["trials"] == []
    assert climb("one", routes=("word2vec",), seeds=1, **MLP).rungs[0]["trials"] == []


def test_other_test_labels_choose_nothing_else(climb):
    draw = random.Random(5)
    turned = {**DATA, "test": (DATA["test"][0], draw.choices(["good", "bad"], k=80))}
    runs = [
        climb(name, data=data, routes=("tfidf", "word2vec"), trials=2, seeds=1, **MLP)
        for name, data in (("a", DATA), ("b", turned))
    ]
    told = [[(rung["settings"], rung["trials"], rung["validation"]) for rung in run.rungs] for run in runs]
    assert told[0] == told[1] and runs[0].rungs[1]["test"] != runs[1].rungs[1]["test"]


def test_a_trial_that_fails_does_not_end_the_rung(climb, monkeypatch):
    make = Workshop.make

    def failing(self, rung, data, folder, seed, chosen, *rest):
        if chosen.get("learning_rate", 0) > 0.05:
            raise TrainingError("the loss is no longer a number")
        make(self, rung, data, folder, seed, chosen, *rest)

    monkeypatch.setattr(Workshop, "make", failing)
    (rung,) = climb(routes=("word2vec",), trials=3, seeds=1, **MLP).rungs
    assert rung["status"] == "finished" and rung["trials"][2]["validation"] is None
    assert rung["trials"][2]["reason"] == "TrainingError: the loss is no longer a number"
    (rung,) = climb("none", routes=("word2vec",), trials=2, seeds=1, **{**MLP, "learning_rate": 5.0}).rungs
    assert rung["status"] == "failed" and "the loss is no longer a number" in rung["reason"]


def test_learning_rates_are_near_the_default_first():
    tried: list[tuple[float, float | None]] = []
    while len(tried) < 12:
        tried.append((next_rate(1e-3, tried, 3), None))
    rates = [rate for rate, _ in tried]
    assert rates[:3] == pytest.approx([1e-3, 1e-3 / 3, 3e-3])
    assert len({round(rate, 9) for rate in rates}) == 12 and min(rates) >= 1e-4 and max(rates) <= 1e-2


def test_beyond_three_trials_optuna_says_where_to_look():
    pytest.importorskip("optuna", reason="the grid is tried where optuna is not installed")
    tried: list[tuple[float, float | None]] = []
    while len(tried) < 10:
        rate = next_rate(1e-3, tried, 10)
        tried.append((rate, None if len(tried) == 1 else -abs(np.log(rate / 3e-3))))
    assert [rate for rate, _ in tried[:3]] == pytest.approx([1e-3, 1e-3 / 3, 3e-3])
    assert all(1e-4 <= rate <= 1e-2 for rate, _ in tried) and len({rate for rate, _ in tried}) == 10
    assert next_rate(1e-3, tried, 11) == next_rate(1e-3, tried, 11)


# What fails and what does not fit


def test_a_rung_that_fails_is_told_and_the_others_go_on(climb):
    found = climb(routes=("majority", "probe", "word2vec", "lora"), seeds=1, **LINEAR)
    told = rungs_by_name(found)
    assert {name: rung["status"] for name, rung in told.items()} == {
        "majority": "finished", "word2vec": "finished", "probe": "failed", "lora": "failed"
    }  # fmt: skip
    assert told["probe"]["reason"].startswith("BaseModelError: ") and told["probe"]["test"] is None
    assert found.recommended == "word2vec"
    row = next(row for row in found.table if row["name"] == "probe")
    assert row["score"] is None and row["reason"] == told["probe"]["reason"]


class Time:
    """A clock that goes only when a run is made."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: dict[str, float]):
        self.now, self.seconds, self.made = 0.0, seconds, list[str]()
        make = Workshop.make
        patch.setattr("nlptransfer.experiments.comparison_run.clock", lambda: self.now)

        def timed(workshop, rung, data, folder, *rest):
            make(workshop, rung, data, folder, *rest)
            self.made.append(f"{folder.parent.name}/{folder.name}")
            self.now += self.seconds[rung.name if folder.parent.name == "rungs" else folder.parent.name]

        patch.setattr(Workshop, "make", timed)


def test_a_rung_that_would_not_fit_is_left_out(climb, monkeypatch):
    clock = Time(monkeypatch, {"majority": 500.0, "tfidf": 500.0, "pilots": 30.0, "word2vec": 30.0})
    found = climb(max_minutes=1, **LINEAR)
    told = rungs_by_name(found)
    # Baselines run whatever the budget is.
    assert [told[name]["status"] for name in ("majority", "tfidf", "word2vec")] == ["finished", "finished", "skipped"]
    assert told["word2vec"]["reason"] == "no time is left of the budget"
    assert not any("word2vec" in name for name in clock.made)


def test_the_estimate_is_of_all_runs(climb, monkeypatch):
    seconds = {"majority": 1.0, "pilots": 30.0, "word2vec": 30.0}
    clock = Time(monkeypatch, seconds)
    # 3 for the baseline, 30 for the pilot; three runs take 90, or some more as rows are scored.
    found = climb("fits", routes=("majority", "word2vec"), seeds=3, max_minutes=2.5, **LINEAR)
    rung = rungs_by_name(found)["word2vec"]
    assert rung["status"] == "finished" and 89 < rung["estimated_seconds"] < 100
    assert clock.made.count("pilots/word2vec-first") == 1 and "pilots/word2vec-second" not in clock.made
    clock.now, clock.made = 0.0, []
    found = climb("does not", routes=("majority", "word2vec"), seeds=3, max_minutes=1.5, **LINEAR)
    rung = rungs_by_name(found)["word2vec"]
    assert rung["status"] == "skipped" and rung["test"] is None
    assert "3 runs would take about 9" in rung["reason"] and "27 s are left of the budget" in rung["reason"]
    # The first pilot may have filled caches: the second is what decides.
    assert [name for name in clock.made if "word2vec" in name] == ["pilots/word2vec-first", "pilots/word2vec-second"]


def test_a_rung_that_takes_longer_than_expected_is_given_up_in_time(climb, monkeypatch):
    clock = Time(monkeypatch, {"majority": 0.0, "pilots": 1.0, "word2vec": 100.0})
    found = climb(routes=("majority", "word2vec"), seeds=3, max_minutes=4, **LINEAR)
    rung = rungs_by_name(found)["word2vec"]
    assert rung["status"] == "skipped" and rung["reason"] == (
        "its first run took 100 s, the others would take 200 s, and 139 s are left of the budget"
    )
    assert clock.made.count("rungs/word2vec-0") == 1 and "rungs/word2vec-1" not in clock.made and clock.now < 240


def test_trials_are_in_the_estimate(climb, monkeypatch):
    Time(monkeypatch, {"pilots": 10.0, "word2vec": 10.0, "trials": 10.0})
    (rung,) = climb(routes=("word2vec",), trials=3, max_minutes=60, **MLP).rungs
    assert rung["estimated_seconds"] > 49


def test_points_of_a_curve_that_would_not_fit_are_left_out(climb, monkeypatch):
    Time(monkeypatch, {"majority": 0.0, "pilots": 1.0, "word2vec": 25.0, "20": 15.0, "40": 25.0})
    found = climb(routes=("majority", "word2vec"), seeds=2, max_minutes=3, sizes=(40, 20), **LINEAR)
    assert [(point["rung"], point["size"]) for point in found.record["curve"] if point["size"] < 140] == [
        ("majority", 20), ("word2vec", 20), ("majority", 40)
    ]  # fmt: skip
    (left,) = found.record["curve_left_out"]
    assert (left["rung"], left["size"]) == ("word2vec", 40) and "s are left of the budget" in left["reason"]


def test_where_nothing_is_finished_nothing_is_recommended(climb):
    found = climb(routes=("probe",), seeds=1)
    assert found.recommended is None and found.best is None
    with pytest.raises(RunFolderError, match="expected a classifier of the recommended rung, found none"):
        _ = found.classifier


def test_routes_from_an_encoder(climb, tmp_path):
    base = make_film_base(tmp_path / "encoder")
    quick = {"num_train_epochs": 1, "max_length": 16, "seeds": 1, "max_minutes": 60}
    found = climb(routes=("full", "lora", "probe"), bases=(base,), **quick, learning_rate=1e-3)
    assert [rung["name"] for rung in found.rungs] == ["probe", "lora", "full"]
    for rung in found.rungs:
        assert (rung["status"], rung["reason"]) == ("finished", None) and rung["estimated_seconds"] > 0
        assert rung["cost"]["texts_per_second_1"] > 0 and rung["test"]["spread"] is None


# Data that should make one wary


def test_permuted_labels_end_in_no_route_beating_the_majority(climb):
    draw = random.Random(4)
    permuted = {name: (texts, draw.sample(labels, len(labels))) for name, (texts, labels) in DATA.items()}
    found = climb(data=permuted, **LINEAR)
    assert "no route beats the majority" in found.record["recommendation"]["sentence"].lower()
    assert found.recommended is None


def test_a_planted_leak_is_named(climb):
    (train, labels), (test, test_labels) = DATA["train"], DATA["test"]
    leaked = {**DATA, "train": ([*train, *test[:8]], [*labels, *test_labels[:8]])}
    found = climb(data=leaked, routes=("majority",), seeds=1)
    assert found.record["data"]["warnings"] == [
        "leak: 8 of the 80 test texts (10.0%) are in train too: scores on them are too good"
    ]


def test_several_labels(climb, tickets):
    found = climb(data=tickets, **LINEAR)
    assert found.record["metric"] == "f1_micro" and found.record["data"]["multi_label"]
    told = rungs_by_name(found)
    for rung in told.values():
        reports = [json.loads((found.folder / run / "metrics.json").read_text())["test"] for run in rung["runs"]]
        assert rung["test"]["mean"] == pytest.approx(np.mean([report["f1_micro"] for report in reports]))
    assert told["word2vec"]["test"]["mean"] > told["majority"]["test"]["mean"]
    assert found.recommended in ("tfidf", "word2vec")


# Going on


KILLED = """
import gc, os, signal, sys
from pathlib import Path
from nlptransfer.experiments import environment
from nlptransfer.experiments.candidates import Workshop
from nlptransfer.experiments.comparison import compare
from nlptransfer.training import loop

data, vectors, folder = sys.argv[1:]
environment.SPEED_SECONDS = 0.0
make = Workshop.make
given = {"routes": ("majority", "word2vec"), "bases": (vectors,), "seeds": 2, "trials": 2, "sizes": (40,)}
given |= {"head_type": "mlp", "mlp_sizes": (8,), "learning_rate": 0.02, "num_train_epochs": 3, "progress": False}
gc.freeze()

def run(name, kill_at=None):
    made = 0

    def killing(*rest):
        nonlocal made
        made += 1
        if made == kill_at:
            # In the middle of the training: a forward pass is done, and no checkpoint is complete.
            loop.make_optimizer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return make(*rest)

    Workshop.make = killing
    compare(data, output_dir=Path(folder) / name, **given)

# Runs: 2 of majority, 2 of tfidf, then of word2vec 2 trials, 2 seeds; then the curve.
child = os.fork()
if not child:
    run("cut", 6)
    os._exit(1)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
run("whole")
"""


def test_killed_and_started_again_it_says_the_same(tmp_path, vectors_file, climb):
    data = write_splits(tmp_path / "rows", DATA)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, data, vectors_file, tmp_path],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    whole, folder = Comparison(tmp_path / "whole"), tmp_path / "cut"
    given = {"data": data, "routes": ("majority", "word2vec"), "trials": 2, "sizes": (40,), **MLP}

    def finished() -> dict[str, tuple[int, int]]:
        return {
            path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
            for record in folder.rglob("experiment.json")
            if json.loads(record.read_text())["status"] == "finished"
            for path in record.parent.glob("*.*")
        }

    before = finished()
    # Two runs of the baseline, two trials, and the first seed.
    assert len(before) == 5 * 3
    with pytest.raises(RunFolderError, match="expected the folder of a finished comparison"):
        Comparison(folder)
    with pytest.raises(RunFolderError, match="holds a run with trials=2"):
        climb("cut", **{**given, "trials": 3})
    found = climb("cut", **given)
    assert said_again(found.record) == said_again(whole.record)
    assert found.record["recommendation"]["best"] == "word2vec" and len(found.record["curve"]) == 4
    assert {place: stamp for place, stamp in finished().items() if place in before} == before


def test_what_was_left_out_or_failed_stays_so(climb, monkeypatch, tmp_path):
    clock = Time(monkeypatch, {"majority": 0.0, "pilots": 50.0, "word2vec": 50.0})
    given = {"routes": ("majority", "word2vec", "probe", "lora"), "max_minutes": 2, **LINEAR}
    make, asked = Workshop.make, list[str]()

    def stopping(workshop, rung, *rest):
        asked.append(rung.name)
        if rung.name == "lora":
            raise KeyboardInterrupt
        make(workshop, rung, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Workshop, "make", stopping)
        climb(**given)
    before = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [rung["status"] for rung in before["rungs"]] == ["finished", "skipped", "failed", "waiting"]
    # With time to spare it would be tried, and it could work by now.
    clock.seconds["pilots"], asked[:] = 0.1, []
    monkeypatch.setattr(Workshop, "make", lambda *given: (asked.append(given[1].name), make(*given)))
    after = climb(**given)
    assert asked == ["lora"] and after.record["rungs"][:3] == before["rungs"][:3]
    assert after.record["spent_seconds"] >= before["spent_seconds"] >= 100


# What is asked for


def test_settings_go_to_the_routes_that_have_them(climb):
    found = climb(routes=("word2vec", Lora(rank=2)), max_words=50, **LINEAR)
    record = json.loads((found.folder / "rungs" / "word2vec-0" / "experiment.json").read_text())
    assert record["settings"]["route"]["max_words"] == 50
    assert found.record["asked"]["rungs"][1]["settings"]["rank"] == 2
    with pytest.raises(SettingError, match="unknown setting 'rank', for these routes"):
        climb("other", rank=2)
    with pytest.raises(SettingError, match="learning_rate"):
        climb("other", learning_rate=-1.0)
    with pytest.raises(SettingError, match="head_type"):
        climb("other", head_type="forest")
    assert not (found.folder.parent / "other").exists()


def test_rungs_are_named_apart():
    kinds = {"word2vec": Word2Vec, "lora": Lora}

    def find(way):
        return kinds[way]() if isinstance(way, str) else way

    rungs = rungs_of(("lora", "majority", "word2vec"), ("a/small", None), find)
    assert [rung.name for rung in rungs] == [
        "majority",
        "word2vec-small",
        "word2vec-default",
        "lora-small",
        "lora-default",
    ]
    rungs = rungs_of((Lora(rank=4), Lora(rank=8)), (None,), find)
    assert [rung.name for rung in rungs] == ["lora-1", "lora-2"]
    with pytest.raises(SettingError, match="expected each rung once, found lora twice"):
        rungs_of(("lora", Lora()), (None,), find)
    with pytest.raises(SettingError, match="unknown route 'lore': did you mean 'lora'"):
        rungs_of(("lore",), (None,), find)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seeds", 0), ("trials", 0), ("max_minutes", 0), ("delta", 1.0), ("routes", ()), ("bases", ())],
)
def test_values_that_make_no_sense(name, value, climb):
    with pytest.raises(SettingError, match=f"{name}="):
        climb(**{name: value})


def test_without_test_rows_nothing_is_compared(climb):
    with pytest.raises(DataError, match="expected test rows to compare on, found none: set test_size"):
        climb(data=DATA["train"], test_size=0.0)


def test_a_score_that_needs_probabilities_is_refused(climb):
    with pytest.raises(SettingError, match="needs probabilities"):
        climb(metric_for_best_model="loss")


def test_changed_settings_and_other_files_are_refused(climb, tmp_path):
    first = climb(routes=("majority",), seeds=1)
    for changed in ({"seeds": 2}, {"delta": 0.02}, {"routes": ("tfidf",)}, {"max_minutes": 5}, {"split_seed": 1}):
        with pytest.raises(RunFolderError, match="holds a run with"):
            climb(**{"routes": ("majority",), "seeds": 1, **changed})
    assert climb(routes=("majority",), seeds=2, overwrite=True).rungs[0]["seeds"] == [0, 1]
    assert first.folder == tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="found other files"):
        climb("full", routes=("majority",))


def test_folders_are_named_after_data_and_settings(climb, vectors_file, tmp_path, monkeypatch):
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


def test_memory_that_is_held_for_a_while_counts():
    with watched_memory() as small:
        pass
    # Not from what the process has freed and kept.
    with watched_memory() as peak, mmap.mmap(-1, 2**26) as block:
        block.write(b"1" * 2**26)
        time.sleep(0.1)
    assert peak[0] > small[0] + 40
