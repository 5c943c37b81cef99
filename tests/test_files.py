import json
import os
import signal
import subprocess
import sys

import pytest

from nlptransfer.cache import cache_folder
from nlptransfer.errors import SettingError
from nlptransfer.files import (
    atomic_file,
    atomic_folder,
    named_path,
    no_empty_folder,
    read_json,
    scratch_folder,
    size_mb,
    write_json,
)

WRITING = """
import sys
from nlptransfer.files import atomic_file, atomic_folder, scratch_folder
with atomic_file("a.txt") as file, atomic_folder("model") as folder, scratch_folder("graph") as scratch:
    earlier = file.with_name(f"{file.name}.earlier")
    for path in (file, earlier, folder / "weights", scratch / "half"):
        path.write_text("half")
    print(flush=True)
    sys.stdin.read()
    earlier.unlink()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_appears_whole_with_the_usual_mode(tmp_path):
    with atomic_file(tmp_path / "deep" / "a.txt") as new:
        new.write_text("new")
        assert not (tmp_path / "deep" / "a.txt").exists()
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert (tmp_path / "deep" / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_atomic_file_leaves_the_old_one_on_an_exception(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError, match="midway"), atomic_file(tmp_path / "a.txt") as new:
        new.write_text("half")
        raise RuntimeError("midway")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_folder_takes_the_place_of_the_old_one(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "model") as new:
            (new / text).write_text(text)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["two"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_atomic_folder_gives_private_files_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model") as new:
            (new / "deep").mkdir(mode=0o700)
            (new / "deep" / "weights").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "model" / "deep" / "weights").parents[1::-1]]
    assert modes == ["0o750", "0o750"] and oct((tmp_path / "model/deep/weights").stat().st_mode)[-3:] == "640"


def test_atomic_folder_leaves_the_old_one_on_an_exception(tmp_path):
    with atomic_folder(tmp_path / "model") as new:
        (new / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as new:
        (new / "half").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt("disk")])
def test_atomic_folder_puts_the_old_one_back_when_the_last_step_fails(error, tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as new:
        (new / "old").write_text("old")
    real, calls = os.replace, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(type(error), match="disk"), atomic_folder(tmp_path / "model") as new:
        (new / "new").write_text("new")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, alive = (subprocess.Popen([sys.executable, "-c", WRITING], cwd=tmp_path, **pipes) for _ in range(2))
    for process in (killed, alive):
        process.stdout.readline()
    (tmp_path / ".a.txt.swp").touch()
    assert len(names(tmp_path)) == 9
    killed.kill()
    # It is there until its parent has asked how it ended, but runs no more.
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    with atomic_file(tmp_path / "other.txt"):
        left = names(tmp_path)
    assert len(left) == 6 and not [name for name in left if f"-{killed.pid}-" in name]
    killed.communicate()
    alive.communicate()
    assert (killed.returncode, alive.returncode) == (-signal.SIGKILL, 0)
    assert names(tmp_path) == [".a.txt.swp", "a.txt", "model", "other.txt"]
    assert (tmp_path / "model" / "weights").read_text() == "half"


def test_what_a_process_of_another_machine_or_start_left(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "elsewhere")
        with scratch_folder(tmp_path / "a") as scratch:
            of_another_machine = scratch.name
    (tmp_path / of_another_machine).mkdir()
    with scratch_folder(tmp_path / "a") as scratch:
        begin = scratch.name.rpartition("-")[0]
    # The same process id, but of a process that was started before.
    earlier = begin.rpartition("-")[0] + "-1000000000-abcdefgh"
    (tmp_path / earlier).touch()
    (tmp_path / f"{begin}-abcdefgh").touch()
    with scratch_folder(tmp_path / "b"):
        assert names(tmp_path)[:-1] == sorted([of_another_machine, f"{begin}-abcdefgh"])


def test_a_folder_that_was_killed_on_its_way_to_its_place_gets_there(tmp_path):
    with scratch_folder(tmp_path / "model") as scratch:
        dead = tmp_path / (scratch.name.rpartition("-")[0].rpartition("-")[0] + "-1000000000-abcdefgh")
    for name, text in (("model", "new"), (".old", "old")):
        (dead / name).mkdir(parents=True)
        (dead / name / "weights").write_text(text)
    write_json(tmp_path / "other.json", 1)
    assert names(tmp_path) == ["model", "other.json"] and (tmp_path / "model" / "weights").read_text() == "new"


def test_long_names_are_written(tmp_path):
    for name in ("n" * 255, "文" * 85, "\N{BOOKS}" * 63):
        with atomic_file(tmp_path / name) as new:
            new.write_text("new")
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / name):
            raise RuntimeError
    assert len(names(tmp_path)) == 3


def test_no_folder_stays_that_an_error_left_empty(tmp_path):
    full, old = tmp_path / "full", tmp_path / "old"
    old.mkdir()
    for folder, stays in ((tmp_path / "new", False), (full, True), (old, True)):
        with pytest.raises(KeyboardInterrupt), no_empty_folder(folder):
            folder.mkdir(exist_ok=True)
            if folder == full:
                (folder / "part").touch()
            raise KeyboardInterrupt
        assert folder.exists() == stays
    with no_empty_folder(tmp_path / "quiet"):
        (tmp_path / "quiet").mkdir()
    assert (tmp_path / "quiet").exists()


def test_json_keeps_any_text_and_reads_back(tmp_path):
    value = {"é": [1, 2.5, None, True], "文": "x\n"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "文" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_not_and_keeps_the_old_file(tmp_path, number):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": number})
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert names(tmp_path) == ["a.json"]


def test_size_counts_a_file_and_a_folder_with_all_below(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(bytes(2**20))
    (tmp_path / "deep" / "b").write_bytes(bytes(2**19))
    assert size_mb(tmp_path / "a") == 1
    assert size_mb(tmp_path) == 1.5


def test_cache_lives_where_hugging_face_keeps_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cache_folder("features") == tmp_path / "nlptransfer" / "features"
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("features") == tmp_path / "xdg" / "huggingface" / "nlptransfer" / "features"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-that-name/x"])
def test_a_name_that_is_no_path(name):
    if name.startswith("~"):
        assert str(named_path(name)) == name
        return
    with pytest.raises(SettingError, match=r"expected a path or a name, found .*: check the name"):
        named_path(name)
