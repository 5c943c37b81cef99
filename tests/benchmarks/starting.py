"""What a command costs before its work begins: whole processes, beside imports that nobody can do without.

python tests/benchmarks/starting.py [--times N] [--only NAME ...]

All commands of a figure are run in turn, N times, with their bytecode compiled, as installed packages have it. A figure
is the median of the ratios of one turn, of wall seconds and, as a shared machine makes these waver, of CPU seconds too.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

FILMS = Path(__file__).resolve().parents[2] / "data" / "films"
NLP = ["-m", "nlptransfer"]
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment in which the first turn compiles what the others read."""


@dataclass(frozen=True)
class Figure:
    """A command, and those whose times together it is measured by."""

    name: str
    command: list[str]
    peers: dict[str, list[str]]
    limit: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--only", action="append", choices=["help", "error", "predict", "probe"])
    args = parser.parse_args()
    table = Table("command", "seconds", "beside", "seconds ", "times as long", "in CPU seconds", "limit")
    with TemporaryDirectory() as place:
        for name, figure in figures(Path(place), args.only or ["help", "error", "predict", "probe"]).items():
            turns = [[measured(call) for call in (figure.command, *figure.peers.values())] for _ in range(args.times)]
            wall, cpu = (
                median(turn[0][kind] / sum(one[kind] for one in turn[1:]) for turn in turns) for kind in (0, 1)
            )
            seconds = [median(turn[number][0] for turn in turns) for number in range(1 + len(figure.peers))]
            beside = " + ".join(figure.peers)
            others = " + ".join(f"{one:.2f}" for one in seconds[1:])
            table.add_row(
                figure.name, f"{seconds[0]:.2f}", beside, others, f"{wall:.2f}", f"{cpu:.2f}", f"{figure.limit:g}"
            )
            print(f"{name}: {wall:.2f} times as long, {cpu:.2f} in CPU seconds, limit {figure.limit:g}", flush=True)
    Console(width=140).print(table)


def figures(folder: Path, names: list[str]) -> dict[str, Figure]:
    """Return the figures of these names, with what they need in a folder."""
    wrong, text = folder / "feedback.csv", folder / "text.txt"
    wrong.write_text("text,label\n" + "".join(f"text number {row},praise\n" for row in range(300)))
    text.write_text("a film that I would see again\n")
    probe = ["finetune", str(FILMS), "--route", "probe", "--output-dir", str(folder / "probe"), "--overwrite"]
    if "predict" in names:
        words = ["finetune", str(FILMS), "--route", "word2vec", "--output-dir", str(folder / "words"), "--no-report"]
        subprocess.run([sys.executable, *NLP, *words], check=True, capture_output=True)
    if "probe" in names:
        subprocess.run([sys.executable, *NLP, *probe], check=True, capture_output=True)
    reading = f"import pyarrow\nfrom nlptransfer.data import load_data\nload_data({str(wrong)!r})"
    auto = "from transformers import AutoModelForSequenceClassification"
    every = {
        "help": Figure("nlptransfer --help", [*NLP, "--help"], {"python -c pass": ["-c", "pass"]}, 8),
        "error": Figure(
            "nlptransfer finetune feedback.csv, whose 300 rows have one label",
            [*NLP, "finetune", str(wrong)],
            {"--help": [*NLP, "--help"], "import pyarrow, and reading": ["-c", reading]},
            1.5,
        ),
        "predict": Figure(
            "nlptransfer predict, one text by word2vec",
            [*NLP, "predict", str(folder / "words"), str(text)],
            {"import torch": ["-c", "import torch"]},
            1.3,
        ),
        "probe": Figure(
            "nlptransfer finetune data/films --route probe, features cached",
            [*NLP, *probe],
            {auto: ["-c", auto]},
            2.5,
        ),
    }
    return {name: figure for name, figure in every.items() if name in names}


def measured(arguments: list[str]) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a Python process, whether it fails or not."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=COMPILED, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
