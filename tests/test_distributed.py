"""What several processes learn and judge is what one learns and judges; two processes on the CPU (gloo)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from helpers.corpora import cut, write_splits
from helpers.encoders import make_film_base
from helpers.folders import ROOT
from helpers.side_by_side import BEGUN_ANEW, CNN, DISTANCES, FITTED, NOT_SHARDED, ROUTES, TRANSFERS
from nlptransfer import ComparisonResult, RunResult, distributed
from nlptransfer.cli import app
from nlptransfer.errors import DataError

TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
TWO += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
LAUNCH = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "--rdzv-backend=c10d"]
LAUNCH += ["--rdzv-endpoint=localhost:0"]


def start(*command, **variables):
    """A run all of whose processes can be stopped as one."""
    return subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )


def ended(run, seconds=120):
    try:
        out, err = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise
    return SimpleNamespace(code=run.returncode, out=out, err=err)


@pytest.fixture(scope="module")
def corpus(remarks, tmp_path_factory):
    """107 rows to learn from: neither they nor their batches divide by two."""
    return write_splits(tmp_path_factory.mktemp("corpora") / "remarks", cut(remarks, 107, 23))


@pytest.fixture(scope="module")
def runs(corpus, vectors_file, tmp_path_factory):
    """The same trainings by one process and by two, on the same batches; what the two said."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = make_film_base(folder / "encoder")

    def begin(launcher, count):
        (folder / count).mkdir()
        call = ["-m", "helpers.side_by_side", folder / count, encoder, corpus, vectors_file]
        # The launcher would take a GPU where there is one. Neither finds the features that the other has computed.
        return start(*launcher, *call, ACCELERATE_USE_CPU="true", HF_HOME=str(folder / "caches" / count))

    two, one = (ended(run, 300) for run in [begin(TWO, "2"), begin([sys.executable], "1")])
    assert (two.code, one.code) == (0, 0), two.err + one.err
    return folder, two.err, two.out


@pytest.mark.parametrize("kind", ["one", "several", "crowded"])
def test_two_processes_learn_what_one_learns(runs, kind):
    folder, said, _ = runs
    assert max(differences(*(folder / count / kind / "final.safetensors" for count in "12")).values()) < 1e-5
    (_, _, steps, losses, logits), *both = (
        json.loads((folder / count / kind / f"rank_{rank}.json").read_text())
        for count, rank in (("1", 0), ("2", 0), ("2", 1))
    )
    assert steps == 4 * 4
    assert losses[-1] < losses[0]
    for record in both:
        assert record[1:3] == [1 if kind == "crowded" else 2, steps]
        np.testing.assert_allclose(record[3], losses, atol=1e-5)
        np.testing.assert_allclose(record[4], logits, atol=1e-4)
    assert both[0][1:] == both[1][1:]
    assert said.count("out of memory with 2 rows in one forward pass: on with 1 rows") == 1


@pytest.mark.parametrize("kind", ["one", "several"])
def test_each_row_is_predicted_by_one_process_alone(runs, kind):
    folder = runs[0]
    assert sum(json.loads((folder / "2" / kind / f"rank_{rank}.json").read_text())[0] for rank in (0, 1)) == 11


@pytest.mark.parametrize("kind", DISTANCES)
def test_two_processes_align_domains_as_one_and_keep_the_critic_in_step(runs, kind):
    folder = runs[0]
    alone, *both = (folder / place / kind / f"rank_{rank}" for place, rank in (("1", 0), ("2", 0), ("2", 1)))
    assert max(differences(*(path.with_suffix(".safetensors") for path in both)).values()) == 0
    assert max(differences(*(path.with_suffix(".safetensors") for path in (alone, both[0]))).values()) < 1e-5
    apart = [json.loads(path.with_suffix(".json").read_text()) for path in (alone, *both)]
    np.testing.assert_allclose(apart[1:], apart[:1] * 2, atol=1e-5)


@pytest.mark.parametrize("by", ["2", "2/sharded"])
def test_two_processes_learn_a_language_as_one(runs, by):
    one, two = (runs[0] / folder / "language" for folder in ("1", by))
    assert max(differences(*(folder / "final.safetensors" for folder in (one, two))).values()) < 1e-5
    (told, history), (other, others) = (json.loads((folder / "language.json").read_text()) for folder in (one, two))
    assert told["kept"] and told["loss_after"] < told["loss_before"]
    assert {**other, "kept": True} == pytest.approx(told, abs=1e-5)
    for mine, theirs in zip(history, others, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_files_come_from_the_main_process_alone(runs):
    folder, _, _ = runs
    # An event file's name ends in its writer's process id and a count.
    assert len({path.name.split(".")[-2] for path in (folder / "2" / "one" / "logs").rglob("events.out*")}) == 1
    (saved,) = (folder / "2" / "one" / "checkpoints").iterdir()
    assert saved.name == "step_00000014"


@pytest.mark.parametrize(
    ("name", "by"),
    [(name, "2") for name in (*ROUTES, *TRANSFERS) if name != "relational"]
    + [(name, "2/sharded") for name in (*ROUTES, *TRANSFERS) if name not in NOT_SHARDED],
)
def test_two_processes_learn_what_one_learns_by_every_encoder_route(name, by, runs):
    one, two = (RunResult.load(runs[0] / folder / name) for folder in ("1", by))
    assert (one.processes, two.processes) == (1, 2)
    (file,) = (path.name for path in (one.folder / "model").glob("*model.safetensors"))
    ngrams = [[path.read_bytes() for path in run.folder.glob("model/ngrams.safetensors")] for run in (one, two)]
    assert ngrams[0] == ngrams[1] and (ngrams[0] or name != "fitted joint")
    apart = differences(*(run.folder / "model" / file for run in (one, two)))
    # A key's bias moves all scores of a query alike, so attention does not see it: its gradient is rounding alone, of
    # which Adam makes whole steps.
    seen = {weight: difference for weight, difference in apart.items() if not weight.endswith("key.bias")}
    assert max(seen.values()) < 1e-5, max(seen, key=seen.get)
    probabilities = [run.predictions["test"].probabilities for run in (one, two)]
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-5)
    assert one.metrics["per_class"] == two.metrics["per_class"] and one.metrics["rows"] == two.metrics["rows"]
    trainings = [run.training for run in (one, two)]
    if name in FITTED:
        assert not any(training.history for training in trainings)
        return
    begun_anew = name == BEGUN_ANEW
    assert [bool(training.collapsed) for training in trainings] == [begun_anew, begun_anew]
    for mine, theirs in zip(*map(epochs_of, trainings), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert [training.step for training in trainings] == [12 if name == "joint" else 9] * 2


def epochs_of(training):
    """Those that were kept, and those that were not."""
    return [*training.history, *(entry for one in training.collapsed for entry in one["history"])]


def test_relations_are_those_of_a_pass_and_two_processes_score_as_one(runs):
    one, two = (RunResult.load(runs[0] / count / "relational") for count in "12")
    low, high = one.metrics["accuracy_interval"]
    assert low <= two.metrics["accuracy"] <= high and two.metrics["rows"] == one.metrics["rows"]
    assert one.training.step == two.training.step == 9


def test_two_processes_compare_as_one(runs):
    folder, _, printed = runs
    one, two = (ComparisonResult.load(folder / count / "comparison") for count in "12")
    assert [candidate.status for candidate in two.candidates] == ["finished"] * 2
    for mine, theirs in zip(one.candidates, two.candidates, strict=True):
        # Estimates of the time are of its own processes.
        assert (mine.estimated_seconds is None) == (theirs.estimated_seconds is None) == (mine.name == "majority")
        for name in ("name", "seeds", "validation", "test"):
            assert getattr(mine, name) == getattr(theirs, name), (mine.name, name)
    for name in ("data", "pairs", "recommended", "recommendation"):
        assert getattr(one, name) == getattr(two, name)
    runs_of_two = [json.loads(path.read_text()) for path in two.folder.rglob("experiment.json")]
    assert {record["processes"] for record in runs_of_two} == {2}
    # What is printed and written at the end is so once.
    assert printed.count(f"read the report:  {two.folder / 'report.html'}") == 1
    assert [path.name for path in two.folder.iterdir() if path.name.startswith(".")] == []


def test_processes_agree_on_what_is_in_the_caches(runs):
    folder = runs[0] / "2" / "features"
    # A machine without the entry lets all compute again; where all see one folder, nobody does.
    assert [(folder / f"computed_{rank}.txt").read_text() for rank in (0, 1)] == ["3", "3"]
    assert {path.relative_to(folder).parts[0] for path in folder.rglob("*.npy")} == {"machine_0", "one"}


def test_two_processes_predict_each_part_once_and_begin_with_others(runs):
    one, two = (runs[0] / count / "parts" for count in "12")
    files = ["test.jsonl", "train.jsonl", "validation.jsonl"]
    assert (one / "by_0.txt").read_text().split() == files
    first, second = ((two / f"by_{rank}.txt").read_text().split() for rank in (0, 1))
    assert (first[0], second[0]) == (files[0], files[1]) and sorted(first + second) == files
    for name in files:
        whole, other = (pq.read_table(folder / f"{Path(name).stem}.parquet") for folder in (one, two))
        assert whole.drop(["predicted_score"]) == other.drop(["predicted_score"])


def differences(one, two):
    """The largest of each weight, by its name."""
    from safetensors.numpy import load_file

    weights, others = load_file(one), load_file(two)
    assert weights.keys() == others.keys()
    return {name: np.abs(weights[name] - others[name]).max() for name in weights}


def test_one_process_is_the_main_one_and_has_all_rows():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.from_main({"a": 1}) == {"a": 1}
    distributed.barrier()
    with distributed.main_first():
        pass
    assert distributed.gather_dealt(["a", "b"]) == ["a", "b"]


# torchrun, which starts processes on processors


FAILING = """
import typer
from nlptransfer import distributed
from nlptransfer.cli import app, run_verb
from nlptransfer.errors import DataError

app.SECONDS_FOR_FIRST = {seconds}
# A busy machine may stop the other process late.
app.SECONDS_FOR_CAUSE = 20

def main(of: str) -> None:
    if distributed.world_size() == 2 and str(distributed.rank()) in of:
        raise DataError("no such rows")
    distributed.barrier()

run_verb(main, None)
"""


def test_a_killed_process_takes_the_run_down_and_it_goes_on_by_all_processes(runs, corpus, vectors_file, tmp_path):
    out = tmp_path / "run"
    settings = {**CNN, "per_device_train_batch_size": 8}
    call = [corpus, "--base", vectors_file, *(f"--set={name}={value}" for name, value in settings.items())]
    run = start(*LAUNCH, "-m", "nlptransfer", "finetune", *call, "--output-dir", out)
    (victim,) = until(lambda: [each for each in processes_under(run) if each.environ().get("RANK") == "1"])
    until(lambda: [*(out / "checkpoints").glob("step_*")])
    others = processes_under(run)
    victim.kill()
    killed = time.monotonic()
    done = ended(run)
    assert time.monotonic() - killed < 20
    assert done.code == 1 and not [each for each in others if each.is_running()]
    # The launcher says which process ended and how, and no other process has anything to say.
    assert re.search(r"rank\s*: 1 .*\n.*exitcode\s*: -9", done.err) and "\nerror" not in done.err
    assert json.loads((out / "experiment.json").read_text())["status"] == "running"

    # topics.py is the same command, but for the rows that are learned from where none are named.
    done = ended(start(*LAUNCH, ROOT / "recipes" / "topics.py", *call, "--output-dir", out))
    assert done.code == 0, done.err
    assert done.out.count("\nword2vec ") == done.out.count(f"written: {out}") == 1
    assert done.err.count(f"into {out}") == done.err.count("Trained to epoch 12 of 12 in") == 1
    one, two = (RunResult.load(runs[0] / count / "cnn") for count in "12")
    resumed = RunResult.load(out)
    assert resumed.processes == 2
    assert (one.processes, two.processes) == (1, 2)
    weights = [run.folder / "model" / "model.safetensors" for run in (one, two, resumed)]
    assert max(differences(*weights[:2]).values()) < 1e-5
    assert max(differences(*weights[1:]).values()) == 0
    assert one.metrics["accuracy"] == two.metrics["accuracy"] == resumed.metrics["accuracy"]


def until(found):
    give_up = time.monotonic() + 120
    while not (result := found()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return result


def processes_under(run):
    def is_there(process):
        try:
            return process.environ() is not None
        except psutil.Error:
            return False

    return [each for each in psutil.Process(run.pid).children(recursive=True) if is_there(each)]


def test_an_error_on_purpose_is_said_once(tmp_path):
    expected = {("01", 20): "error: no such rows", ("1", 1): "error (rank 1): no such rows"}
    runs = []
    for ranks, seconds in expected:
        script = tmp_path / f"{ranks}.py"
        script.write_text(FAILING.replace("{seconds}", str(seconds)))
        runs.append(start(*LAUNCH, script, ranks))
    for done, said in zip(map(ended, runs), expected.values(), strict=True):
        assert done.code == 1
        assert [line for line in done.err.splitlines() if line.startswith("error")] == [said]


@pytest.mark.parametrize(
    ("rank", "error", "seconds", "said"),
    [
        (0, DataError("no rows"), 0, "error: no rows\n"),
        (1, DataError("no rows"), app.SECONDS_FOR_FIRST, "error (rank 1): no rows\n"),
        (0, KeyError("x"), app.SECONDS_FOR_CAUSE, ""),
        (1, KeyError("x"), app.SECONDS_FOR_FIRST + app.SECONDS_FOR_CAUSE, ""),
    ],
)
def test_processes_that_fail_speak_in_turn(rank, error, seconds, said, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    def fail():
        raise error

    with pytest.raises(SystemExit if said else KeyError):
        app.guarded(fail)
    assert (slept, capsys.readouterr().err) == ([seconds], said)


def test_a_script_that_is_left_alone_is_told_of_torchrun(monkeypatch, caplog):
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed._on_cpu.cache_clear()
    assert distributed._on_cpu()
    assert "torchrun --nproc-per-node" in caplog.text
    distributed._on_cpu.cache_clear()
