"""One process at a time works in a folder; a lock tells of whom it is, and does not outlive its process."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from helpers.runs import finetune
from nlptransfer import locks
from nlptransfer.errors import RunFolderError, StorageError
from nlptransfer.files import scratch_folder
from nlptransfer.locks import LOCK, Holder, locked

HOLDING = """
import sys
from pathlib import Path
from nlptransfer.locks import LOCK, Holder, _take  # without torch, which the processes of a launch need
folder = Path(sys.argv[1])
_take(folder / LOCK, folder, Holder.of_this_process(), False)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_TO_LEAVE", 0.0)
    monkeypatch.setattr(locks, "SECONDS_TO_SETTLE", 0.0)


def write(path, holder):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))


def refusal(folder, **options):
    with pytest.raises(RunFolderError) as caught, locked(folder, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_one_is_told_who_works_there(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    holder = Holder.read(folder / LOCK)
    assert (holder.pid, holder.host) == (process.pid, Holder.of_this_process().host)
    assert abs(holder.started - psutil.Process(process.pid).create_time()) < 1
    said = f"{folder}: expected nobody at work there, found process {process.pid} on {holder.host} since {holder.since}"
    assert refusal(folder) == f"{said}: wait for it, or name another output_dir"
    # No option takes it away from one that is there.
    assert refusal(folder, take_lock=True).startswith(said)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with locked(folder):
        assert Holder.read(folder / LOCK).pid == os.getpid()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


def test_one_that_is_about_to_leave_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_TO_LEAVE", 20.0)
    write(tmp_path / LOCK, Holder.of_this_process())
    leaving = threading.Timer(0.2, (tmp_path / LOCK).unlink)
    leaving.start()
    with locked(tmp_path):
        leaving.join()
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started": 1e9}])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, change, caplog):
    caplog.set_level("INFO", "nlptransfer")
    dead = replace(Holder.of_this_process(), **change)
    write(tmp_path / LOCK, dead)
    with locked(tmp_path):
        assert Holder.read(tmp_path / LOCK).pid == os.getpid()
    assert caplog.messages == [f"{tmp_path}: taken over from {dead}"]


@pytest.mark.parametrize("content", ["", '{"host": "x', "[1]", '{"pid": 1}'])
def test_a_lock_that_was_not_written_to_its_end_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_another_machine_stays_unless_it_is_to_be_taken(tmp_path):
    other = replace(Holder.of_this_process(), host="elsewhere", pid=2**22 + 1)
    write(tmp_path / LOCK, other)
    said = refusal(tmp_path)
    assert f"found {other}" in said and said.endswith("if it is no longer there, --take-lock (take_lock=True)")
    assert Holder.read(tmp_path / LOCK) == other
    with locked(tmp_path, take_lock=True):
        assert Holder.read(tmp_path / LOCK).host != "elsewhere"
        # The other one was there after all, and has come back.
        write(tmp_path / LOCK, other)
    assert Holder.read(tmp_path / LOCK) == other


def test_of_two_that_take_over_one_lock_at_once_one_gets_it(tmp_path, monkeypatch):
    write(tmp_path / LOCK, replace(Holder.of_this_process(), pid=2**22 + 1))
    alive = replace(Holder.of_this_process(), pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    # While this one makes sure that its lock stays, the other one removes it, as it has seen the old one.
    monkeypatch.setattr("time.sleep", lambda _: write(tmp_path / LOCK, alive))
    assert f"found {alive}" in refusal(tmp_path)


def test_a_lock_and_a_folder_made_for_it_do_not_stay(tmp_path):
    for folder, replaced in ((tmp_path / "new", False), (tmp_path / "beside", True)):
        with pytest.raises(KeyboardInterrupt), locked(folder, replaced=replaced):
            assert [path.name for path in tmp_path.iterdir()] == [".beside.lock" if replaced else "new"]
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "part").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["part"]
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").exists()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    assert refusal(tmp_path / "run") == (
        f"{tmp_path / 'run'}: expected a folder or a new one, found a file: name another output_dir"
    )


def test_a_lock_that_cannot_be_written_does_not_stay(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dumps", full)
    with pytest.raises(StorageError, match="No space"), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_finished_in_a_folder_that_may_only_be_read_is_returned(tmp_path, monkeypatch):
    call = {"route": "word2vec", "base": str(tmp_path / "vectors.txt"), "output_dir": tmp_path / "run"}
    (tmp_path / "vectors.txt").write_text("4 2\nlow 1 0\nhigh 0 1\nfar 1 1\nnear 0 0\n")
    rows = (["low far", "high near"] * 8, ["no", "yes"] * 8)
    data = {"train": rows, "validation": rows, "test": rows}
    first = finetune(data, head_type="linear", **call)
    opened = Path.open

    def refusing(path, mode="r", *given, **options):
        if path.parent == tmp_path / "run" and set(mode) & {"w", "x", "a"}:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *given, **options)

    monkeypatch.setattr(Path, "open", refusing)
    assert finetune(data, head_type="linear", **call).scores == first.scores
    assert not (tmp_path / "run" / LOCK).exists()


def test_what_a_killed_process_had_begun_to_write_is_no_other_file(tmp_path):
    with scratch_folder(tmp_path / "x") as scratch:
        mark = scratch.name.removeprefix(".x.").rpartition("-")[0].rpartition("-")[0] + "-1000000000-abcdefgh"
    run, saved = tmp_path / "run", tmp_path / "saved"
    for folder, name in ((run, "experiment.json"), (saved, "model.safetensors")):
        folder.mkdir()
        (folder / f".{name}.{mark}").write_text("{")
    (tmp_path / "vectors.txt").write_text("4 2\nlow 1 0\nhigh 0 1\nfar 1 1\nnear 0 0\n")
    rows = (["low far", "high near"] * 8, ["no", "yes"] * 8)
    data = {"train": rows, "validation": rows, "test": rows}
    base = str(tmp_path / "vectors.txt")
    made = finetune(data, route="word2vec", head_type="linear", base=base, output_dir=run)
    made.classifier.save_pretrained(saved)
    assert not [path for folder in (run, saved) for path in folder.iterdir() if mark in path.name]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(RunFolderError, match="found other files"):
        finetune(data, route="word2vec", head_type="linear", base=base, output_dir=tmp_path / "other")
