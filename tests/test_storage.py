"""Storage that is full, read-only or unreadable: one line, exit code 2, nothing half, and the same command goes on."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import Error, copytree, which

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models

from helpers.corpora import texts_of, write_splits
from helpers.encoders import SIZES, make_base
from helpers.faulty_storage import Met
from helpers.folders import ROOT
from nlptransfer.errors import DataError, StorageError
from nlptransfer.storage import storage_errors

UNSHARE = ["unshare", "-m"]
MAY_MOUNT = which("unshare") and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
ROOM = "make room there or name another place, and give the same command again"
FULL = f"No space left on device: {ROOM}"
PARTLY = f"only a part of it could be written: {ROOM}"
LARGE = "File too large: raise the limit of a file's size (ulimit -f) or name another place"
READ_ONLY = "Read-only file system: change its permissions or name another place"
DENIED = "cannot be read: Permission denied"
# Command and fault; the place that its one line names, and what it says of it.
REFUSED = {
    "probe: pages 6": ("disk/deep/run/model: cannot be written", FULL),
    "full: pages 52": ("disk/deep/run", FULL),
    "lora: pages 44": ("disk/deep/run/checkpoints: cannot be written", PARTLY),
    "compare: pages 2": ("disk/deep/run/comparison.json: cannot be written", FULL),
    "predict csv: pages 0": ("disk/deep/labels.csv: cannot be written", FULL),
    "predict parquet: bytes 1000": ("disk/deep/labels.parquet: cannot be written", LARGE),
    "evaluate: pages 0": ("disk/deep/scores.json: cannot be written", FULL),
    "onnx: bytes 6000": ("disk/deep/run: cannot be written", LARGE),
    "merged: read-only": ("disk/deep/run: cannot be written", READ_ONLY),
    "report: pages 3": ("disk/made/report.html: cannot be written", FULL),
    "train: pages 2": ("disk/deep/vectors: cannot be written", FULL),
    "train gz: bytes 500": ("disk/deep/vectors.txt.gz: cannot be written", LARGE),
    "distill: read-only": ("disk/deep/vectors: cannot be written", READ_ONLY),
    "compare: unreadable remarks": ("remarks", DENIED),
    "compare: unreadable remarks/test.jsonl": ("remarks/test.jsonl", DENIED),
    "word2vec: unreadable vectors.txt": ("vectors.txt", DENIED),
    "show: unreadable vectors.txt": ("vectors.txt", DENIED),
    "probe: unreadable encoder": ("encoder", DENIED),
    "probe: unreadable encoder/config.json": ("encoder", DENIED),
    "evaluate: unreadable made/model": ("made", DENIED),
    "evaluate: unreadable made/model/nlptransfer.json": ("made/model/nlptransfer.json", DENIED),
}
WITHOUT_CACHE = ["word2vec: cache read-only", "lora: cache read-only", "distill: cache pages 3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, remarks_folder: Path, vectors_file: Path) -> Path:
    place = tmp_path_factory.mktemp("storage")
    make_base(place / "encoder", "bert", SIZES | {"num_hidden_layers": 2})
    write_splits(place / "films", {"train": texts_of(130, 0), "validation": texts_of(40, 1), "test": texts_of(20, 2)})
    copytree(remarks_folder, place / "remarks")
    (place / "vectors.txt").write_bytes(vectors_file.read_bytes())
    return place


@pytest.fixture(scope="module")
def met(folder: Path) -> dict[str, Met]:
    command = [*UNSHARE, sys.executable, "-m", "helpers.faulty_storage", folder, *REFUSED, *WITHOUT_CACHE]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=True)
    return {name: Met(**content) for name, content in map(json.loads, done.stdout.splitlines())}


needs_mounts = pytest.mark.skipif(not MAY_MOUNT, reason="no file system can be mounted here: unshare -m is refused")


@needs_mounts
@pytest.mark.parametrize("name", REFUSED)
def test_one_line_and_nothing_half_and_then_the_same_command_goes_on(
    met: dict[str, Met], folder: Path, name: str
) -> None:
    place, reason = REFUSED[name]
    ended = met[name]
    *_, line = ended.said.splitlines()
    assert line.startswith(f"error: {folder / place}") and reason in line and "Traceback" not in ended.said
    assert ended.code == 2 and ended.second_code in (0, None), ended.second_said
    assert not [path for path in ended.left if "nlptransfer-" in path or "writing" in path]
    if not name.startswith(("word2vec", "probe", "full", "lora", "compare", "report")):
        assert ended.left in ([], ["deep"])


@needs_mounts
@pytest.mark.parametrize("name", WITHOUT_CACHE)
def test_a_cache_that_cannot_be_written_is_done_without(met: dict[str, Met], name: str) -> None:
    ended = met[name]
    assert (ended.code, ended.second_code) == (0, 0), ended.said
    assert not [path for path in ended.left if "." in path]


@needs_mounts
def test_a_command_says_that_a_cache_cannot_be_written_at_once_and_at_its_end(met: dict[str, Met]) -> None:
    line = "The cache cannot be written, so each command computes anew what it would hold"
    assert [met[name].said.count(line) for name in WITHOUT_CACHE] == [2, 0, 0]
    assert "encoder: where it lies cannot be noted" in met["lora: cache read-only"].said
    # What is not in the cache is not computed twice by one command either.
    assert met["distill: cache pages 3"].said.count("makes vectors for") == 1


# What libraries say


def refuse(number: int, *names: object) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        raise OSError(number, os.strerror(number), *(path / str(name) for name in names))

    return work


def raising(error: Exception) -> Callable[[Path], None]:
    def work(_: Path) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (refuse(errno.ENOSPC), "PLACE: cannot be written: No space left on device: make room there"),
        (refuse(errno.EDQUOT, "x"), "PLACE: cannot be written: Disk quota exceeded: make room there"),
        (refuse(errno.EIO, "x"), "PLACE: cannot be written: Input/output error: look after the disk"),
        (refuse(errno.EACCES, "/other/file"), "/other/file: Permission denied: change its permissions"),
        (lambda path: (path / "x").write_text(""), "PLACE: cannot be written: Not a directory: a file is in the"),
        (lambda path: path.with_name("n" * 300).touch(), f"/{'n' * 300}: File name too long: take a shorter name"),
        (lambda path: path.parent.read_text(), "PLACE: cannot be written: Is a directory: a folder is in the place"),
        (
            lambda path: Tokenizer(models.BPE()).save(str(path.parent)),
            "PLACE: cannot be written: Is a directory: a folder is in the place",
        ),
        (
            raising(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")),
            "PLACE: cannot be written: No space left on device: make room there",
        ),
        (
            raising(Error([("a", "b", "[Errno 28] No space left on device: 'b'")])),
            "PLACE: cannot be written: No space left on device: make room there",
        ),
        (raising(OSError("4096 requested and 128 written")), "PLACE: cannot be written: only a part of it could be"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, work: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StorageError) as caught, storage_errors(path):
        work(path)
    message = str(caught.value)
    assert "\n" not in message and says.replace("PLACE", str(path)) in message


def test_a_full_disk_is_seen_through_torch_and_numpy() -> None:
    for write in (lambda full: np.save(full, np.zeros(2**16)), lambda full: torch.save(torch.zeros(2**16), full)):
        refused = pytest.raises(StorageError, match=r"cannot be written: (only a part of it|No space left)")
        with refused, storage_errors("/dev/full"), open("/dev/full", "wb") as full:
            write(full)


@pytest.mark.parametrize("error", [ValueError("x"), DataError("[Errno 28]"), ConnectionError("reset"), KeyError(28)])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("file"):
        raise error
    assert caught.value is error


def test_a_missing_file_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path, "read"):
        (tmp_path / "none").read_text()
