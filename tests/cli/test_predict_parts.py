"""Predict into a folder: which files, what they hold, what is skipped, taken over, refused, left out and said."""

import gzip
import json
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.kills import ended, forked
from nlptransfer import Classifier, claims, part_states, predict_parts
from nlptransfer.claims import Claim
from nlptransfer.classifier import parts as parts_of_plan
from nlptransfer.classifier import workers
from nlptransfer.classifier.parts import Plan
from nlptransfer.cli.app import main
from nlptransfer.errors import DataError, RunFolderError, SettingError, StorageError, TrainingError
from nlptransfer.locks import Holder

TEXTS = ["wordaa goodae goodaf", "wordac badae badaf", "", "deliveryae goodae"]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(workers, "SECONDS_TO_LOOK", 0.01)


def write_part(path: Path, rows: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [TEXTS[row % 4] for row in range(rows)]
    pq.write_table(pa.table({"id": range(rows), "text": texts, "label": ["as it was"] * rows}), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Four parts of one table."""
    for number in range(4):
        write_part(tmp_path / "in" / f"part-{number}.parquet", 3 + number)
    return tmp_path / "in"


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def content_of(folder: Path) -> dict[str, bytes]:
    """All files by their names, the hidden ones too; a folder that is empty is one too many."""
    assert [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())] == []
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def alive() -> Holder:
    """A process of this machine that is there for sure."""
    parent = psutil.Process(os.getppid())
    return replace(Holder.of_this_process(), pid=parent.pid, started=parent.create_time())


def hold(output: Path, holder: Holder) -> Path:
    place = output.with_name(f".{output.name}.claim")
    place.mkdir(parents=True)
    (file := place / claims._name_of(holder)).touch()
    return file


# Files


def test_files_and_folders_of_every_kind_go_to_files_of_their_names(command_line, run, tmp_path):
    rows = "".join(f"{number},{text}\n" for number, text in enumerate(TEXTS))
    write_part(tmp_path / "in/day=1/part-0.parquet")
    write_part(tmp_path / "in/day=2/part-0.parquet", 9)
    (tmp_path / "in/b.2.csv").write_text("id,text\n" + rows)
    (tmp_path / "in/a.csv.gz").write_bytes(gzip.compress(("id;text\n" + rows.replace(",", ";")).encode()))
    (tmp_path / "in/c.jsonl").write_text('{"text": "goodae", "more": [1]}\n')
    (tmp_path / "in/part-00007").write_text("text\tnote\ngoodae\tx\n")
    (tmp_path / "in/README.md").touch()
    (tmp_path / "in/_SUCCESS").touch()
    for format in ("parquet", "csv", "jsonl"):
        out = tmp_path / format
        ended = command_line(main, "predict", run.folder, tmp_path / "in", "--output-dir", out, "--format", format)
        assert (ended.code, ended.out) == (0, ""), ended.err
        assert f"{tmp_path / 'in'}: these files are not read: README.md\n" in ended.err
        inputs = {
            f"a.{format}": "a.csv.gz", f"b.2.{format}": "b.2.csv", f"c.{format}": "c.jsonl",
            f"day=1/part-0.{format}": "day=1/part-0.parquet", f"day=2/part-0.{format}": "day=2/part-0.parquet",
            f"part-00007.{format}": "part-00007",
        }  # fmt: skip
        markers = {str(Path(name).with_name(f".{Path(name).name}.json")) for name in inputs}
        assert {*content_of(out)} == {*inputs} | markers
        for name, source in inputs.items():
            alone = run.classifier.predict_file(tmp_path / "in" / source, tmp_path / f"alone.{format}")
            assert (out / name).read_bytes() == alone.read_bytes()
    found = pq.read_table(tmp_path / "parquet/day=2/part-0.parquet")
    assert found.column_names == ["id", "text", "label", "predicted_label", "predicted_score"]
    assert found["id"].to_pylist() == [*range(9)]
    assert pq.ParquetFile(tmp_path / "parquet/a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_names_below_what_inputs_have_in_common(run, folder, tmp_path):
    write_part(tmp_path / "other/part-0.parquet")

    def outputs(*inputs):
        states = part_states(run.folder, inputs, tmp_path / "out")
        return [str(state.part.output.relative_to(tmp_path / "out")) for state in states]

    assert outputs(folder / "part-1.parquet") == ["part-1.parquet"]
    assert outputs(folder / "part-1.parquet", folder) == [f"part-{number}.parquet" for number in range(4)]
    assert outputs(folder / "part-0.parquet", tmp_path / "other") == ["in/part-0.parquet", "other/part-0.parquet"]
    assert not (tmp_path / "out").exists()


NAMES = st.from_regex(r"[ab](/[ab]){0,2}(\.csv|\.parquet|\.csv\.gz|\.jsonl|-1)", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(names=st.sets(NAMES, min_size=1, max_size=8), shards=st.integers(1, 9))
def test_every_part_is_in_one_shard_and_no_two_go_to_one_output(names, shards, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    try:
        whole = part_states(run.folder, folder, folder.with_name("out"))
    except DataError as error:
        assert "both go to" in str(error)
        stems = [name.partition(".")[0] for name in names]
        assert len({*stems}) < len(stems)
        return
    outputs = [state.part.output for state in whole]
    assert len({*outputs}) == len(names) and {state.part.source for state in whole} == {folder / one for one in names}
    shares = [part_states(run.folder, folder, folder.with_name("out"), shard=(one, shards)) for one in range(shards)]
    assert sorted(str(state.part) for share in shares for state in share) == sorted(str(one.part) for one in whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# What is done


def test_what_is_done_is_skipped_and_what_is_left_is_listed(command_line, run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    call = ["predict", run.folder, folder, "--output-dir", out]
    assert "4 to do, of 4 parts\n" in command_line(main, *call, "--status").out and not out.exists()
    ended = command_line(main, *call, "--shard", "1/3")
    *_, said, last = ended.err.splitlines()
    assert said.startswith(f"{out}/part-1.parquet: 4 texts; 1 of 1 parts done, ")
    assert (ended.code, last) == (0, f"{out}: 1 of 1 parts done")
    assert files_of(out) == [".part-1.parquet.json", "part-1.parquet"]
    hold(out / "part-2.parquet", alive())
    said = command_line(main, *call, "--status").out
    assert str(folder / "part-1.parquet") not in said and "at work" in said and f"{alive().pid}" in said
    assert said.endswith("2 to do, 1 done, 1 at work, of 4 parts\n")
    shutil.rmtree(out / ".part-2.parquet.claim")
    before = (out / "part-1.parquet").stat()
    assert command_line(main, *call).code == 0
    assert (out / "part-1.parquet").stat() == before
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "load", None)
        ended = command_line(main, *call)
    assert (ended.code, ended.out, ended.err) == (0, "", f"{out}: 4 of 4 parts done\n")
    assert command_line(main, *call, "--status").out == "4 done, of 4 parts\n"
    # An output that was removed is made again.
    content = content_of(out)
    (out / "part-1.parquet").unlink()
    assert command_line(main, *call).code == 0 and content_of(out) == content


def test_what_is_made_of_something_else_is_refused(command_line, run, several, folder, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy"
    call = ["predict", run.folder, folder, "--output-dir", out]
    assert command_line(main, *call, "--text-column", "text", "--header", "false").code == 0
    content = content_of(out)

    def refused(*call):
        ended = command_line(main, *call)
        assert ended.code == 2 and content_of(out) == content
        return ended.err.splitlines()[-1]

    where = f"error: {out}/part-0.parquet: expected"
    more = ["--text-column", "text", "--header", "false"]
    remove = ": remove it, or name another output_dir"
    assert refused(*call) == (
        f"{where} what is to be predicted now, found header=False and not None, text_column=text and not None{remove}"
    )
    assert refused(*call, *more, "--min-confidence", ".9", "--status") == (
        f"{where} what is to be predicted now, found min_confidence=None and not 0.9{remove}"
    )
    assert refused("predict", several.folder, *call[2:], *more) == (
        f"{where} what is to be predicted now, found labels of another model{remove}"
    )
    # Copies of the same rows are the same, and so is a batch size.
    shutil.copytree(folder, copy)
    ended = command_line(main, "predict", run.folder, copy, "--output-dir", out, *more, "--batch-size", "3")
    assert ended.code == 0 and content_of(out) == content
    write_part(folder / "part-0.parquet", 5)
    assert refused(*call, *more) == (
        f"{where} what is to be predicted now, found other rows than {folder}/part-0.parquet has now{remove}"
    )
    for marker in ("{", "[]", "{}", '{"model": "x", "options": 3, "input": {}}'):
        (out / ".part-0.parquet.json").write_text(marker)
        content = content_of(out)
        assert refused(*call, *more) == f"{where} what is to be predicted now, found a damaged marker{remove}"
    (out / ".part-0.parquet.json").unlink()
    content = content_of(out)
    assert refused(*call, *more).startswith(
        f"{where} no file, or one that was predicted here, found one without a mark"
    )


def test_what_needs_a_folder_and_what_goes_with_none(command_line, run, folder, tmp_path):
    one, out = folder / "part-0.parquet", tmp_path / "out"
    (tmp_path / "file").touch()
    (tmp_path / "none").mkdir()
    (tmp_path / "twice").mkdir()
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / "twice" / name).write_text("x")
    to, both = ("--output-dir", out), "--output-dir: expected files and folders, each file to a file there, found"
    twice = f"{tmp_path}/twice/a.csv, {tmp_path}/twice/a.jsonl: expected files of other names"
    calls = {
        (one, one): "expected one file, found 2: --output-dir DIR takes several, each to a file there",
        (one, "--shard", "0/2"): "--shard: expected --output-dir DIR with it, found none",
        (one, "--claim-minutes", "1"): "--claim-minutes: expected --output-dir DIR with it, found none",
        (one, "--status"): "--status: expected --output-dir DIR with it, found none",
        (one, *to, "--output", "x.csv"): f"{both} --output too",
        ("-", *to): f"{both} standard input too",
        (one, *to, "--shard", "2/2"): "shard=(2, 2): expected its number from 0 and how many there are, as 3/16",
        (one, *to, "--shard", "3"): "shard=(3,): expected its number from 0 and how many there are, as 3/16",
        (one, *to, "--shard", "a/b"): "shard='a': expected a whole number",
        (one, *to, "--format", "xml"): "format='xml': expected one of 'parquet', 'csv', 'tsv', 'jsonl'",
        (one, *to, "--processes", "0"): "processes=0: expected a whole number from 1",
        (one, *to, "--claim-minutes", "0"): "claim_minutes=0.0: expected a number above 0",
        (one, *to, "--min-confidence", "2"): "min_confidence=2.0: expected a number",
        (one, *to, "--top-k", "0"): "top_k=0: expected a whole number from 1",
        (tmp_path / "no", *to): f"{tmp_path}/no: expected a file of rows, or a folder of them, found none",
        (tmp_path / "none", *to): f"{tmp_path}/none: expected files of rows, found none",
        (folder, "--output-dir", folder / "out"): f"{folder}/out: expected a folder that is not within {folder}, ",
        (one, "--output-dir", folder): f"{one}: expected an output that is not an input: name another output_dir",
        (tmp_path / "twice", *to): f"{twice}, found that both go to {out}/a.parquet: rename one",
        (
            one,
            "--output-dir",
            tmp_path / "file",
        ): f"{tmp_path}/file/.part-0.parquet.json: cannot be read: ",
    }
    for call, error in calls.items():
        ended = command_line(main, "predict", run.folder, *call)
        assert (ended.code, ended.out) == (2, ""), call
        assert ended.err.splitlines()[-1].startswith(f"error: {error}"), ended.err
    assert not out.exists()
    with pytest.raises(DataError, match="found none: name some"):
        predict_parts(run.folder, [], out)
    with pytest.raises(SettingError, match="did you mean 'separator'"):
        predict_parts(run.folder, one, out, separater=";")
    with pytest.raises(RunFolderError, match="expected a saved classifier"):
        predict_parts(tmp_path, one, out)


# What fails


def test_a_damaged_part_is_named_and_the_others_go_on(command_line, run, folder, tmp_path):
    out, damaged = tmp_path / "out", folder / "part-1.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-40])
    pq.write_table(pa.table({"number": [1.5, 2.5]}), folder / "part-3.parquet")
    call = ["predict", run.folder, folder, "--output-dir", out]
    for _ in range(2):
        ended = command_line(main, *call)
        assert (ended.code, ended.out) == (3, "")
        failed = f"{damaged}, {folder / 'part-3.parquet'}"
        assert ended.err.splitlines()[-2:] == [
            f"{out}: 2 of 4 parts done", f"error: 2 of 4 parts have failed: {failed}"
        ]  # fmt: skip
        assert f"A part has failed, and the others go on: {damaged}, after row 0: broken parquet: " in ended.err
        assert f"A part has failed, and the others go on: {folder / 'part-3.parquet'}, column 'number'" in ended.err
        outputs = [name for name in content_of(out) if name[0] != "."]
        assert outputs == ["part-0.parquet", "part-2.parquet"]
    said = command_line(main, *call, "--status").out
    assert said.endswith("2 done, 2 failed, of 4 parts\n") and "broken" in said
    damaged.write_bytes(whole)
    write_part(folder / "part-3.parquet")
    assert command_line(main, *call).code == 0
    assert "failed" not in json.loads((out / ".part-1.parquet.json").read_text())


def test_an_input_that_goes_away_has_failed(run, folder, tmp_path, monkeypatch):
    load = Plan.load
    monkeypatch.setattr(Plan, "load", lambda *call: (folder / "part-0.parquet").unlink() or load(*call))
    failed, *others = predict_parts(run.folder, folder, tmp_path / "out")
    assert failed.status == "failed" and "No such file" in failed.note
    assert [state.status for state in others] == ["done"] * 3


def test_what_is_no_fault_of_a_part_ends_all(command_line, run, folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match="make room"):
        predict_parts(run.folder, folder, tmp_path / "out")
    assert files_of(tmp_path / "out") == [".part-0.parquet.json"]
    monkeypatch.undo()
    (run.folder / "model" / "model.safetensors").rename(tmp_path / "weights")
    try:
        with pytest.raises(RunFolderError, match="expected the file that was saved, found none"):
            predict_parts(run.folder, folder, tmp_path / "out")
    finally:
        (tmp_path / "weights").rename(run.folder / "model" / "model.safetensors")
    assert files_of(tmp_path / "out") == [".part-0.parquet.json"]


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_stopped_worker_releases_what_it_has_claimed(
    number, name, code, command_line, run, folder, tmp_path, monkeypatch
):
    real, calls = Classifier._of_texts, []

    def stops(*call):
        calls.append(call)
        if len(calls) == 2:
            assert (tmp_path / "out/.part-1.parquet.claim").exists()
            signal.raise_signal(number)
        return real(*call)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "_of_texts", stops)
        ended = command_line(main, "predict", run.folder, folder, "--output-dir", tmp_path / "out")
    assert ended.code == code
    assert ended.err.splitlines()[-1] == f"stopped by {name}: the same command goes on from 1 of 4 parts"
    assert sorted(content_of(tmp_path / "out")) == [".part-0.parquet.json", ".part-1.parquet.json", "part-0.parquet"]


# Several workers


def killed_at(place, name, call=1):
    """A process that is killed at a call of a function."""
    real, calls = getattr(place, name), []

    def counted(*given, **options):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **options)

    setattr(place, name, counted)


def test_workers_that_are_killed_leave_the_same_files_in_the_end(run, folder, tmp_path):
    predict_parts(run.folder, folder, tmp_path / "whole")
    moments = {
        "claimed": (Plan, "mark"), "marked": (Classifier, "predict_file"), "half": (Classifier, "_of_texts"),
        "done": (Claim, "release"), "leaving": (Path, "rmdir", 6),
    }  # fmt: skip
    for name, moment in moments.items():
        out = tmp_path / name

        def work(out=out, moment=moment):
            killed_at(*moment)
            predict_parts(run.folder, folder, out)

        assert ended(forked(work, tmp_path / "log")) == -signal.SIGKILL, (tmp_path / "log").read_text()
        left = [path.name for path in out.iterdir() if path.name.endswith(".claim") or "nlptransfer-" in path.name]
        assert left, name
        predict_parts(run.folder, folder, out)
        assert content_of(out) == content_of(tmp_path / "whole"), name


def test_two_at_once_do_each_part_once(run, tmp_path):
    for number in range(24):
        write_part(tmp_path / "in" / f"part-{number}.parquet", 2)
    out, real = tmp_path / "out", Classifier.predict_file

    def work():
        def noted(classifier, source, output, **options):
            with (tmp_path / "done").open("a") as file:
                file.write(f"{os.getpid()} {source.name}\n")
            time.sleep(0.005)
            return real(classifier, source, output, **options)

        Classifier.predict_file = noted
        states = predict_parts(run.folder, tmp_path / "in", out)
        assert [state.status for state in states] == ["done"] * 24

    children = [forked(work, tmp_path / "log") for _ in range(3)]
    assert [*map(ended, children)] == [0, 0, 0], (tmp_path / "log").read_text()
    lines = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(name for _, name in lines) == sorted(path.name for path in (tmp_path / "in").iterdir())
    assert len({pid for pid, _ in lines}) == 3 and len(content_of(out)) == 48


def test_what_another_is_at_work_on_is_waited_for(run, folder, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "nlptransfer")
    monkeypatch.setattr(workers, "LOOKS_TO_SAY", 1)
    out = tmp_path / "out"
    _, failed, left = (hold(out / f"part-{number}.parquet", alive()) for number in range(3))
    broken = DataError("it is broken")

    def other():
        while not (out / "part-3.parquet").exists():
            time.sleep(0.01)
        plan = parts_of_plan.plan_parts(run.folder, folder, out)
        plan.mark(plan.parts[0])
        run.classifier.predict_file(folder / "part-0.parquet", out / "part-0.parquet")
        plan.mark_failed(plan.parts[1], broken)
        while "Waiting for" not in caplog.text:
            time.sleep(0.01)
        for file in (failed, left):
            claims.clear(file.parent)

    (thread := threading.Thread(target=other)).start()
    states = predict_parts(run.folder, folder, out)
    thread.join()
    assert [state.status for state in states] == ["done", "failed", "done", "done"] and states[1].note == str(broken)
    lines = [message for message in caplog.messages if "texts; " in message or "failed" in message]
    assert len(lines) == 3 and "part-3" in lines[0] and "A part has failed, and the others go on: it is broken" in lines
    (waits,) = [message for message in caplog.messages if "Waiting for" in message]
    assert (
        waits.startswith(f"Waiting for {out}")
        and f"which others work on: process {alive().pid} on {alive().host} " in waits
    )
    # That of the worker that has done its part without a word is gone too.
    assert len(content_of(out)) == 7
    # What has failed is tried again by the next call alone.
    assert [state.status for state in predict_parts(run.folder, folder, out)] == ["done"] * 4


def test_what_fails_just_before_it_is_claimed_is_not_tried_again(run, folder, tmp_path, monkeypatch):
    out, real = tmp_path / "out", claims.Claims.claimed

    def late(self, place):
        plan = parts_of_plan.plan_parts(run.folder, folder, out)
        (part,) = [one for one in plan.parts if one.claim == place]
        if part.output.name == "part-1.parquet" and plan.failure(part) is None:
            plan.mark_failed(part, DataError("it is broken"))
        return real(self, place)

    monkeypatch.setattr(claims.Claims, "claimed", late)
    states = predict_parts(run.folder, folder, out)
    assert [state.status for state in states] == ["done", "failed", "done", "done"]
    assert not (out / "part-1.parquet").exists()


def test_a_part_that_another_has_taken_over_is_left_to_it(run, folder, tmp_path, monkeypatch, caplog):
    out, real = tmp_path / "out", Classifier._of_texts

    def taken(*call):
        monkeypatch.setattr(Classifier, "_of_texts", real)
        (mine,) = (out / ".part-0.parquet.claim").iterdir()
        theirs = mine.rename(mine.with_name(claims._name_of(alive())))
        threading.Timer(0.2, theirs.unlink).start()
        return real(*call)

    monkeypatch.setattr(Classifier, "_of_texts", taken)
    assert {state.status for state in predict_parts(run.folder, folder, out)} == {"done"}
    assert (
        f"{out}/part-0.parquet: another worker has taken this part over, as it heard nothing of this one"
        in caplog.messages
    )
    assert len(content_of(out)) == 8


def test_processes_of_a_launcher_begin_with_other_parts_and_do_not_meet(
    command_line, run, folder, tmp_path, monkeypatch
):
    real, done = Classifier.predict_file, []

    def noted(classifier, source, output, **options):
        done.append(source.name[:6])
        return real(classifier, source, output, **options)

    monkeypatch.setattr(Classifier, "predict_file", noted)
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    (folder / "part-0.parquet").write_text("PAR1")
    ended = command_line(main, "predict", run.folder, folder, "--output-dir", tmp_path / "out")
    # The first process speaks.
    assert (ended.code, ended.out, ended.err) == (3, "", "")
    assert done == ["part-1", "part-0", "part-2", "part-3"] and not torch.distributed.is_initialized()
    with pytest.raises(SettingError, match="a launcher has started several already"):
        predict_parts(run.folder, folder, tmp_path / "out", processes=2)


@pytest.fixture
def forks(monkeypatch):
    """Processes of predict_parts import nothing anew, which takes seconds."""
    monkeypatch.setattr(workers, "get_context", lambda _: get_context("fork"))


def test_workers_of_a_machine_take_gpus_in_turn(run, folder, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(Classifier, "load", lambda model, base, device: taken.append(device))
    options = {"device": None, "base": None}
    for gpu, onnx in ((None, False), ("cuda", False), ("cuda", True)):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda gpu=gpu, **_: gpu and torch.device(gpu))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
        plan = replace(parts_of_plan.plan_parts(run.folder, folder, tmp_path / "out", **options), is_onnx=onnx)
        for number in range(3):
            plan.load(number)
    replace(plan, device="cuda:1").load(0)
    assert taken == ["cpu"] * 3 + ["cuda:0", "cuda:1", "cuda:0"] + [None] * 3 + ["cuda:1"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_one_of_two_processes_is_killed_and_the_other_does_it_all(run, folder, tmp_path, caplog, forks):
    caplog.set_level("INFO", "nlptransfer")
    out, killed, children = tmp_path / "out", [], psutil.Process().children()
    (folder / "part-2.parquet").write_text("PAR1")
    write_part(folder / "part-0.parquet", 20_000)

    def kill():
        while not (holder := claims.holder_of(out / ".part-0.parquet.claim")):
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGKILL)
        killed.append(holder.pid)

    (thread := threading.Thread(target=kill)).start()
    states = predict_parts(run.folder, folder, out, processes=2)
    thread.join()
    assert [state.status for state in states] == ["done", "done", "failed", "done"] and killed
    assert "A process has ended before its time (exit code SIGKILL), and the others go on" in caplog.messages
    assert any(message.startswith(f"{folder}/part-0.parquet: texts from column 'text'") for message in caplog.messages)
    assert any(message.startswith("A part has failed, and the others go on: ") for message in caplog.messages)
    assert any(message.startswith(f"{out}/part-0.parquet: 20,000 texts; ") for message in caplog.messages)
    alone = run.classifier.predict_file(folder / "part-0.parquet", tmp_path / "alone.parquet")
    assert (out / "part-0.parquet").read_bytes() == alone.read_bytes()
    assert len(content_of(out)) == 7 and psutil.Process().children() == children


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_all_end_before_their_time_are_an_error(run, folder, tmp_path, monkeypatch, forks):
    plan = parts_of_plan.plan_parts(run.folder, folder, tmp_path / "out")
    assert pickle.loads(pickle.dumps(plan)) == plan
    monkeypatch.setattr(Plan, "load", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"all have ended \(SIGKILL, SIGKILL\) after 0 of 4 parts: the"):
        predict_parts(run.folder, folder, tmp_path / "out", processes=2)
    monkeypatch.setattr(Plan, "load", lambda *_: sys.exit(7))
    with pytest.raises(TrainingError, match=r"all have ended \(exit code 7, exit code 7\)"):
        predict_parts(run.folder, folder, tmp_path / "out", processes=2)
    monkeypatch.undo()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_error_and_a_signal_end_all_processes(run, folder, tmp_path, monkeypatch, forks):
    children = psutil.Process().children()

    def refuses(*_):
        raise RunFolderError("it is not the one")

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "load", refuses)
        with pytest.raises(RunFolderError, match="it is not the one"):
            predict_parts(run.folder, folder, tmp_path / "out", processes=2)
    begun = [tmp_path / "out" / f".part-{number}.parquet.json" for number in (0, 1)]

    def sleeps(*_):
        (tmp_path / f"{os.getpid()}.sleeps").touch()
        time.sleep(60)

    monkeypatch.setattr(Classifier, "_of_texts", sleeps)

    def stop():
        while len([*tmp_path.glob("*.sleeps")]) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    timer = threading.Thread(target=stop)
    timer.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        predict_parts(run.folder, folder, tmp_path / "out", processes=2)
    timer.join()
    assert caught.value.__notes__ == ["the same command goes on from 0 of 4 parts"]
    assert {*content_of(tmp_path / "out")} == {marker.name for marker in begun}
    assert psutil.Process().children() == children
