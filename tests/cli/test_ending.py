"""How a verb ends that is stopped, cannot print or read, or finds another at work: in one line, with its exit code."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from nlptransfer import Classifier, RunResult, locks
from nlptransfer.cli.app import main
from nlptransfer.experiments.baselines import BASELINES
from nlptransfer.locks import Holder
from nlptransfer.training.loop import _Loop

NO_ROOM = "error: standard output: cannot be written: No space left on device\n"


# Stopped


def stops(monkeypatch, place, name, number, at=1):
    """Let a signal come at the time of a call of a function."""
    real, calls = getattr(place, name), []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            signal.raise_signal(number)
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_stopped_run_says_where_the_same_command_goes_on_and_so_does_that(
    number, name, code, command_line, remarks_folder, vectors_file, tmp_path, monkeypatch
):
    call = ["finetune", remarks_folder, "--base", vectors_file, "--output-dir", tmp_path / "run", "--no-report"]
    call += ["--set", "head_type=mlp", "--num-train-epochs", 3, "--set", "per_device_train_batch_size=16"]
    with monkeypatch.context() as patch:
        stops(patch, _Loop, "_validate", number, at=2)
        ended = command_line(main, *call)
    reached = f"step 7 in {tmp_path / 'run' / 'checkpoints'}"
    assert (ended.code, ended.out) == (code, "")
    said = [line for line in ended.err.splitlines() if line.startswith("stopped")]
    assert said == [f"stopped by {name}: the same command goes on from {reached}"] == ended.err.splitlines()[-1:]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "experiment.json"]
    ended = command_line(main, *call)
    assert ended.code == 0
    assert f"run: the same run was begun there before, and goes on from {reached}\n" in ended.err
    assert [entry["epoch"] for entry in RunResult.load(tmp_path / "run").training.history] == [1, 2, 3]


def test_other_verbs_that_are_stopped_begin_anew(command_line, run, remarks_folder, tmp_path, monkeypatch):
    rows = remarks_folder / "test.jsonl"
    calls = {
        (Classifier, "_of_texts"): ["predict", run.folder, rows, "--output", tmp_path / "labels.csv"],
        (Classifier, "save_pretrained"): ["export", run.folder, "--to", "onnx", "--output-dir", tmp_path / "onnx"],
        (os, "replace"): ["vectors", "train", rows, tmp_path / "own.txt", "--min-count", 1, "--epochs", 1],
    }
    for place, call in calls.items():
        with monkeypatch.context() as patch:
            stops(patch, *place, signal.SIGTERM)
            ended = command_line(main, *call)
        assert (ended.code, ended.out) == (143, ""), call
        assert ended.err.splitlines()[-1] == "stopped by SIGTERM: the same command begins anew"
        assert "Traceback" not in ended.err and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_stopped_comparison_goes_on_from_its_finished_runs(command_line, remarks_folder, tmp_path, monkeypatch):
    call = ["compare", remarks_folder, "--routes", "majority,tfidf", "--seeds", 1, "--output-dir", tmp_path / "out"]
    monkeypatch.setitem(BASELINES, "tfidf", lambda _: signal.raise_signal(signal.SIGINT))
    ended = command_line(main, *call)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "stopped by Ctrl-C: the same command goes on from 1 finished run"


def test_a_signal_that_is_ignored_stays_ignored(command_line, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        stops(monkeypatch, sys.modules["nlptransfer.cli.terminal"], "show_bases", signal.SIGTERM)
        assert command_line(main, "bases").code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


# Standard streams


def test_full_output_is_an_error_and_not_lost(command_line, run, remarks_folder, monkeypatch):
    for call in (["--help"], ["bases"], ["predict", run.folder, remarks_folder / "test.jsonl"]):
        for buffered in (True, False):
            with open("/dev/full", "wb", 2**13 if buffered else 0) as full, monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=not buffered))
                ended = command_line(main, *call)
            assert ended.code == 2 and ended.err.endswith(NO_ROOM) and "Traceback" not in ended.err


def test_a_pipe_that_nobody_reads_is_an_error_where_it_does_not_wait(command_line, run, remarks_folder, monkeypatch):
    read, written = os.pipe()
    os.set_blocking(written, False)
    while True:
        try:
            os.write(written, bytes(2**12))
        except BlockingIOError:
            break
    with open(read, "rb"), open(written, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        ended = command_line(main, "predict", run.folder, remarks_folder / "test.jsonl")
    assert ended.code == 2 and "error: standard output: cannot be written: " in ended.err


def test_a_reader_that_has_enough_is_no_error(run, remarks_folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text((remarks_folder / "train.jsonl").read_text() * 50)
    command = [sys.executable, "-m", "nlptransfer", "predict", run.folder, rows]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["label"] in ("positive", "negative")
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.startswith(f"{rows}: texts from column 'text' (as") and said.count("\n") == 1


def test_closed_streams(command_line, run, remarks_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        ended = command_line(main, "predict", run.folder, remarks_folder / "test.jsonl")
        assert ended.code == 2 and ended.err.startswith("error: standard output: expected it open, found it closed")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        ended = command_line(main, "predict", run.folder, "-")
        assert ended.code == 2 and ended.err.startswith("error: standard input: expected rows, found it closed: ")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        ended = command_line(main, "predict", run.folder, remarks_folder / "test.jsonl")
        sys.stderr.close()
        assert (ended.code, ended.out.count("\n")) == (0, 30)


# Two in one folder


@pytest.fixture
def at_work(monkeypatch):
    """Who works in a folder: the process that has started this one, which is there for sure."""
    monkeypatch.setattr(locks, "SECONDS_TO_LEAVE", 0.0)
    parent = psutil.Process(os.getppid())
    return replace(Holder.of_this_process(), pid=parent.pid, started=parent.create_time())


def test_a_second_command_is_told_who_works_in_its_folder(
    at_work, command_line, remarks_folder, vectors_file, run, tmp_path
):
    calls = {
        "run/.lock": ["finetune", remarks_folder, "--base", vectors_file, "--set", "head_type=linear", "--no-report"],
        "comparison/.lock": ["compare", remarks_folder, "--routes", "majority", "--seeds", 1],
        ".graph.lock": ["export", run.folder, "--to", "onnx"],
    }
    for place, call in calls.items():
        lock = tmp_path / place
        folder = lock.parent if lock.name == ".lock" else tmp_path / "graph"
        for holder, advice in ((at_work, "output_dir"), (replace(at_work, host="elsewhere"), "(take_lock=True)")):
            lock.parent.mkdir(exist_ok=True)
            lock.write_text(json.dumps(asdict(holder)))
            ended = command_line(main, *call, "--output-dir", folder)
            assert (ended.code, ended.out) == (2, "")
            said = f"error: {folder}: expected nobody at work there, found {holder}: wait for it, or name another"
            assert ended.err.splitlines()[-1].startswith(said) and ended.err.endswith(f"{advice}\n") and lock.exists()
        assert command_line(main, *call, "--output-dir", folder, "--take-lock").code == 0
        assert not lock.exists() and [*folder.glob("*.json")]


def test_the_lock_of_a_command_that_runs_and_is_stopped(command_line, at_work, remarks_folder, vectors_file, tmp_path):
    call = ["finetune", remarks_folder, "--base", vectors_file, "--output-dir", tmp_path / "run", "--no-report"]
    call += ["--set", "head_type=mlp", "--num-train-epochs", 2000]
    command = [sys.executable, "-m", "nlptransfer", *map(str, call)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 60
        while not (tmp_path / "run" / "experiment.json").exists():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        ended = command_line(main, *call)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (ended.code, ended.out) == (2, "")
    assert f"found process {process.pid} on " in ended.err.splitlines()[-1]
    assert process.returncode == 130 and "stopped by Ctrl-C: the same command goes on from" in said.splitlines()[-1]
    assert "Traceback" not in said and not (tmp_path / "run" / ".lock").exists()
