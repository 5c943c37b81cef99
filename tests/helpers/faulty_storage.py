"""Commands whose output goes to a place that is full, read-only, or that takes no large files.

unshare -m python -m helpers.faulty_storage FOLDER, with the folders remarks and encoder and the file vectors.txt in it.
One line of JSON each: command, fault, exit code, standard error, what is left, and the exit code when there is room.
"""

import contextlib
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
from pathlib import Path

from nlptransfer.cli import main as nlptransfer
from nlptransfer.experiments import environment

DISK = 2**20


def commands(folder: Path, out: Path) -> dict[str, list[object]]:
    """By name, what is given to nlptransfer to write below ``out``."""
    remarks, texts, encoder = folder / "remarks", folder / "remarks" / "train.jsonl", folder / "encoder"
    model, run = folder / "made" / "model", ["--num-train-epochs", 2, "--set", "max_length=16"]
    into = ["--output-dir", out / "a" / "run"]
    return {
        "word2vec": ["finetune", remarks, "--route", "word2vec", "--base", folder / "vectors.txt", *into],
        "probe": ["finetune", remarks, "--route", "probe", "--base", encoder, *into],
        "full": ["finetune", remarks, "--route", "full", "--base", encoder, *run, *into],
        "lora": ["finetune", remarks, "--route", "lora", "--base", encoder, *run, *into],
        "compare": ["compare", remarks, "--routes", "majority,tfidf", "--seeds", 1, *into],
        "predict csv": ["predict", model, texts, "--output", out / "a" / "labels.csv"],
        "predict parquet": ["predict", model, texts, "--output", out / "a" / "labels.parquet"],
        "evaluate": ["evaluate", model, remarks, "--output", out / "a" / "scores.json"],
        "onnx": ["export", folder / "made", "--to", "onnx", *into],
        "merged": ["export", folder / "made", "--to", "merged", *into],
        "report": ["report", out / "made"],
        "train": ["vectors", "train", texts, out / "a" / "vectors", "--min-count", 1],
        "train txt": ["vectors", "train", texts, out / "a" / "vectors.txt.gz", "--min-count", 1],
        "distill": ["vectors", "distill", texts, out / "a" / "vectors", "--base", encoder],
    }


def ended(arguments: list[object]) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    log, told = logging.getLogger("nlptransfer"), io.StringIO()
    sys.argv = ["nlptransfer", *map(str, arguments)]
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            nlptransfer()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            code = 1
            traceback.print_exc()
    log.handlers.clear()
    return code, told.getvalue()


def mount(options: str, place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)


@contextlib.contextmanager
def fault(kind: str, disk: Path) -> Iterator[None]:
    if kind.startswith("room"):
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - int(kind.split()[1]) * 4096)
        yield
        (disk / "ballast").unlink()
    elif kind == "read-only":
        mount("remount,ro", disk)
        yield
        mount("remount,rw", disk)
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(kind.split()[1]), limits[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def main(folder: Path, *plan: str) -> None:
    environment.SPEED_SECONDS = 0.0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    gc.freeze()
    disk = folder / "disk"
    disk.mkdir()
    for line in plan:
        name, kind = line.split(": ")
        mount(f"size={DISK}", disk)
        if name == "report":
            shutil.copytree(folder / "made", disk / "made", ignore=lambda *_: ["report.html", "model"])
        with fault(kind, disk):
            code, told = ended(commands(folder, disk)[name])
        left = sorted(path.relative_to(disk).as_posix() for path in disk.rglob("*"))
        mount("remount,size=64m", disk)
        again, what = ended(commands(folder, disk)[name])
        subprocess.run(["umount", str(disk)], check=True)
        print(json.dumps([name, kind, code, told, left, again, what if again else ""]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
