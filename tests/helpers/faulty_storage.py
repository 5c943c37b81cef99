"""Commands that meet storage which is full, read-only, unreadable, or that takes no large files.

unshare -m python -m helpers.faulty_storage FOLDER NAME:FAULT..., with the folders remarks, films and encoder and
the file vectors.txt in it. Each gives a line of JSON, see :class:`Met`. Root is bound by permissions, too.
"""

import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers.runs import finetune
from nlptransfer.cli import main as nlptransfer
from nlptransfer.experiments import environment

SIZE = 2**20
"""Bytes of the disk."""
SLOW = ("onnx",)
"""Commands that are not tried a second time."""


@dataclass
class Met:
    """How a command ended that met a fault, and once more after that was gone."""

    code: int
    said: str
    """standard error"""
    left: list[str]
    """on the disk"""
    second_code: int | None
    """None where it was not tried"""
    second_said: str


def commands(folder: Path, out: Path) -> dict[str, list[object]]:
    """By name, what is given to nlptransfer to write below ``out``."""
    remarks, films, encoder, made = (folder / name for name in ("remarks", "films", "encoder", "made"))
    texts = films / "train.jsonl"
    quick = ["--set", "max_length=16", "--num-train-epochs", 2, "--learning-rate", 1e-2]
    into = ["--output-dir", out / "deep" / "run"]
    run = ["--no-report", *into]
    return {
        "word2vec": ["finetune", remarks, "--route", "word2vec", "--base", folder / "vectors.txt", *run],
        "probe": ["finetune", films, "--route", "probe", "--base", encoder, *run],
        "full": ["finetune", films, "--route", "full", "--base", encoder, *quick, *run],
        "lora": ["finetune", films, "--route", "lora", "--base", encoder, *quick, *run],
        "compare": ["compare", remarks, "--routes", "majority,tfidf", "--seeds", 1, *into],
        "predict csv": ["predict", made, texts, "--output", out / "deep" / "labels.csv"],
        "predict parquet": ["predict", made, texts, "--output", out / "deep" / "labels.parquet"],
        "evaluate": ["evaluate", made, films, "--output", out / "deep" / "scores.json"],
        "onnx": ["export", made, "--to", "onnx", *into],
        "merged": ["export", made, "--to", "merged", *into],
        "report": ["report", out / "made"],
        "train": ["vectors", "train", texts, out / "deep" / "vectors", "--min-count", 1],
        "train gz": ["vectors", "train", texts, out / "deep" / "vectors.txt.gz", "--min-count", 1],
        "distill": ["vectors", "distill", texts, out / "deep" / "vectors", "--base", encoder],
        "show": ["vectors", "show", folder / "vectors.txt"],
    }


def ended(arguments: list[object]) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    said = io.StringIO()
    sys.argv = ["nlptransfer", *map(str, arguments)]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            nlptransfer()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            code = 1
            traceback.print_exc()
    logging.getLogger("nlptransfer").handlers.clear()
    return code, said.getvalue()


def mount(options: str, place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)


@contextlib.contextmanager
def fault(kind: str, folder: Path) -> Iterator[None]:
    """Meet: "read-only", "pages N" (that are free on the disk), "bytes N" (the most in a file) or "unreadable PATH"."""
    disk, (what, _, value) = folder / "disk", kind.partition(" ")
    if what == "pages":
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - int(value) * 4096)
        yield
        (disk / "ballast").unlink()
    elif what == "read-only":
        mount("remount,ro", disk)
        yield
        mount("remount,rw", disk)
    elif what == "bytes":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), limits[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    else:
        mode = (folder / value).stat().st_mode
        (folder / value).chmod(0)
        yield
        (folder / value).chmod(mode)


def bind_root() -> None:
    """Give up what lets root pass by permissions: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for word in (0, 1):
        sets[word] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def met(folder: Path, name: str, kind: str) -> Met:
    disk, home = folder / "disk", os.environ["HF_HOME"]
    mount(f"size={SIZE}", disk)
    is_cache = kind.startswith("cache ")
    arguments = commands(folder, folder / name if is_cache else disk)[name]
    if is_cache:
        os.environ["HF_HOME"] = str(disk)
    if name == "report":
        shutil.copytree(folder / "made", disk / "made", ignore=lambda *_: ["model"])
    with fault(kind.removeprefix("cache "), folder):
        code, said = ended(arguments)
        left = sorted(path.relative_to(disk).as_posix() for path in disk.rglob("*") if path.name != "ballast")
    mount("remount,size=64m", disk)
    os.environ["HF_HOME"] = home
    second = (None, "") if name in SLOW or kind.startswith("unreadable ") else ended(arguments)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return Met(code, said, left, *second)


def main(folder: Path, *plan: str) -> None:
    environment.SPEED_SECONDS = 0.0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    finetune(folder / "films", route="lora", base=str(folder / "encoder"), output_dir=folder / "made")
    (folder / "disk").mkdir()
    bind_root()
    gc.freeze()
    for line in plan:
        print(json.dumps([line, asdict(met(folder, *line.split(": ")))]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
